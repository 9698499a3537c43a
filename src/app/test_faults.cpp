// The program with faults: linked with the program's own sources, this counts its calls of one kind and lets the Nth
// fail, once. For program_faults_test.cpp.
//   QB_FAULT="write 17"        the call and N: open, read, pread, write, fsync, close, rename, mkdir, map, new
//   QB_FAULT_IN=worker         in worker processes alone, each for itself; else in the first process alone
//   QB_FAULT_SEEN=FILE         is made when the fault happens
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>

#include "core/os.h"

namespace {

// No constructors: operator new is called before any has run.
constinit const char* failing_call = nullptr;
constinit const char* seen_file = nullptr;
constinit std::atomic<long> calls_left{0};

bool fails(std::string_view call) {
  if (failing_call == nullptr || call != failing_call) return false;
  if (calls_left.fetch_sub(1) != 1) return false;
  if (const int fd = ::open(seen_file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644); fd >= 0) ::close(fd);
  return true;
}

class FaultySystem : public quantbench::os::System {
 public:
  int open(const char* path, int flags, unsigned mode) override {
    return fails("open") ? failed(EIO) : System::open(path, flags, mode);
  }
  ssize_t read(int fd, void* data, size_t bytes) override {
    return fails("read") ? failed(EIO) : System::read(fd, data, bytes);
  }
  ssize_t pread(int fd, void* data, size_t bytes, int64_t offset) override {
    return fails("pread") ? failed(EIO) : System::pread(fd, data, bytes, offset);
  }
  ssize_t write(int fd, const void* data, size_t bytes) override {
    return fails("write") ? failed(ENOSPC) : System::write(fd, data, bytes);
  }
  int fsync(int fd) override { return fails("fsync") ? failed(EIO) : System::fsync(fd); }
  int close(int fd) override {
    const int result = System::close(fd);
    return fails("close") ? failed(EIO) : result;
  }
  int rename(const char* from, const char* to) override {
    return fails("rename") ? failed(EIO) : System::rename(from, to);
  }
  int rename_new(const char* from, const char* to) override {
    return fails("rename") ? failed(EIO) : System::rename_new(from, to);
  }
  int mkdir(const char* path, unsigned mode) override {
    return fails("mkdir") ? failed(EIO) : System::mkdir(path, mode);
  }
  void* map(size_t bytes) override {
    if (!fails("map")) return System::map(bytes);
    errno = ENOMEM;
    return nullptr;
  }

 private:
  static int failed(int error) {
    errno = error;
    return -1;
  }
};

__attribute__((constructor)) void begin(int argc, char** argv) {
  const bool is_worker = argc > 1 && std::strcmp(argv[1], "worker") == 0;
  const bool in_workers = std::getenv("QB_FAULT_IN") != nullptr;
  const char* fault = std::getenv("QB_FAULT");
  seen_file = std::getenv("QB_FAULT_SEEN");
  if (fault == nullptr || seen_file == nullptr || is_worker != in_workers) return;
  static char name[16];
  const size_t length = std::strcspn(fault, " ");
  if (length >= sizeof name) std::abort();
  std::memcpy(name, fault, length);
  calls_left = std::atol(fault + length);
  alignas(FaultySystem) static unsigned char system[sizeof(FaultySystem)];
  alignas(quantbench::os::ScopedSystem) static unsigned char scope[sizeof(quantbench::os::ScopedSystem)];
  new (scope) quantbench::os::ScopedSystem(*new (system) FaultySystem);  // until the end
  failing_call = name;
}

void* allocate(size_t bytes) {
  if (fails("new")) throw std::bad_alloc();
  void* const data = std::malloc(bytes == 0 ? 1 : bytes);
  if (data == nullptr) throw std::bad_alloc();
  return data;
}

}  // namespace

void* operator new(size_t bytes) { return allocate(bytes); }
void* operator new[](size_t bytes) { return allocate(bytes); }
void operator delete(void* data) noexcept { std::free(data); }
void operator delete[](void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }
void operator delete[](void* data, size_t) noexcept { std::free(data); }
