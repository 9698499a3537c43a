// What git leaves in a file's place where Git LFS, which holds large files, has not brought the file itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"

namespace quantbench {

constexpr std::string_view kLfsPointerBegin = "version https://git-lfs";
constexpr int64_t kLfsPointerBytes = kLfsPointerBegin.size();  // so many of a file's first bytes tell

// Error bad_model for a file that begins like this.
inline void refuse_lfs_pointer(std::string_view begin, const std::string& where) {
  if (!begin.starts_with(kLfsPointerBegin)) return;
  fail(ErrorKind::bad_model,
       "{}: a pointer of Git LFS stands in the place of the file; get the file itself: run git lfs pull in its folder",
       where);
}

}  // namespace quantbench
