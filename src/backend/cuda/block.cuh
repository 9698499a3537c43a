// Sums and maxima over a block, the same in all its threads and in an order that does not depend on timing.
#pragma once

#include "backend/cuda/device.cuh"

namespace quantbench::QB_CUDA {

template <int kThreads, typename T>
QB_DEVICE T block_sum(T value) {
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ T parts[kWarps];
  value = warp_sum(value);
  sync_block();  // parts may still be read from the sum before
  if (lane_index() == 0) parts[warp_index()] = value;
  sync_block();
  T total = 0;
  for (int i = 0; i < kWarps; ++i) total += parts[i];
  return total;
}

template <int kThreads>
QB_DEVICE float block_max(float value) {
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ float parts[kWarps];
  value = warp_max(value);
  sync_block();
  if (lane_index() == 0) parts[warp_index()] = value;
  sync_block();
  float most = parts[0];
  for (int i = 1; i < kWarps; ++i) most = parts[i] > most ? parts[i] : most;
  return most;
}

// How many of all threads' `own` lie before this thread's; the sum of all in *total.
template <int kThreads>
QB_DEVICE int block_rank(int own, int* total) {
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ int counts[kThreads], warp_counts[kWarps];
  const int of_warp = warp_sum(own);
  sync_block();
  counts[thread_index()] = own;
  if (lane_index() == 0) warp_counts[warp_index()] = of_warp;
  sync_block();
  int before = 0, all = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp_index()) before += warp_counts[i];
    all += warp_counts[i];
  }
  for (int i = thread_index() - lane_index(); i < thread_index(); ++i) before += counts[i];
  *total = all;
  return before;
}

}  // namespace quantbench::QB_CUDA
