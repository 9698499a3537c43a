// One row on its way into a product: norm, rounding to fp16, LLM.int8's codes. Shared by the kernels that prepare rows
// and by those that do it for themselves.
#pragma once

#include <cmath>

#include "backend/cuda/block.cuh"
#include "backend/cuda/kernels.h"

namespace quantbench::QB_CUDA {

constexpr float kThreshold = 6.0f;  // kInt8Threshold

struct NormFactors {
  double mean = 0, factor = 1;
};
// Of x [k], by the whole block. Exact: summed in double and rounded once, as the reference does, so that LLM.int8 finds
// the same codes; else in fp32, but for a mean that is taken off.
template <int kThreads, bool kExact>
QB_DEVICE NormFactors norm_factors(const float* x, int k, const RowNorm& norm) {
  NormFactors f;
  if (!norm.weight) return f;
  if (!kExact && !norm.centered) {
    float square = 0;
    for (int i = thread_index(); i < k; i += kThreads) square = fmaf(x[i], x[i], square);
    f.factor = 1 / sqrtf(block_sum<kThreads>(square) / static_cast<float>(k) + norm.eps);
    return f;
  }
  if (norm.centered) {
    double sum = 0;
    for (int i = thread_index(); i < k; i += kThreads) sum += x[i];
    f.mean = block_sum<kThreads>(sum) / k;
  }
  double square = 0;
  for (int i = thread_index(); i < k; i += kThreads) square += (x[i] - f.mean) * (x[i] - f.mean);
  f.factor = 1 / sqrt(block_sum<kThreads>(square) / k + static_cast<double>(norm.eps));
  return f;
}
template <bool kExact>
QB_DEVICE float normed(float x, int i, const NormFactors& f, const RowNorm& norm) {
  if (!norm.weight) return x;
  if constexpr (!kExact) {
    const float own = (x - static_cast<float>(f.mean)) * static_cast<float>(f.factor);
    return fmaf(own, norm.weight[i], norm.bias ? norm.bias[i] : 0.0f);
  }
  const double bias = norm.bias ? norm.bias[i] : 0;
  return static_cast<float>((x - f.mean) * f.factor * norm.weight[i] + bias);
}

// The factor of a row's codes: 127 · (1 / absmax), as quant/int8.h.
QB_DEVICE float code_scale(float absmax) { return absmax > 0 ? mul_rn(127.0f, reciprocal_rn(absmax)) : 0.0f; }
QB_DEVICE int8_t code_of(uint16_t half, float scale) {
  return static_cast<int8_t>(round_to_int(mul_rn(float_of_half(half), scale)));
}

QB_DEVICE void mark(uint8_t* marks, uint16_t half) {  // all who write here write the same
  if (fabsf(float_of_half(half)) >= kThreshold) *marks = 1;
}
// Numbers `column` (even) and the one after it of a row, also as the next product wants them.
QB_DEVICE void leave_ready(const ReadyRows& ready, int row, int column, float x, float y) {
  if (!ready.x16) return;
  const uint16_t first = half_of_float(x), second = half_of_float(y);
  *reinterpret_cast<uint32_t*>(ready.x16 + static_cast<size_t>(row) * ready.stride + column) = first | uint32_t{second}
                                                                                                           << 16;
  if (!ready.marks) return;
  mark(ready.marks + column, first);
  mark(ready.marks + column + 1, second);
}

// Where a block keeps a row of its own, in dynamic shared memory.
struct OwnRow {
  uint16_t* x16;      // [stride]
  int8_t* codes;      // [stride], int8 only
  int32_t* outliers;  // [1 + k], int8 only
};
QB_DEVICE OwnRow own_row(int stride) {
  std::byte* const at = dynamic_shared();
  const size_t count = static_cast<size_t>(stride);
  return {reinterpret_cast<uint16_t*>(at), reinterpret_cast<int8_t*>(at + count * sizeof(uint16_t)),
          reinterpret_cast<int32_t*>(at + count * (sizeof(uint16_t) + sizeof(int8_t)))};
}

// Makes row x [k] ready in `to`; all threads may read it afterwards. A single row: its outliers are elements, not
// columns. Returns the absmax of the others.
template <int kThreads, bool kInt8>
QB_DEVICE float make_row(const OwnRow& to, const float* x, int k, int stride, const RowNorm& norm) {
  const NormFactors factors = norm_factors<kThreads, kInt8>(x, k, norm);
  float most = 0;
  bool has_outlier = false;
  for (int i = thread_index(); i < stride; i += kThreads) {
    const uint16_t half = half_of_float(i < k ? normed<kInt8>(x[i], i, factors, norm) : 0.0f);
    to.x16[i] = half;
    if (kInt8) {
      const float magnitude = fabsf(float_of_half(half));
      if (magnitude >= kThreshold)
        has_outlier = true;
      else if (magnitude > most)
        most = magnitude;
    }
  }
  if (!kInt8) {
    sync_block();
    return 0;
  }
  most = block_max<kThreads>(most);
  has_outlier = block_max<kThreads>(has_outlier ? 1.0f : 0.0f) > 0;
  const float scale = code_scale(most);
  for (int i = thread_index(); i < stride; i += kThreads) {
    const bool outlier = fabsf(float_of_half(to.x16[i])) >= kThreshold;
    to.codes[i] = outlier ? int8_t{0} : code_of(to.x16[i], scale);
  }
  if (has_outlier) {
    const int share = (k + kThreads - 1) / kThreads, first = thread_index() * share;
    const int last = first + share < k ? first + share : k;
    int own = 0, total = 0;
    for (int i = first; i < last; ++i) own += fabsf(float_of_half(to.x16[i])) >= kThreshold;
    int at = block_rank<kThreads>(own, &total);
    for (int i = first; i < last; ++i) {
      if (fabsf(float_of_half(to.x16[i])) >= kThreshold) to.outliers[1 + at++] = i;
    }
    if (thread_index() == 0) to.outliers[0] = total;
  } else if (thread_index() == 0) {
    to.outliers[0] = 0;
  }
  sync_block();
  return most;
}

}  // namespace quantbench::QB_CUDA
