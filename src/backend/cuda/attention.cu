// Rotary embedding into the cache, and attention over it: a block a query head, a warp every fourth position, the
// softmax kept running so that each key and value is read once; the warps' parts meet at the end in a fixed order.
#include <cmath>

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarpSize;
constexpr int kDimsPerLane = kMostHeadDim / kWarpSize;

QB_DEVICE size_t head_at(const Cache& kv, int sequence, int head) {
  return (static_cast<size_t>(sequence) * kv.heads + head) * kv.positions * kv.head_dim;
}

// Element i of a head, rotated: pairs (i, i + dims/2).
QB_DEVICE float rotated(const float* head, int i, int dims, const float* cos, const float* sin) {
  const int half = dims / 2;
  if (i < half) return head[i] * cos[i] - head[i + half] * sin[i];
  if (i < dims) return head[i] * cos[i - half] + head[i - half] * sin[i - half];
  return head[i];
}

// A block a row.
__global__ void __launch_bounds__(kThreads) store_kernel(const __grid_constant__ StoreArgs a) {
  const int row = block_x(), d = a.kv.head_dim, position = a.position[row], half = a.rope_dims / 2;
  const float* const cos = a.cos ? a.cos + static_cast<size_t>(position) * half : nullptr;
  const float* const sin = a.cos ? a.sin + static_cast<size_t>(position) * half : nullptr;
  if (a.cos) {
    float* const q = a.q + static_cast<size_t>(row) * a.q_heads * d;
    for (int i = thread_index(); i < a.q_heads * half; i += kThreads) {
      float* const head = q + i / half * d;
      const int pair = i % half;
      const float first = rotated(head, pair, a.rope_dims, cos, sin);
      const float second = rotated(head, pair + half, a.rope_dims, cos, sin);
      head[pair] = first;
      head[pair + half] = second;
    }
  }
  const int width = a.kv.heads * d;
  const float* const k = a.k + static_cast<size_t>(row) * width;
  const float* const v = a.v + static_cast<size_t>(row) * width;
  for (int i = thread_index(); i < width; i += kThreads) {
    const int head = i / d, at = i % d;
    const size_t to = head_at(a.kv, a.sequence[row], head) + static_cast<size_t>(position) * d + at;
    a.kv.k[to] = half_of_float(a.cos ? rotated(k + head * d, at, a.rope_dims, cos, sin) : k[i]);
    a.kv.v[to] = half_of_float(v[i]);
  }
}

__global__ void __launch_bounds__(kThreads) attend_kernel(const __grid_constant__ AttendArgs a) {
  __shared__ float most[kWarps], total[kWarps], out[kWarps][kMostHeadDim];
  const int head = block_x(), row = block_y(), d = a.kv.head_dim, warp = warp_index(), lane = lane_index();
  const int length = a.position[row] + 1;
  const size_t at = static_cast<size_t>(row) * a.q_heads * d + static_cast<size_t>(head) * d;
  const size_t cached = head_at(a.kv, a.sequence[row], head / (a.q_heads / a.kv.heads));
  float q[kDimsPerLane], sum[kDimsPerLane] = {}, running_most = -INFINITY, running_total = 0;
#pragma unroll
  for (int i = 0; i < kDimsPerLane; ++i) {
    const int dim = i * kWarpSize + lane;
    q[i] = dim < d ? a.q[at + dim] * a.scale : 0.0f;
  }
  for (int p = warp; p < length; p += kWarps) {
    const uint16_t* const k = a.kv.k + cached + static_cast<size_t>(p) * d;
    const uint16_t* const v = a.kv.v + cached + static_cast<size_t>(p) * d;
    float score = 0;
#pragma unroll
    for (int i = 0; i < kDimsPerLane; ++i) {
      const int dim = i * kWarpSize + lane;
      if (dim < d) score = fmaf(q[i], float_of_half(k[dim]), score);
    }
    score = warp_sum(score);
    const float new_most = score > running_most ? score : running_most;
    const float keep = expf(running_most - new_most), weight = expf(score - new_most);
    running_total = running_total * keep + weight;
#pragma unroll
    for (int i = 0; i < kDimsPerLane; ++i) {
      const int dim = i * kWarpSize + lane;
      if (dim < d) sum[i] = fmaf(weight, float_of_half(v[dim]), sum[i] * keep);
    }
    running_most = new_most;
  }
  if (lane == 0) {
    most[warp] = running_most;
    total[warp] = running_total;
  }
#pragma unroll
  for (int i = 0; i < kDimsPerLane; ++i) {
    const int dim = i * kWarpSize + lane;
    if (dim < d) out[warp][dim] = sum[i];
  }
  sync_block();
  float all_most = most[0];
  for (int i = 1; i < kWarps; ++i) all_most = most[i] > all_most ? most[i] : all_most;
  float all_total = 0, share[kWarps];
  for (int i = 0; i < kWarps; ++i) {
    share[i] = total[i] > 0 ? expf(most[i] - all_most) : 0.0f;  // a warp without a position has no share
    all_total += total[i] * share[i];
  }
  for (int dim = thread_index(); dim < d; dim += kThreads) {
    float value = 0;
    for (int i = 0; i < kWarps; ++i) value += out[i][dim] * share[i];
    a.a[at + dim] = value / all_total;
  }
}

}  // namespace

void rotate_and_store(const StoreArgs& args, Stream stream) {
  launch(store_kernel, {args.rows}, kThreads, stream, args);
}
void attend(const AttendArgs& args, Stream stream) {
  launch(attend_kernel, {args.q_heads, args.rows}, kThreads, stream, args);
}

}  // namespace quantbench::QB_CUDA
