#include "core/os.h"

#include "core/os_internal.h"
#include "core/unfinished.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace quantbench::os {
namespace {

void fill(FileStatus* status, const struct stat& s) {
  *status = {s.st_size, S_ISREG(s.st_mode), S_ISDIR(s.st_mode), S_ISLNK(s.st_mode)};
}

System default_system;
System* current_system = &default_system;  // replaced only by ScopedSystem

// What drop_unfinished() has to know: members of objects that live. Nothing here asks for memory; what finds no place
// is not known.
template <typename Member>
class Known {
 public:
  void add(Member* member) {
    for (auto& place : places_) {
      Member* none = nullptr;
      if (place.compare_exchange_strong(none, member)) return;
    }
  }
  void forget(Member* member) {
    for (auto& place : places_) {
      Member* expected = member;
      if (place.compare_exchange_strong(expected, nullptr)) return;
    }
  }
  template <typename Do>
  void each(Do with) {
    for (auto& place : places_) {
      if (Member* const member = place.exchange(nullptr)) with(*member);
    }
  }

 private:
  std::array<std::atomic<Member*>, 256> places_{};
};
constinit Known<const std::string> temporary_files;
constinit Known<const std::vector<std::string>> made_folders;

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

[[noreturn]] void fail_disk(const char* doing, const std::string& path, int error) {
  const char* advice = error == ENOSPC || error == EDQUOT  ? "free some space or choose another folder"
                       : error == EACCES || error == EPERM ? "check the permissions"
                       : error == EROFS                    ? "choose a folder that can be written"
                       : error == ENOTDIR ? "a part of this path is a file, not a folder: choose another path"
                       : error == ENOENT || error == ENAMETOOLONG ? "check the path"
                       : error == EMFILE                          ? kMoreOpenFiles
                                                                  : "check the disk and try again";
  fail(ErrorKind::disk, "cannot {} '{}': {} (errno {}); {}", doing, path, std::strerror(error), error, advice);
}

namespace {

void write_all(int fd, const std::string& path, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t n = system().write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail_disk("write", path, n == 0 ? EIO : errno);
    data = data.subspan(static_cast<size_t>(n));
  }
}

}  // namespace

void sync_folder(const std::string& path) {
  const std::string folder = folder_of(path);
  const int fd = system().open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd < 0) fail_disk("open folder", folder, errno);
  const int synced = system().fsync(fd);
  const int error = errno;
  system().close(fd);
  if (synced != 0 && error != EINVAL && error != EROFS) fail_disk("sync folder", folder, error);
}

int System::open(const char* path, int flags, unsigned mode) { return ::open(path, flags, mode); }
ssize_t System::read(int fd, void* data, size_t bytes) { return ::read(fd, data, bytes); }
ssize_t System::pread(int fd, void* data, size_t bytes, int64_t offset) { return ::pread(fd, data, bytes, offset); }
ssize_t System::write(int fd, const void* data, size_t bytes) { return ::write(fd, data, bytes); }
ssize_t System::pwrite(int fd, const void* data, size_t bytes, int64_t offset) {
  return ::pwrite(fd, data, bytes, offset);
}
int System::truncate(int fd, int64_t bytes) { return ::ftruncate(fd, bytes); }
int System::fsync(int fd) { return ::fsync(fd); }
int System::close(int fd) { return ::close(fd); }
int System::rename(const char* from, const char* to) { return ::rename(from, to); }
int System::rename_new(const char* from, const char* to) {
  const int result = ::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
  if (result == 0 || (errno != EINVAL && errno != ENOSYS)) return result;
  // A file system that cannot: nearly as good.
  if (::access(to, F_OK) == 0) return errno = EEXIST, -1;
  return ::rename(from, to);
}
int System::unlink(const char* path) { return ::unlink(path); }
int System::symlink(const char* target, const char* path) { return ::symlink(target, path); }
int System::mkdir(const char* path, unsigned mode) { return ::mkdir(path, mode); }
int System::rmdir(const char* path) { return ::rmdir(path); }
int System::lock(int fd) { return ::flock(fd, LOCK_EX | LOCK_NB); }
int System::status(const char* path, bool follow_symlinks, FileStatus* status) {
  struct stat s;
  const int result = follow_symlinks ? ::stat(path, &s) : ::lstat(path, &s);
  if (result == 0) fill(status, s);
  return result;
}
int System::status(int fd, FileStatus* status) {
  struct stat s;
  const int result = ::fstat(fd, &s);
  if (result == 0) fill(status, s);
  return result;
}
void* System::map(size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : data;
}
int System::unmap(void* data, size_t bytes) { return ::munmap(data, bytes); }

System& system() { return *current_system; }
ScopedSystem::ScopedSystem(System& replacement) : previous_(current_system) { current_system = &replacement; }
ScopedSystem::~ScopedSystem() { current_system = previous_; }

File File::open(const std::string& path) {
  // Without waiting: a FIFO would otherwise wait for a writer before it can be refused.
  const int fd = system().open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
  if (fd < 0) fail_disk("open", path, errno);
  FileStatus status;
  if (system().status(fd, &status) != 0) {
    const int error = errno;
    system().close(fd);
    fail_disk("stat", path, error);
  }
  if (!status.is_regular) {
    system().close(fd);
    fail(ErrorKind::disk, "cannot read '{}': expected a regular file, found {}; check the path", path,
         status.is_directory ? "a folder" : "a special file");
  }
  return File(path, fd, status.bytes);
}
File::File(File&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), bytes_(other.bytes_) {}
File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) system().close(fd_);
    path_ = std::move(other.path_);
    fd_ = std::exchange(other.fd_, -1);
    bytes_ = other.bytes_;
  }
  return *this;
}
File::~File() {
  if (fd_ >= 0) system().close(fd_);
}

void File::read_at(int64_t offset, std::span<std::byte> into) const {
  const size_t wanted = into.size();
  const int64_t start = offset;
  while (!into.empty()) {
    const ssize_t n = system().pread(fd_, into.data(), into.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_disk("read", path_, errno);
    if (n == 0) {
      fail(ErrorKind::disk,
           "'{}' ended early: expected {} bytes from offset {}, found {} (it had {} bytes when opened); the file was "
           "truncated or changed while being read, copy or download it again",
           path_, wanted, start, offset - start, bytes_);
    }
    into = into.subspan(static_cast<size_t>(n));
    offset += n;
  }
}

std::string read_file(const std::string& path, int64_t limit) {
  const File file = File::open(path);
  if (file.bytes() > limit) {
    fail(ErrorKind::bad_model, "'{}' has {} bytes, more than the {} that such a file may have; is it the right file?",
         path, file.bytes(), limit);
  }
  std::string content(static_cast<size_t>(file.bytes()), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(content)));
  return content;
}

std::optional<std::string> read_small_file(const std::string& path) {
  const int fd = system().open(path.c_str(), O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return std::nullopt;
  std::string content;
  char part[4096];
  ssize_t n;
  while ((n = system().read(fd, part, sizeof part)) > 0) content.append(part, static_cast<size_t>(n));
  system().close(fd);
  if (n < 0) return std::nullopt;
  while (!content.empty() && content.back() == '\n') content.pop_back();
  return content;
}

bool write_small_file(const std::string& path, std::string_view content) {
  const int fd = system().open(path.c_str(), O_WRONLY | O_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool written = system().write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size());
  return system().close(fd) == 0 && written;
}

OutputFile::OutputFile(std::string path) : path_(std::move(path)) {
  static std::atomic<unsigned> serial{0};
  temporary_ = fmt::format("{}.{}.{}.tmp", path_, ::getpid(), serial++);
  fd_ = system().open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_disk("create", temporary_, errno);
  temporary_files.add(&temporary_);
}
OutputFile::~OutputFile() {
  temporary_files.forget(&temporary_);
  if (fd_ >= 0) system().close(fd_);
  if (!temporary_.empty()) system().unlink(temporary_.c_str());
}
void OutputFile::write(std::span<const std::byte> data) { write_all(fd_, temporary_, data); }
void OutputFile::close_durably() {
  if (system().fsync(fd_) != 0) fail_disk("sync", temporary_, errno);
  if (system().close(std::exchange(fd_, -1)) != 0) fail_disk("close", temporary_, errno);
}
bool OutputFile::commit_new() {
  close_durably();
  if (system().rename_new(temporary_.c_str(), path_.c_str()) != 0) {
    if (errno == EEXIST) return false;
    fail_disk("rename into place", path_, errno);
  }
  temporary_.clear();
  sync_folder(path_);
  return true;
}
void OutputFile::commit() {
  close_durably();
  if (system().rename(temporary_.c_str(), path_.c_str()) != 0) fail_disk("rename into place", path_, errno);
  temporary_.clear();
  sync_folder(path_);
}

void write_file_atomically(const std::string& path, std::string_view content) {
  OutputFile file(path);
  file.write(std::as_bytes(std::span(content)));
  file.commit();
}
bool write_new_file_atomically(const std::string& path, std::string_view content) {
  OutputFile file(path);
  file.write(std::as_bytes(std::span(content)));
  return file.commit_new();
}

void append_to_file(const std::string& path, std::string_view content) {
  const int fd = system().open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) fail_disk("open", path, errno);
  try {
    write_all(fd, path, std::as_bytes(std::span(content)));
  } catch (const Error&) {
    system().close(fd);
    throw;
  }
  if (system().close(fd) != 0) fail_disk("close", path, errno);
}

void drop_unfinished() noexcept {
  temporary_files.each([](const std::string& path) {
    if (!path.empty()) system().unlink(path.c_str());
  });
  made_folders.each([](const std::vector<std::string>& made) {
    for (auto folder = made.rbegin(); folder != made.rend(); ++folder) system().rmdir(folder->c_str());
  });
}

OutputFolder::OutputFolder(const std::string& path) : made_(make_directories(path)) {
  made_folders.add(&made_);
  fd_ = system().open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  // Some network file systems know no locks: then nobody can be seen.
  if (fd_ < 0 || system().lock(fd_) == 0 || errno != EWOULDBLOCK) return;
  system().close(fd_);
  made_folders.forget(&made_);
  fail(ErrorKind::usage, "{}: another process is writing into this folder; choose another output folder", path);
}
OutputFolder::~OutputFolder() {
  made_folders.forget(&made_);
  for (auto folder = made_.rbegin(); folder != made_.rend(); ++folder) system().rmdir(folder->c_str());
  if (fd_ >= 0) system().close(fd_);
}

std::optional<FileStatus> status(const std::string& path, bool follow_symlinks) {
  FileStatus result;
  if (system().status(path.c_str(), follow_symlinks, &result) != 0) return std::nullopt;
  return result;
}
void remove_file(const std::string& path) {
  if (system().unlink(path.c_str()) == 0) {
    sync_folder(path);
  } else if (errno != ENOENT) {
    fail_disk("remove", path, errno);
  }
}
bool exists(const std::string& path) { return status(path).has_value(); }
bool is_directory(const std::string& path) {
  const auto found = status(path);
  return found && found->is_directory;
}

std::vector<std::string> list_directory(const std::string& path) {
  DIR* folder = ::opendir(path.c_str());
  if (!folder) fail_disk("list", path, errno);
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(folder)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  ::closedir(folder);
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> make_directories(const std::string& path) {
  std::vector<std::string> made;
  for (size_t end = 0; end != std::string::npos;) {
    end = path.find('/', end + 1);
    const std::string part = path.substr(0, end);
    if (part.empty() || is_directory(part)) continue;
    if (system().mkdir(part.c_str(), 0755) == 0) {
      made.push_back(part);
    } else if (errno != EEXIST) {
      fail_disk("create folder", part, errno);
    }
  }
  if (!is_directory(path)) {
    fail(ErrorKind::disk,
         "cannot create folder '{}': something that is not a folder is in the way; remove it or "
         "choose another path",
         path);
  }
  return made;
}

std::string real_path(const std::string& path) {
  char* resolved = ::realpath(path.c_str(), nullptr);
  if (!resolved) fail_disk("resolve", path, errno);
  std::string result = resolved;
  ::free(resolved);
  return result;
}

std::string executable_path() {
  char path[PATH_MAX];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof path);
  if (n <= 0) fail_disk("resolve", "/proc/self/exe", errno);
  return std::string(path, static_cast<size_t>(n));
}

std::string build_id() {
  std::string id;
  // The program itself is the first that is listed.
  const auto visit = [](dl_phdr_info* program, size_t, void* into) {
    for (int i = 0; i < program->dlpi_phnum; ++i) {
      const ElfW(Phdr)& segment = program->dlpi_phdr[i];
      if (segment.p_type != PT_NOTE) continue;
      const auto padded = [](size_t bytes) { return (bytes + 3) / 4 * 4; };
      // An address is a number there. NOLINTNEXTLINE(performance-no-int-to-ptr)
      const auto* at = reinterpret_cast<const unsigned char*>(program->dlpi_addr + segment.p_vaddr);
      for (size_t left = segment.p_memsz; left >= sizeof(ElfW(Nhdr));) {
        ElfW(Nhdr) note;
        std::memcpy(&note, at, sizeof note);
        const size_t description = sizeof note + padded(note.n_namesz), bytes = description + padded(note.n_descsz);
        if (bytes > left) break;
        constexpr char kOwner[] = "GNU";  // its end counts
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof kOwner &&
            std::memcmp(at + sizeof note, kOwner, sizeof kOwner) == 0) {
          auto& hex = *static_cast<std::string*>(into);
          for (size_t j = 0; j < note.n_descsz; ++j) hex += fmt::format("{:02x}", at[description + j]);
          return 1;
        }
        at += bytes;
        left -= bytes;
      }
    }
    return 1;  // libraries do not count
  };
  ::dl_iterate_phdr(visit, &id);
  return id;
}

std::optional<std::string> cache_folder() {
  const auto variable = [](const char* name) {
    auto value = environment(name);
    return value && value->empty() ? std::nullopt : value;
  };
  const auto is_of_home = [](const std::string& path) { return path == "~" || path.starts_with("~/"); };
  const auto caches = variable("XDG_CACHE_HOME"), home = variable("HOME");
  if (!home && (!caches || is_of_home(*caches))) return std::nullopt;
  return caches ? expand_home(*caches) : *home + "/.cache";
}

std::string expand_home(const std::string& path) {
  const auto home = environment("HOME");
  if (!home || home->empty() || (path != "~" && !path.starts_with("~/"))) return path;
  return *home + path.substr(1);
}

uint32_t process_id() { return static_cast<uint32_t>(::getpid()); }

std::optional<std::string> environment(const char* name) {
  const char* value = std::getenv(name);
  if (!value) return std::nullopt;
  return value;
}

Block::Block(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  data_ = static_cast<std::byte*>(system().map(bytes));
  if (!data_) {
    fail(ErrorKind::out_of_memory,
         "cannot take {} bytes ({:.2f} GiB) of memory: {}; use a smaller model or precision, or free memory", bytes,
         static_cast<double>(bytes) / (1 << 30), std::strerror(errno));
  }
  constexpr size_t kHugePage = size_t{2} << 20;
  if (bytes >= 2 * kHugePage) ::madvise(data_, bytes, MADV_HUGEPAGE);  // fewer page faults and TLB misses
}
Block::Block(Block&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
Block& Block::operator=(Block&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
Block::~Block() {
  if (data_) system().unmap(data_, bytes_);
}

std::optional<Library> Library::open(const std::string& name) {
  void* const handle = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return std::nullopt;
  return Library(handle);
}
Library::Library(Library&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
Library& Library::operator=(Library&& other) noexcept {
  std::swap(handle_, other.handle_);
  return *this;
}
Library::~Library() {
  if (handle_) ::dlclose(handle_);
}
void* Library::symbol(const char* name) const { return ::dlsym(handle_, name); }
std::string Library::path() const {
  const link_map* map = nullptr;
  if (::dlinfo(handle_, RTLD_DI_LINKMAP, &map) != 0 || !map || !exists(map->l_name)) return "";
  return real_path(map->l_name);
}

int64_t steady_now_ns() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::string utc_now() {
  const time_t now = ::time(nullptr);
  tm parts;
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace quantbench::os
