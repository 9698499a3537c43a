// Makes the rows of a product ready: norm, rounding to fp16, LLM.int8's outliers, codes and scales.
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/row.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256;

// A block a row.
__global__ void __launch_bounds__(kThreads) prepare_kernel(const __grid_constant__ PrepareArgs a) {
  wait_for_previous();
  let_next_start();
  const int row = block_x();
  const float* const x = a.x + static_cast<size_t>(row) * a.k;
  const NormFactors factors = norm_factors<kThreads>(x, a.k, a.norm);
  for (int i = thread_index(); i < a.stride; i += kThreads) {
    const float value = i < a.k ? normed(x[i], i, factors, a.norm) : 0.0f;
    if (a.x32 && i < a.k) a.x32[static_cast<size_t>(row) * a.k + i] = value;
    const uint16_t rounded = half_of_float(value);
    a.x16[static_cast<size_t>(row) * a.stride + i] = rounded;
    if (a.marks && fabsf(float_of_half(rounded)) >= kThreshold) a.marks[i] = 1;  // all who write here write the same
  }
}

// Blocks 0 … rows - 1 quantise a row each; the last one lists the outlier columns.
__global__ void __launch_bounds__(kThreads) quantize_kernel(const __grid_constant__ QuantizeArgs a) {
  wait_for_previous();
  let_next_start();
  const int row = block_x();
  if (row == a.rows) {
    const int share = (a.k + kThreads - 1) / kThreads, first = thread_index() * share;
    const int last = first + share < a.k ? first + share : a.k;
    int own = 0, total = 0;
    for (int i = first; i < last; ++i) own += a.marks[i] != 0;
    int at = block_rank<kThreads>(own, &total);
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
  most = block_max<kThreads>(most);
  const float scale = code_scale(most);
  for (int i = thread_index(); i < a.stride; i += kThreads) {
    codes[i] = i < a.k && !a.marks[i] ? code_of(x[i], scale) : int8_t{0};
  }
  if (thread_index() == 0) a.absmax[row] = most;
}

}  // namespace

void prepare(const PrepareArgs& args, const Stream& stream) {
  launch(prepare_kernel, {args.rows}, kThreads, stream, args);
}
void quantize(const QuantizeArgs& args, const Stream& stream) {
  launch(quantize_kernel, {args.rows + 1}, kThreads, stream, args);
}

}  // namespace quantbench::QB_CUDA
