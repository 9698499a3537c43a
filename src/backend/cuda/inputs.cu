// Makes the rows of a product ready: norm, rounding to fp16, LLM.int8's outliers, codes and scales.
#include <cmath>

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr float kThreshold = 6.0f;  // kInt8Threshold

// The sum over the block, the same in all threads.
QB_DEVICE double block_sum(double value) {
  __shared__ double parts[kWarps];
  value = warp_sum(value);
  sync_block();  // parts may still be read from the sum before
  if (lane_index() == 0) parts[warp_index()] = value;
  sync_block();
  double total = 0;
  for (int i = 0; i < kWarps; ++i) total += parts[i];
  return total;
}

QB_DEVICE float block_max(float value) {
  __shared__ float parts[kWarps];
  value = warp_max(value);
  sync_block();
  if (lane_index() == 0) parts[warp_index()] = value;
  sync_block();
  float most = parts[0];
  for (int i = 1; i < kWarps; ++i) most = parts[i] > most ? parts[i] : most;
  return most;
}

// A block a row. Norms are summed in double and rounded once, as the reference does, so that LLM.int8 finds the same
// codes.
__global__ void __launch_bounds__(kThreads) prepare_kernel(const __grid_constant__ PrepareArgs a) {
  const int row = block_x();
  const float* const x = a.x + static_cast<size_t>(row) * a.k;
  double mean = 0, factor = 1;
  if (a.weight) {
    if (a.centered) {
      double sum = 0;
      for (int i = thread_index(); i < a.k; i += kThreads) sum += x[i];
      mean = block_sum(sum) / a.k;
    }
    double square = 0;
    for (int i = thread_index(); i < a.k; i += kThreads) square += (x[i] - mean) * (x[i] - mean);
    factor = 1 / sqrt(block_sum(square) / a.k + static_cast<double>(a.eps));
  }
  for (int i = thread_index(); i < a.stride; i += kThreads) {
    float value = 0;
    if (i < a.k) {
      value = x[i];
      if (a.weight) {
        const double bias = a.bias ? a.bias[i] : 0;
        value = static_cast<float>((x[i] - mean) * factor * a.weight[i] + bias);
      }
      if (a.x32) a.x32[static_cast<size_t>(row) * a.k + i] = value;
    }
    const uint16_t rounded = half_of_float(value);
    a.x16[static_cast<size_t>(row) * a.stride + i] = rounded;
    if (a.marks && fabsf(float_of_half(rounded)) >= kThreshold) a.marks[i] = 1;  // all who write here write the same
  }
}

// Blocks 0 … rows - 1 quantise a row each; the last one lists the outlier columns.
__global__ void __launch_bounds__(kThreads) quantize_kernel(const __grid_constant__ QuantizeArgs a) {
  const int row = block_x();
  if (row == a.rows) {
    __shared__ int counts[kThreads];
    const int share = (a.k + kThreads - 1) / kThreads, first = thread_index() * share;
    const int last = first + share < a.k ? first + share : a.k;
    int own = 0;
    for (int i = first; i < last; ++i) own += a.marks[i] != 0;
    counts[thread_index()] = own;
    sync_block();
    int at = 0, total = 0;
    for (int i = 0; i < kThreads; ++i) {
      if (i == thread_index()) at = total;
      total += counts[i];
    }
    for (int i = first; i < last; ++i) {
      if (a.marks[i]) a.outliers[1 + at++] = i;
    }
    if (thread_index() == 0) a.outliers[0] = total;
    return;
  }
  const uint16_t* const x = a.x16 + static_cast<size_t>(row) * a.stride;
  int8_t* const codes = a.codes + static_cast<size_t>(row) * a.stride;
  float most = 0;
  for (int i = thread_index(); i < a.k; i += kThreads) {
    const float magnitude = fabsf(float_of_half(x[i]));
    if (magnitude < kThreshold && magnitude > most) most = magnitude;
  }
  most = block_max(most);
  const float scale = most > 0 ? mul_rn(127.0f, div_rn(1.0f, most)) : 0.0f;
  for (int i = thread_index(); i < a.stride; i += kThreads) {
    const bool counts = i < a.k && !a.marks[i];
    codes[i] = counts ? static_cast<int8_t>(round_to_int(mul_rn(float_of_half(x[i]), scale))) : int8_t{0};
  }
  if (thread_index() == 0) a.absmax[row] = most;
}

}  // namespace

void prepare(const PrepareArgs& args, Stream stream) { launch(prepare_kernel, {args.rows}, kThreads, stream, args); }
void quantize(const QuantizeArgs& args, Stream stream) {
  launch(quantize_kernel, {args.rows + 1}, kThreads, stream, args);
}

}  // namespace quantbench::QB_CUDA
