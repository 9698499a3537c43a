// The two hashes that the Hub names files by.
#pragma once

#include <string>

#include "core/os.h"

namespace quantbench {

// Whether `etag` is one of them, as small hex digits: 64 of a SHA-256, or 40 of a SHA-1.
bool is_content_hash(const std::string& etag);

// Of all that is in the file: the SHA-256, or (64 or 40 digits) git's SHA-1, which is of "blob ", the length, a zero
// byte and the content.
std::string content_hash(const os::PartialFile& file, size_t digits);

}  // namespace quantbench
