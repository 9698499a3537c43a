// The only place that opens, reads, writes, syncs, renames, takes large blocks of memory, starts processes or loads
// libraries. Files and blocks go through one `System`, which tests replace (ScopedSystem) to inject faults; listing
// folders, resolving links, libraries, and starting and talking to processes do not.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace quantbench::os {

// What to do where there are too many open files.
constexpr const char* kMoreOpenFiles = "allow this process more open files (ulimit -n 1024) and try again";

struct FileStatus {
  int64_t bytes = 0;
  bool is_regular = false, is_directory = false, is_symlink = false;
};

// The system calls as they are: −1 or nullptr and errno on failure. Only this layer may be replaced.
class System {
 public:
  virtual ~System() = default;
  virtual int open(const char* path, int flags, unsigned mode);
  virtual ssize_t read(int fd, void* data, size_t bytes);
  virtual ssize_t pread(int fd, void* data, size_t bytes, int64_t offset);
  virtual ssize_t write(int fd, const void* data, size_t bytes);
  virtual ssize_t pwrite(int fd, const void* data, size_t bytes, int64_t offset);
  virtual int truncate(int fd, int64_t bytes);
  virtual int fsync(int fd);
  virtual int close(int fd);
  virtual int rename(const char* from, const char* to);
  virtual int rename_new(const char* from, const char* to);  // EEXIST where there is something already
  virtual int unlink(const char* path);
  virtual int symlink(const char* target, const char* path);
  virtual int mkdir(const char* path, unsigned mode);
  virtual int rmdir(const char* path);
  virtual int lock(int fd);  // for this process alone, without waiting: EWOULDBLOCK where another has it
  virtual int status(const char* path, bool follow_symlinks, FileStatus* status);
  virtual int status(int fd, FileStatus* status);
  virtual void* map(size_t bytes);  // anonymous, zeroed, page-aligned
  virtual int unmap(void* data, size_t bytes);
};

System& system();

// Replaces the System for its lifetime. For tests; not for use while other threads do I/O.
class ScopedSystem {
 public:
  explicit ScopedSystem(System& replacement);
  ~ScopedSystem();
  ScopedSystem(const ScopedSystem&) = delete;

 private:
  System* previous_;
};

// A file opened for reading. Errors are ErrorKind::disk and name path, offset and cause.
class File {
 public:
  static File open(const std::string& path);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  int64_t bytes() const { return bytes_; }
  const std::string& path() const { return path_; }
  // Fills `into` from `offset` on; may be called from several threads. A file that ends before is an Error
  // (truncated, or shrunk since it was opened).
  void read_at(int64_t offset, std::span<std::byte> into) const;

 private:
  File(std::string path, int fd, int64_t bytes) : path_(std::move(path)), fd_(fd), bytes_(bytes) {}
  std::string path_;
  int fd_ = -1;
  int64_t bytes_ = 0;
};

// The whole file; refused (bad_model) above `limit` bytes.
std::string read_file(const std::string& path, int64_t limit);
// A file of /proc or /sys (whose size is not known beforehand), without trailing newline; nothing if unreadable.
std::optional<std::string> read_small_file(const std::string& path);
// Writes to a file of /proc or /sys that is already there; false if the kernel does not allow it.
bool write_small_file(const std::string& path, std::string_view content);
// Temporary file in the same folder, write, fsync, rename, fsync of the folder. Leaves the old file on failure.
void write_file_atomically(const std::string& path, std::string_view content);

// The same, but nothing is replaced: false where there is something of that name already, also where another process
// was faster.
bool write_new_file_atomically(const std::string& path, std::string_view content);
// At the end of a file, which is made where it is missing. Error disk.
void append_to_file(const std::string& path, std::string_view content);
// A file being written under a temporary name; commit() syncs and renames it into place, else it is removed.
class OutputFile {
 public:
  explicit OutputFile(std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  void write(std::span<const std::byte> data);
  void commit();
  bool commit_new();  // false, and nothing done, where there is something of that name

 private:
  void close_durably();

  std::string path_, temporary_;
  int fd_ = -1;
};

// A file that is filled piece by piece, if need be by one process after another, until it is whole. What is there stays
// when this ends without commit(). Errors disk.
class PartialFile {
 public:
  explicit PartialFile(std::string path);  // opened, or made; a link in its place is refused
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  int64_t bytes() const { return bytes_; }
  // The first bytes() of it may be read.
  void read_at(int64_t offset, std::span<std::byte> into) const;
  void append(std::span<const std::byte> data);
  void clear();                        // to no bytes at all
  void commit(const std::string& to);  // synced and renamed, in place of what may be there
  void remove();

 private:
  std::string path_;
  int fd_ = -1;
  int64_t bytes_ = 0;
};

// A lock between processes (flock) on a file, which is made where it is missing and stays. Best effort: some file
// systems know no locks.
class FileLock {
 public:
  enum class State { taken, busy, impossible };  // busy: another has it
  explicit FileLock(const std::string& path);    // does not wait
  ~FileLock();
  FileLock(const FileLock&) = delete;
  State state() const { return state_; }

 private:
  int fd_ = -1;
  State state_ = State::impossible;
};

// A symbolic link to `target`, as it is written there, in place of what may be there. Error disk.
void write_link(const std::string& target, const std::string& path);

// A folder that this process alone fills, for as long as this lives: made, with what leads to it, where it is missing.
// Error usage where another process has it. Unless kept, the folders that were made go away again, if they are empty.
class OutputFolder {
 public:
  explicit OutputFolder(const std::string& path);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  void keep() { made_.clear(); }

 private:
  std::vector<std::string> made_;
  int fd_ = -1;
};

// No matter if it is not there; what cannot be removed is an Error disk.
void remove_file(const std::string& path);
bool exists(const std::string& path);
bool is_directory(const std::string& path);
std::optional<int64_t> free_bytes(const std::string& path);  // that its file system has left for this user
std::optional<FileStatus> status(const std::string& path, bool follow_symlinks = true);
std::vector<std::string> list_directory(const std::string& path);    // names, sorted, without . and ..
std::vector<std::string> make_directories(const std::string& path);  // those that were missing, outermost first
std::string real_path(const std::string& path);  // every symlink resolved; Error if it does not exist
std::string executable_path();                   // of this process
// What the linker called this program, in hex: another for every other program. Empty where it gave it no name.
std::string build_id();
// Where programs of this user keep what they can make again: $XDG_CACHE_HOME, else ~/.cache. A variable that is empty
// counts as not set; nothing where no home is known.
std::optional<std::string> cache_folder();
// "~" and "~/x" → "$HOME/x", as a shell does it where the word begins so; unchanged where no home is known.
std::string expand_home(const std::string& path);
uint32_t process_id();
std::optional<std::string> environment(const char* name);

// Page-aligned zeroed memory outside the heap, in huge pages where the kernel grants them; given back on destruction.
// Error out_of_memory, with the figures, if the system refuses.
class Block {
 public:
  Block() = default;
  explicit Block(size_t bytes);
  Block(Block&& other) noexcept;
  Block& operator=(Block&& other) noexcept;
  ~Block();
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// A child process with a pipe to its stdin and one from its stdout; stderr is inherited. Started with posix_spawn.
// It sits in this process's group with SIGINT, SIGTERM and SIGHUP blocked: the parent decides when it ends.
class Process {
 public:
  struct Exit {
    int code = -1;                 // exit code, or −1
    int signal = 0;                // the signal that ended it, or 0
    std::string describe() const;  // "exit code 3", "signal 9 (Killed)"
  };
  Process(const std::string& program, const std::vector<std::string>& arguments,
          const std::map<std::string, std::string>& extra_environment = {});
  Process(Process&&) noexcept;
  Process& operator=(Process&&) noexcept;
  ~Process();  // kills and reaps a child that still runs

  bool write_line(std::string_view line);  // false once the child no longer reads
  enum class Got { line, end, timeout, interrupted };
  // The next line of its stdout. Waits at most timeout_ns (< 0: for ever); `interrupted` when a signal handler of
  // ours set stop_requested().
  Got read_line(std::string* line, int64_t timeout_ns = -1);
  void close_input();
  void kill();
  Exit wait();
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  int to_child_ = -1, from_child_ = -1;
  std::string buffer_;
  std::optional<Exit> exit_;
};

// A shared library that may be missing on this machine, opened while the program runs. Lives longer than what it gave
// out.
class Library {
 public:
  // `name` as the loader takes it ("libnvidia-ml.so.1", or a path); nothing where it is not found or does not load.
  static std::optional<Library> open(const std::string& name);
  Library(Library&& other) noexcept;
  Library& operator=(Library&& other) noexcept;
  ~Library();
  std::string path() const;  // of its file, links resolved; empty where the system does not tell
  // A function by its name in C, null where the library has none: find<int(void)>("nvmlInit_v2").
  template <typename Function>
  Function* find(const char* name) const {
    return reinterpret_cast<Function*>(symbol(name));
  }

 private:
  explicit Library(void* handle) : handle_(handle) {}
  void* symbol(const char* name) const;
  void* handle_ = nullptr;
};

// The next line of standard input, without its end; nothing once the input has ended.
std::optional<std::string> read_input_line();
// All of it to standard output, or an Error disk (a full disk, a closed pipe).
void write_output(std::string_view text);
bool is_terminal(int fd);
int terminal_columns(int fd);  // 80 where it does not say
// Ends this process when the one that started it ends, however that happens.
void end_with_parent();

// SIGINT, SIGTERM and SIGHUP set a flag instead of ending the process, also where its parent blocked them; a second
// one, half a second later or more, ends it.
void catch_stop_signals();
bool stop_requested();
// A file beyond the limit on sizes (ulimit -f) is a write that fails, here and in child processes, and no signal.
void let_large_files_fail();

int64_t steady_now_ns();  // monotonic host clock
std::string utc_now();    // "2026-01-31T12:34:56Z"

}  // namespace quantbench::os
