// Sums and maxima over a block, the same in all its threads and in an order that does not depend on timing.
#pragma once

#include "backend/cuda/device.cuh"

namespace quantbench::QB_CUDA {

// Of kCount values at once.
template <int kThreads, int kCount, typename T, typename Combine>
QB_DEVICE void block_combine(T (&value)[kCount], const Combine& combine) {
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ T parts[kWarps][kCount];
  for (T& v : value) {
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) v = combine(v, from_lane_xor(v, mask));
  }
  sync_block();  // parts may still be read from the call before
  if (lane_index() == 0) {
    for (int i = 0; i < kCount; ++i) parts[warp_index()][i] = value[i];
  }
  sync_block();
  for (int i = 0; i < kCount; ++i) {
    T of_warp[kWarps];
    for (int w = 0; w < kWarps; ++w) of_warp[w] = parts[w][i];
    for (int apart = 1; apart < kWarps; apart *= 2) {
      for (int w = 0; w + apart < kWarps; w += 2 * apart) of_warp[w] = combine(of_warp[w], of_warp[w + apart]);
    }
    value[i] = of_warp[0];
  }
}
template <int kThreads, int kCount, typename T>
QB_DEVICE void block_sums(T (&value)[kCount]) {
  block_combine<kThreads>(value, [](T a, T b) { return a + b; });
}
template <int kThreads, int kCount>
QB_DEVICE void block_maxima(float (&value)[kCount]) {
  block_combine<kThreads>(value, [](float a, float b) { return b > a ? b : a; });
}
template <int kThreads, typename T>
QB_DEVICE T block_sum(T value) {
  T one[1] = {value};
  block_sums<kThreads>(one);
  return one[0];
}
template <int kThreads>
QB_DEVICE float block_max(float value) {
  float one[1] = {value};
  block_maxima<kThreads>(one);
  return one[0];
}
template <int kThreads>
QB_DEVICE uint32_t block_larger_halves(uint32_t value) {  // as larger_halves()
  uint32_t one[1] = {value};
  block_combine<kThreads>(one, [](uint32_t a, uint32_t b) { return larger_halves(a, b); });
  return one[0];
}

// The columns whose bits are set in bits [(k + 31) / 32], ascending, after their number, into to [1 + k]; by one warp.
QB_DEVICE void list_bits(int32_t* to, const uint32_t* bits, int k) {
  const int words = (k + 31) / 32, share = (words + kWarpSize - 1) / kWarpSize;
  const int first = lane_index() * share, last = first + share < words ? first + share : words;
  int own = 0;
  for (int i = first; i < last; ++i) own += bit_count(bits[i]);
  int until = own;  // of the lanes up to this one
  for (int lanes = 1; lanes < kWarpSize; lanes *= 2) {
    const int other = from_lane(until, (lane_index() + kWarpSize - lanes) % kWarpSize);
    if (lane_index() >= lanes) until += other;
  }
  int at = 1 + until - own;
  for (int i = first; i < last; ++i) {
    for (uint32_t left = bits[i]; left != 0; left &= left - 1) to[at++] = i * 32 + lowest_bit(left);
  }
  if (lane_index() == kWarpSize - 1) to[0] = until;
}

}  // namespace quantbench::QB_CUDA
