// The hash of what checks look at (backend/hashing.h).
#include "backend/hashing.h"

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / kWarpSize;

// One block: a token's logits are half a megabyte in the second-level cache, a few microseconds beside a step of
// hundreds.
__global__ void __launch_bounds__(kThreads) hash_kernel(const __grid_constant__ HashArgs a) {
  __shared__ uint64_t sums[kWarps];
  wait_for_previous();
  let_next_start();
  uint64_t sum = 0;
#pragma unroll 8
  for (int i = thread_index(); i < a.count; i += kThreads) sum += hash_term(a.words[i], static_cast<uint32_t>(i));
  sum = warp_sum(sum);
  if (lane_index() == 0) sums[warp_index()] = sum;
  sync_block();
  if (thread_index() != 0) return;
  sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += sums[i];
  a.hash[0] = fold_hash(a.hash[0], sum);
}

}  // namespace

void hash(const HashArgs& args, const Stream& stream) { launch(hash_kernel, {1}, kThreads, stream, args); }

}  // namespace quantbench::QB_CUDA
