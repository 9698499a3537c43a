// The CUDA backend: NVIDIA GPUs from compute capability 7.5.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace quantbench {

namespace cuda {
std::unique_ptr<Backend> make_backend(const BackendOptions& options);
struct DriverAnswer;
DriverAnswer ask_driver();  // everything that can be known without a context, which costs time and memory on every GPU
}  // namespace cuda
namespace cuda_emulated {           // the same backend on the host, for tests
constexpr int kEmulatedHopper = 1;  // as BackendOptions::gpu: a card that has both engines; 0: one with graph alone
std::unique_ptr<Backend> make_backend(const BackendOptions& options);
}  // namespace cuda_emulated

}  // namespace quantbench
