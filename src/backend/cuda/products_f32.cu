// Products with fp32 weights: a block has four outputs of eight rows, its threads share out k, so that each weight is
// read once for eight rows and each number of a row once for four outputs.
#include "backend/cuda/products_f32.h"

#include "backend/cuda/finish.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/sum_by_halves.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize, kOutputs = 4, kRows = 8, kQuad = 4;
constexpr int kSums = kOutputs * kRows;
static_assert(kSums == kWarpSize);  // a lane keeps one of them

QB_DEVICE Quad quad_at(const float* from, int i) { return *reinterpret_cast<const Quad*>(from + size_t{kQuad} * i); }

__global__ void __launch_bounds__(kThreads) f32_kernel(const __grid_constant__ ProductArgs a) {
  const Job& job = a.jobs[0];
  const int n = job.w.n, k = job.w.k, quads = k / kQuad, first = block_x() * kOutputs, first_row = block_y() * kRows;
  const float *weights[kOutputs], *rows[kRows];
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    const int own = first + o < n ? first + o : n - 1;
    weights[o] = static_cast<const float*>(job.w.w) + static_cast<size_t>(own) * k;
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int own = first_row + r < a.x.rows ? first_row + r : a.x.rows - 1;
    rows[r] = a.x.x + static_cast<size_t>(own) * k;
  }
  // Weights are on the way while the kernel before this one ends.
  Quad w[kOutputs] = {};
  const auto load_weights = [&](int i) {
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) w[o] = quad_at(weights[o], i);
  };
  int i = thread_index();
  if (i < quads) load_weights(i);
  wait_for_previous();
  let_next_start();
  float sums[kSums] = {};
  for (; i < quads; i += kThreads) {
    Quad x[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) x[r] = quad_at(rows[r], i);
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int j = 0; j < kQuad; ++j) sums[o * kRows + r] = fmaf(w[o].at[j], x[r].at[j], sums[o * kRows + r]);
      }
    }
    if (i + kThreads < quads) load_weights(i + kThreads);
  }
  __shared__ float parts[kWarps][kSums];
  const int own = sum_by_halves<kSums, 1>(sums);
  parts[warp_index()][own] = sums[0];
  sync_block();
  const int lane = lane_index(), output = first + lane / kRows, row = first_row + lane % kRows;
  if (warp_index() != 0 || output >= n || row >= a.x.rows) return;
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += parts[warp][lane];
  put(a, job, row, output, finish_float(sum, job, output));
}

}  // namespace

bool multiply_f32(const ProductArgs& args, const Stream& stream) {
  const Job& job = args.jobs[0];
  const bool stores = args.finish == Finish::store || args.finish == Finish::add;
  if (job.w.format != WeightFormat::f32 || args.job_count != 1 || !stores || job.w.k % kQuad != 0) return false;
  const Grid grid{(job.w.n + kOutputs - 1) / kOutputs, (args.x.rows + kRows - 1) / kRows};
  launch(f32_kernel, grid, kThreads, stream, args);
  return true;
}

}  // namespace quantbench::QB_CUDA
