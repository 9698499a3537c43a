// Where cuBLASLt is on this machine. Nothing here needs CUDA.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/os.h"

namespace quantbench::QB_CUDA {

struct CublasLtFile {
  os::Library library;
  std::string version;  // "13.1.0"
};

// Those of either version, by name for the loader, then where installations put them.
std::vector<std::string> cublaslt_names();
// The first of these that opens, tells its version and is accepted.
std::optional<CublasLtFile> open_cublaslt(std::span<const std::string> names,
                                          const std::function<bool(const os::Library&)>& is_accepted);
// For people and records; nothing: none of cublaslt_names() was found.
MatrixLibrary library_of(const std::optional<CublasLtFile>& found);

}  // namespace quantbench::QB_CUDA
