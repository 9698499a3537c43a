// Numbers of a checkpoint to fp16 or fp32, each loop in a portable version and in AVX2 with identical bits. Every
// conversion also returns the largest magnitude it read, so that the check for NaN, infinity and overflow costs no
// second pass over memory.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "core/half.h"

namespace quantbench {

// A magnitude is a number's bits as fp32 without the sign, so that integers compare as the numbers do: NaN is above
// infinity, which is above every finite value.
constexpr uint32_t kLargestF16Magnitude = std::bit_cast<uint32_t>(kMaxF16);
constexpr uint32_t kLargestF32Magnitude = 0x7f7fffff;
constexpr uint32_t kLargestBf16Magnitude = 0x7f7f7fff;  // from the next on fp32 rounds to infinity

struct ConvertKernels {
  // x[i] → out[i], rounded to nearest even; returns the largest magnitude among x. x need not be aligned.
  uint32_t (*f16_magnitude)(const f16* x, size_t count);
  uint32_t (*f32_magnitude)(const float* x, size_t count);
  uint32_t (*f32_to_f16)(const float* x, size_t count, f16* out);
  uint32_t (*bf16_to_f16)(const bf16* x, size_t count, f16* out);
  uint32_t (*bf16_to_f32)(const bf16* x, size_t count, float* out);
  uint32_t (*f16_to_f32)(const f16* x, size_t count, float* out);
};

// The same to bf16, which needs no more than the compiler makes of a loop.
uint32_t bf16_magnitude(const bf16* x, size_t count);
uint32_t f32_to_bf16(const float* x, size_t count, bf16* out);
uint32_t f16_to_bf16(const f16* x, size_t count, bf16* out);

const ConvertKernels& portable_convert_kernels();
const ConvertKernels* avx2_convert_kernels();  // nullptr where the CPU or the build has no AVX2
const ConvertKernels& convert_kernels();       // the best of the two

}  // namespace quantbench
