// What follows LLM.int8's int32 sums, the same for few and for many rows; included by ISA-specific files only.
#pragma once

#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {

constexpr float kOutputScale = 6.200012e-05f;  // 1/127², as bitsandbytes' CUDA source spells it (kInt8OutputScale)

// half(fma((float(acc) · row) · column, 1/127², bias)), as fp32.
QB_INLINE F32 int8_output(I32 acc, F32 row, F32 column, F32 bias) {
  return round_to_half(fma(mul(mul(to_f32(acc), row), column), set1(kOutputScale), bias));
}

// weights[c] = half(codes[c] · absmax[c] / 127) for 16 rows.
QB_INLINE void outlier_weights(float* weights, const int8_t* codes, const float* absmax) {
  for (int c = 0; c < 16; c += kLanes) {
    store(weights + c, round_to_half(div(mul(load_i8(codes + c), load(absmax + c)), set1(127.0f))));
  }
}

// acc[0 … 16) += Σ values[o][0 … 16) · weights[o · stride]. In fp32 and in the order of the
// columns, as specified; a product of two fp16 numbers is exact, so that multiplying and adding at once changes
// nothing.
QB_INLINE void add_products(float* acc, const float* values, const float* weights, int stride, int count) {
  for (int i = 0; i < 16; i += kLanes) {
    F32 sums = load(acc + i);
    for (int o = 0; o < count; ++o) {
      sums = fma(set1(weights[static_cast<size_t>(o) * stride]), load(values + static_cast<size_t>(o) * 16 + i), sums);
    }
    store(acc + i, sums);
  }
}

// half(out + outliers).
QB_INLINE F32 add_outliers(F32 out, F32 outliers) { return round_to_half(add(out, outliers)); }

}  // namespace quantbench::cpu::QB_ISA
