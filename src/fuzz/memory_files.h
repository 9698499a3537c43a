// Files that are in memory alone, for what opens files by name: sparse ones too, so that a header may promise much.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <string>

#include "core/os.h"

namespace quantbench::fuzz {

class MemoryFiles : public os::System {
 public:
  struct Content {
    std::string begin;  // what follows is zero
    int64_t bytes = 0;
  };
  std::map<std::string, Content, std::less<>> files;
  std::string folder;  // the only folder there is

  void put(const std::string& path, std::string content) {
    const auto bytes = static_cast<int64_t>(content.size());
    files[path] = {std::move(content), bytes};
  }

  int open(const char* path, int, unsigned) override {
    const auto found = files.find(std::string_view(path));
    if (found == files.end()) return errno = ENOENT, -1;
    open_.push_back(&found->second);
    return kFirst + static_cast<int>(open_.size()) - 1;
  }
  ssize_t pread(int fd, void* data, size_t bytes, int64_t offset) override {
    const Content& file = *open_[static_cast<size_t>(fd - kFirst)];
    if (offset >= file.bytes) return 0;
    const auto count = static_cast<size_t>(std::min(static_cast<int64_t>(bytes), file.bytes - offset));
    const size_t known = std::min(count, file.begin.size() - std::min(file.begin.size(), static_cast<size_t>(offset)));
    if (known > 0) std::memcpy(data, file.begin.data() + offset, known);
    std::memset(static_cast<char*>(data) + known, 0, count - known);
    return static_cast<ssize_t>(count);
  }
  int close(int) override { return 0; }
  int status(int fd, os::FileStatus* status) override {
    *status = {open_[static_cast<size_t>(fd - kFirst)]->bytes, true, false, false};
    return 0;
  }
  int status(const char* path, bool, os::FileStatus* status) override {
    if (folder == path) {
      *status = {0, false, true, false};
      return 0;
    }
    const auto found = files.find(std::string_view(path));
    if (found == files.end()) return errno = ENOENT, -1;
    *status = {found->second.bytes, true, false, false};
    return 0;
  }

 private:
  static constexpr int kFirst = 1000;
  std::vector<const Content*> open_;
};

}  // namespace quantbench::fuzz
