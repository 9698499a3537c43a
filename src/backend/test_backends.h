// The backends that tests run on: those of this build that can run here, and the CUDA backend on its emulator.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/cuda.h"
#include "core/error.h"
#include "core/os.h"

namespace quantbench {

constexpr std::string_view kEmulatedCuda = "cuda_emulated";

inline std::unique_ptr<Backend> make_test_backend(std::string_view name) {
#if defined(QB_HAS_CUDA_EMULATOR)
  if (name == kEmulatedCuda) return cuda_emulated::make_backend({});
#endif
  return make_backend(name, {});
}

// Why the backend cannot run here, or an empty string.
inline std::string why_not(std::string_view name) {
  try {
    make_test_backend(name);
    return "";
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::device && error.kind() != ErrorKind::out_of_memory) throw;
    return error.what();
  }
}

// Where there is a GPU, or must be one (tools/gpu_check.sh says so): then a missing one is a failure.
inline bool tests_cuda() { return os::environment("QB_REQUIRE_GPU") || why_not("cuda").empty(); }

inline std::vector<std::string> test_backend_names() {
  std::vector<std::string> names;
  for (const std::string& name : backend_names()) {
    if (name != "cuda" || tests_cuda()) names.push_back(name);
  }
#if defined(QB_HAS_CUDA_EMULATOR)
  names.emplace_back(kEmulatedCuda);
#endif
  return names;
}

}  // namespace quantbench
