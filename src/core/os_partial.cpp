// Files that several processes fill, one after another, and what they need for it: locks and links.
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "core/os.h"
#include "core/os_internal.h"

namespace quantbench::os {

PartialFile::PartialFile(std::string path) : path_(std::move(path)) {
  fd_ = system().open(path_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_disk("create", path_, errno);
  FileStatus found;
  const int error = system().status(fd_, &found) != 0 ? errno : found.is_regular ? 0 : EINVAL;
  bytes_ = found.bytes;
  if (error == 0) return;
  system().close(fd_);
  fail_disk("go on with", path_, error);
}
PartialFile::~PartialFile() {
  if (fd_ >= 0) system().close(fd_);
}

void PartialFile::read_at(int64_t offset, std::span<std::byte> into) const {
  while (!into.empty()) {
    const ssize_t n = system().pread(fd_, into.data(), into.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail_disk("read", path_, n == 0 ? EIO : errno);
    into = into.subspan(static_cast<size_t>(n));
    offset += n;
  }
}

void PartialFile::append(std::span<const std::byte> data) {
  // At its place rather than at the end: where locks do nothing, two processes write the same bytes to the same places.
  while (!data.empty()) {
    const ssize_t n = system().pwrite(fd_, data.data(), data.size(), bytes_);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail_disk("write", path_, n == 0 ? EIO : errno);
    data = data.subspan(static_cast<size_t>(n));
    bytes_ += n;
  }
}

void PartialFile::clear() {
  if (system().truncate(fd_, 0) != 0) fail_disk("truncate", path_, errno);
  bytes_ = 0;
}

void PartialFile::commit(const std::string& to) {
  if (system().fsync(fd_) != 0) fail_disk("sync", path_, errno);
  if (system().close(std::exchange(fd_, -1)) != 0) fail_disk("close", path_, errno);
  if (system().rename(path_.c_str(), to.c_str()) != 0) fail_disk("rename into place", to, errno);
  sync_folder(to);
}

void PartialFile::remove() {
  system().close(std::exchange(fd_, -1));
  remove_file(path_);
}

FileLock::FileLock(const std::string& path) {
  fd_ = system().open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) return;
  if (system().lock(fd_) == 0) {
    state_ = State::taken;
  } else if (errno == EWOULDBLOCK) {
    state_ = State::busy;
  }
}
FileLock::~FileLock() {
  if (fd_ >= 0) system().close(fd_);
}

void write_link(const std::string& target, const std::string& path) {
  static std::atomic<unsigned> serial{0};
  const std::string temporary = fmt::format("{}.{}.{}.tmp", path, ::getpid(), serial++);
  if (system().symlink(target.c_str(), temporary.c_str()) != 0) fail_disk("make the link", path, errno);
  if (system().rename(temporary.c_str(), path.c_str()) == 0) return sync_folder(path);
  const int error = errno;
  system().unlink(temporary.c_str());
  fail_disk("rename into place", path, error);
}

std::optional<int64_t> free_bytes(const std::string& path) {
  struct statvfs found;
  if (::statvfs(path.c_str(), &found) != 0) return std::nullopt;
  return static_cast<int64_t>(found.f_bavail) * static_cast<int64_t>(found.f_frsize);
}

}  // namespace quantbench::os
