// What the files behind core/os.h share.
#pragma once

#include <string>

namespace quantbench::os {

// Error disk: "cannot <doing> '<path>'", why (an errno), and what to do.
[[noreturn]] void fail_disk(const char* doing, const std::string& path, int error);
// Makes a rename into the folder of `path` durable. Some file systems cannot sync a folder (EINVAL): then there is
// nothing more to do.
void sync_folder(const std::string& path);

}  // namespace quantbench::os
