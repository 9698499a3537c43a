#include "backend/cuda/cublaslt_file.h"

#include <fmt/ranges.h>

#include <array>

namespace quantbench::QB_CUDA {
namespace {

constexpr std::array kVersions{13, 12};
constexpr std::array kFolders{"/usr/local/cuda/lib64/", "/usr/local/cuda/targets/x86_64-linux/lib/",
                              "/usr/lib/x86_64-linux-gnu/", "/opt/cuda/lib64/"};

std::string name_in(const char* folder, int version) { return fmt::format("{}libcublasLt.so.{}", folder, version); }

}  // namespace

std::vector<std::string> cublaslt_names() {
  std::vector<std::string> names;
  for (const int version : kVersions) names.push_back(name_in("", version));
  for (const char* const folder : kFolders) {
    for (const int version : kVersions) names.push_back(name_in(folder, version));
  }
  return names;
}

std::optional<CublasLtFile> open_cublaslt(std::span<const std::string> names,
                                          const std::function<bool(const os::Library&)>& is_accepted) {
  for (const std::string& name : names) {
    std::optional<os::Library> library = os::Library::open(name);
    if (!library) continue;
    auto* const version_of = library->find<size_t()>("cublasLtGetVersion");
    if (!version_of || !is_accepted(*library)) continue;
    const size_t version = version_of();
    return CublasLtFile{std::move(*library),
                        fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100)};
  }
  return std::nullopt;
}

MatrixLibrary library_of(const std::optional<CublasLtFile>& found) {
  if (found) return {.version = found->version, .path = found->library.path()};
  return {.missing = fmt::format(
              "cuBLASLt (libcublasLt.so.{}) was found neither where the loader looks nor in {}; install cuBLAS of the "
              "CUDA runtime, or add its folder to LD_LIBRARY_PATH",
              fmt::join(kVersions, " or ."), fmt::join(kFolders, ", "))};
}

}  // namespace quantbench::QB_CUDA
