// Many sums over lanes at once.
#pragma once

#include "backend/cuda/device.cuh"

namespace quantbench::QB_CUDA {

// Adds up v over lanes i, i ^ kLanes, i ^ 2 · kLanes … of the warp by halves: a lane gives away those sums that the
// other keeps, as long as they can be halved. Returns where in v this lane's sums, the first kLeft, were at first.
template <int kCount, int kLanes = 4>
constexpr int kLeft = kCount % (kWarpSize / kLanes) == 0 ? kCount / (kWarpSize / kLanes) : kCount / 4;
template <int kCount, int kLanes = 4>
QB_DEVICE int sum_by_halves(float (&v)[kCount]) {
  static_assert(kCount % 4 == 0);
  int count = kCount, first = 0;
#pragma unroll
  for (int mask = kLanes; mask < kWarpSize; mask *= 2) {
    const bool upper = (lane_index() & mask) != 0;
    if (count % 2 == 0 && count > kLeft<kCount, kLanes>) {
      count /= 2;
      first += upper ? count : 0;
#pragma unroll
      for (int i = 0; i < kCount / 2; ++i) {
        if (i >= count) break;
        const float give = upper ? v[i] : v[i + count], keep = upper ? v[i + count] : v[i];
        v[i] = keep + from_lane_xor(give, mask);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i < count) v[i] += from_lane_xor(v[i], mask);
      }
    }
  }
  return first;
}

}  // namespace quantbench::QB_CUDA
