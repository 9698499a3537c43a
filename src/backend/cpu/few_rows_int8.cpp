// LLM.int8 products of up to eight rows. int32 sums are exact, so their order is free; everything after them follows
// quant/int8.h step by step, so that the result is the reference's to the bit.
#include "backend/cpu/int8_finish.h"
#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {
namespace {

constexpr int kGroup = 16;  // weight rows whose sums are finished together; their bytes are still in the cache then

#if defined(__AVX512F__)

// acc[r] = Σ codes[r]·w over k. vpdpbusd multiplies unsigned by signed bytes: w + 128 is unsigned, and 128·Σ codes is
// taken off at the end.
template <int kRows>
QB_INLINE void sums(int32_t* acc, const Int8Rows& x, const int8_t* w, int k) {
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  __m512i a[kRows], b[kRows];
  for (int r = 0; r < kRows; ++r) a[r] = b[r] = _mm512_setzero_si512();
  int j = 0;
  for (; j + 128 <= k; j += 128) {
    const __m512i v0 = _mm512_xor_si512(_mm512_loadu_si512(w + j), flip);
    const __m512i v1 = _mm512_xor_si512(_mm512_loadu_si512(w + j + 64), flip);
    if constexpr (kRows > 1) {  // a single row is one long stream, which the hardware follows by itself
      prefetch(w + j);
      prefetch(w + j + 64);
    }
    for (int r = 0; r < kRows; ++r) {
      const int8_t* codes = x.codes + r * x.stride + j;
      a[r] = dot_u8_i8(a[r], v0, _mm512_loadu_si512(codes));
      b[r] = dot_u8_i8(b[r], v1, _mm512_loadu_si512(codes + 64));
    }
  }
  for (; j < k; j += 64) {
    const int left = least(k - j, 64);
    const __mmask64 mask = left == 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
    const __m512i v = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, w + j), flip);
    // Codes beyond k are zero, so what stands beside them does not matter.
    for (int r = 0; r < kRows; ++r) {
      a[r] = dot_u8_i8(a[r], v, _mm512_loadu_si512(x.codes + r * x.stride + j));
    }
  }
  for (int r = 0; r < kRows; ++r) {
    acc[static_cast<size_t>(r) * kGroup] = _mm512_reduce_add_epi32(_mm512_add_epi32(a[r], b[r])) - 128 * x.sums[r];
  }
}

#else

QB_INLINE int32_t sum_i32(__m256i v) {
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
  return _mm_cvtsi128_si32(half);
}

// Widened to 16 bits: vpmaddubsw would saturate.
template <int kRows>
QB_INLINE void sums(int32_t* acc, const Int8Rows& x, const int8_t* w, int k) {
  __m256i a[kRows];
  for (int r = 0; r < kRows; ++r) a[r] = _mm256_setzero_si256();
  int j = 0;
  for (; j + 16 <= k; j += 16) {
    const __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w + j)));
    for (int r = 0; r < kRows; ++r) {
      const auto* codes = reinterpret_cast<const __m128i*>(x.codes + r * x.stride + j);
      a[r] = _mm256_add_epi32(a[r], _mm256_madd_epi16(v, _mm256_cvtepi8_epi16(_mm_loadu_si128(codes))));
    }
  }
  for (int r = 0; r < kRows; ++r) {
    int32_t total = sum_i32(a[r]);
    for (int i = j; i < k; ++i) total += int32_t{w[i]} * x.codes[r * x.stride + i];
    acc[static_cast<size_t>(r) * kGroup] = total;
  }
}

#endif

template <int kRows>
void products(float* y, size_t ldy, const Int8Rows& x, const Int8Weight& weight, const float* bias, int first,
              int last) {
  const size_t k = static_cast<size_t>(x.k);
  for (int i = first; i < last; i += kGroup) {
    const int count = least(kGroup, last - i);
    const int8_t* w = weight.w + i * k;
    alignas(64) int32_t acc[kRows * kGroup];
    alignas(64) float scales[kGroup] = {}, biases[kGroup] = {};
    for (int c = 0; c < count; ++c) sums<kRows>(acc + c, x, w + c * k, x.k);
    for (int c = 0; c < count; ++c) {
      scales[c] = weight.absmax[i + c];
      if (bias) biases[c] = bias[i + c];
    }
    // The outlier columns of these rows, one vector of weights a column, added up in the order of the columns.
    alignas(64) float outliers[kRows * kGroup] = {};
    for (int o = 0; o < x.outliers; ++o) {
      alignas(16) int8_t codes[kGroup] = {};
      for (int c = 0; c < count; ++c) codes[c] = w[c * k + static_cast<size_t>(x.columns[o])];
      alignas(64) float weights[kGroup];
      outlier_weights(weights, codes, scales);
      for (int r = 0; r < kRows; ++r) {
        const F32 value = set1(x.x[static_cast<size_t>(r) * x.k + x.columns[o]]);
        for (int c = 0; c < kGroup; c += kLanes) {
          float* const to = outliers + r * kGroup + c;
          store(to, fma(value, load(weights + c), load(to)));
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < count; c += kLanes) {
        const F32 row = set1(x.absmax[r]);
        F32 out = int8_output(load_i32(acc + r * kGroup + c), row, load(scales + c), load(biases + c));
        if (x.outliers != 0) out = add_outliers(out, load(outliers + r * kGroup + c));
        store_first(y + r * ldy + (i - first) + c, out, least(kLanes, count - c));
      }
    }
  }
}

}  // namespace

void few_rows_int8(float* y, size_t ldy, const Int8Rows& x, const Int8Weight& w, const float* bias, int first,
                   int last) {
  switch (x.rows) {
    case 1: return products<1>(y, ldy, x, w, bias, first, last);
    case 2: return products<2>(y, ldy, x, w, bias, first, last);
    case 3: return products<3>(y, ldy, x, w, bias, first, last);
    case 4: return products<4>(y, ldy, x, w, bias, first, last);
    case 5: return products<5>(y, ldy, x, w, bias, first, last);
    case 6: return products<6>(y, ldy, x, w, bias, first, last);
    case 7: return products<7>(y, ldy, x, w, bias, first, last);
    default: return products<8>(y, ldy, x, w, bias, first, last);
  }
}

}  // namespace quantbench::cpu::QB_ISA
