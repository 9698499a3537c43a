// The only place that launches kernels. A kernel takes one struct of arguments.
#pragma once

#include "backend/cuda/device.cuh"
#include "backend/cuda/stream.h"
#if !defined(QB_CUDA_EMULATED)
#include "backend/cuda/check.h"
#endif

namespace quantbench::QB_CUDA {

struct Grid {
  int x = 1, y = 1;
};

#if defined(QB_CUDA_EMULATED)
template <typename Args>
void launch(void (*kernel)(Args), Grid grid, int threads, Stream, const Args& args) {
  run_grid({static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), 1}, threads, 0, [&] { kernel(args); });
}
#else
template <typename Args>
void launch(void (*kernel)(Args), Grid grid, int threads, Stream stream, const Args& args) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), 1);
  config.blockDim = dim3(static_cast<unsigned>(threads), 1, 1);
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, args), "cudaLaunchKernelEx");
}
#endif

}  // namespace quantbench::QB_CUDA
