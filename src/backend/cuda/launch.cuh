// The only place that launches kernels. A kernel takes one struct of arguments and begins with wait_for_previous(), or
// with what does not depend on the kernel before it.
#pragma once

#include "backend/cuda/device.cuh"
#include "backend/cuda/stream.h"
#if !defined(QB_CUDA_EMULATED)
#include "backend/cuda/check.h"
#include "backend/cuda/shared_limits.h"
#endif

namespace quantbench::QB_CUDA {

struct Grid {
  int x = 1, y = 1, z = 1;
};

#if defined(QB_CUDA_EMULATED)
template <typename Args>
void launch(void (*kernel)(Args), Grid grid, int threads, const Stream&, const Args& args, size_t shared_bytes = 0) {
  run_grid({static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z)}, threads,
           shared_bytes, [&] { kernel(args); });
}
template <typename Args>
void launch_cooperative(void (*kernel)(Args), int blocks, int threads, const Stream&, const Args& args,
                        size_t shared_bytes) {
  run_together(blocks, threads, shared_bytes, [&] { kernel(args); });
}
template <typename Args>
void launch_clusters(void (*kernel)(Args), int blocks, int, int threads, const Stream&, const Args& args,
                     size_t shared_bytes) {
  run_together(blocks, threads, shared_bytes, [&] { kernel(args); });
}
template <typename Args>
int clusters_at_once(void (*)(Args), int of_cluster, int, size_t, int multiprocessors) {
  return multiprocessors / of_cluster;
}
#else
// shared_bytes: dynamic, for each block.
template <typename Args>
void launch(void (*kernel)(Args), Grid grid, int threads, const Stream& stream, const Args& args,
            size_t shared_bytes = 0) {
  if (shared_bytes > 0) allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
  config.blockDim = dim3(static_cast<unsigned>(threads), 1, 1);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream.handle;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = stream.overlap ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, args), "cudaLaunchKernelEx");
}

// A block a multiprocessor, all of them running at once, so that they may wait for one another.
template <typename Args>
void launch_cooperative(void (*kernel)(Args), int blocks, int threads, const Stream& stream, const Args& args,
                        size_t shared_bytes) {
  allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks), 1, 1);
  config.blockDim = dim3(static_cast<unsigned>(threads), 1, 1);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream.handle;
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  config.attrs = &together;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, args), "cudaLaunchKernelEx");
}

// Blocks that see each other's shared memory, `of_cluster` side by side.
class ClusterLaunch {
 public:
  template <typename Args>
  ClusterLaunch(void (*kernel)(Args), int blocks, int of_cluster, int threads, const Stream& stream,
                size_t shared_bytes) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "cudaFuncSetAttribute");
    config.gridDim = dim3(static_cast<unsigned>(blocks), 1, 1);
    config.blockDim = dim3(static_cast<unsigned>(threads), 1, 1);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream.handle;
    attributes_[0].id = cudaLaunchAttributeClusterDimension;
    attributes_[0].val.clusterDim = {static_cast<unsigned>(of_cluster), 1, 1};
    attributes_[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes_[1].val.programmaticStreamSerializationAllowed = 1;
    config.attrs = attributes_;
    config.numAttrs = stream.overlap ? 2 : 1;
  }
  ClusterLaunch(const ClusterLaunch&) = delete;

  cudaLaunchConfig_t config{};

 private:
  cudaLaunchAttribute attributes_[2]{};
};
template <typename Args>
void launch_clusters(void (*kernel)(Args), int blocks, int of_cluster, int threads, const Stream& stream,
                     const Args& args, size_t shared_bytes) {
  const ClusterLaunch launch(kernel, blocks, of_cluster, threads, stream, shared_bytes);
  check(cudaLaunchKernelEx(&launch.config, kernel, args), "cudaLaunchKernelEx");
}
// How many clusters can run at the same time. Fewer than there are multiprocessors for: a cluster's lie side by side.
template <typename Args>
int clusters_at_once(void (*kernel)(Args), int of_cluster, int threads, size_t shared_bytes, int) {
  const ClusterLaunch launch(kernel, of_cluster, of_cluster, threads, {}, shared_bytes);
  int most = 0;
  check(cudaOccupancyMaxActiveClusters(&most, reinterpret_cast<const void*>(kernel), &launch.config),
        "cudaOccupancyMaxActiveClusters");
  return most;
}
#endif

}  // namespace quantbench::QB_CUDA
