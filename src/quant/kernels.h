// The inner loops of quantising, each in a portable version and in AVX2, with identical bytes out of both.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/half.h"

namespace quantbench {

struct QuantKernels {
  // The largest |x[i]| as the bits of an f16 without sign (0 for count 0). NaN counts as larger than infinity.
  uint16_t (*max_magnitude)(const f16* x, size_t count);

  // codes[i] = round to nearest even of x[i] · scale. |x[i] · scale| < 2^22 for every i.
  void (*int8_codes)(const f16* x, size_t count, float scale, int8_t* codes);

  // Blocks of 64, the last may be shorter: absmax[b] = max|x|, and one NF4 code for each x[i] · (1 / absmax[b]), two a
  // byte, the first in the high nibble. An odd count ends in the code of 0.
  // absmax: [ceil(count / 64)]; packed: [ceil(count / 2)].
  void (*nf4_blocks)(const f16* x, size_t count, float* absmax, uint8_t* packed);
};

const QuantKernels& portable_quant_kernels();
const QuantKernels* avx2_quant_kernels();  // nullptr where the CPU or the build has no AVX2
const QuantKernels& quant_kernels();       // the best of the two

// at[i] lies between codes i and i + 1: a value has code i + 1 at least if it is greater.
struct Nf4Midpoints {
  float at[15];
};
const Nf4Midpoints& nf4_midpoints();

}  // namespace quantbench
