#include "quant/kernels.h"

#include <algorithm>

#include "core/cpu_features.h"
#include "quant/nf4.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define QB_AVX2 __attribute__((target("avx2,f16c,fma")))
#endif

namespace quantbench {
namespace {

// Adding 1.5 · 2^23 leaves no bits below one, so the adder rounds to the nearest even integer.
constexpr float kRounder = 12582912.0f;

inline int8_t int8_code(float x, float scale) {
  return static_cast<int8_t>(static_cast<int>((x * scale + kRounder) - kRounder));
}

// Counting the midpoints below x finds the nearest code. NaN (0 · 1/0 in an all-zero block) is above none: code 0, as
// in bitsandbytes.
inline uint8_t nf4_code(float x, const Nf4Midpoints& midpoints) {
  int code = 0;
  for (const float midpoint : midpoints.at) code += x > midpoint;
  return static_cast<uint8_t>(code);
}

uint16_t max_magnitude_portable(const f16* x, size_t count) {
  int16_t largest = 0;
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, static_cast<int16_t>(x[i].bits & 0x7fff));
  return static_cast<uint16_t>(largest);
}

void int8_codes_portable(const f16* x, size_t count, float scale, int8_t* codes) {
  for (size_t i = 0; i < count; ++i) codes[i] = int8_code(to_float(x[i]), scale);
}

void nf4_block_portable(const f16* x, size_t count, float* absmax, uint8_t* packed) {
  const Nf4Midpoints& midpoints = nf4_midpoints();
  *absmax = to_float(f16{max_magnitude_portable(x, count)});
  const float scale = 1.0f / *absmax;
  for (size_t i = 0; i < count; i += 2) {
    const uint8_t high = nf4_code(to_float(x[i]) * scale, midpoints);
    const uint8_t low = nf4_code((i + 1 < count ? to_float(x[i + 1]) : 0.0f) * scale, midpoints);
    packed[i / 2] = static_cast<uint8_t>(high << 4 | low);
  }
}

void nf4_blocks_portable(const f16* x, size_t count, float* absmax, uint8_t* packed) {
  for (size_t i = 0; i < count; i += kNf4Block) {
    nf4_block_portable(x + i, std::min<size_t>(kNf4Block, count - i), absmax + i / kNf4Block, packed + i / 2);
  }
}

#if defined(__x86_64__)

namespace avx2 {

// 16 fp16 without their signs.
QB_AVX2 inline __m256i magnitudes(const f16* x) {
  return _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)), _mm256_set1_epi16(0x7fff));
}

QB_AVX2 uint16_t max_magnitude(const f16* x, size_t count) {
  __m256i largest = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 16 <= count; i += 16) largest = _mm256_max_epi16(largest, magnitudes(x + i));
  alignas(32) int16_t lanes[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
  const int16_t vector = *std::max_element(lanes, lanes + 16);
  return std::max(static_cast<uint16_t>(vector), max_magnitude_portable(x + i, count - i));
}

QB_AVX2 inline __m256 load_scaled(const f16* x, __m256 scale) {
  return _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))), scale);
}

// Four registers of 8 int32 each → 32 bytes in their order.
QB_AVX2 inline __m256i narrow(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

QB_AVX2 void int8_codes(const f16* x, size_t count, float scale, int8_t* codes) {
  const __m256 factor = _mm256_set1_ps(scale);
  size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i bytes = narrow(
        _mm256_cvtps_epi32(load_scaled(x + i, factor)), _mm256_cvtps_epi32(load_scaled(x + i + 8, factor)),
        _mm256_cvtps_epi32(load_scaled(x + i + 16, factor)), _mm256_cvtps_epi32(load_scaled(x + i + 24, factor)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), bytes);
  }
  int8_codes_portable(x + i, count - i, scale, codes + i);
}

// The midpoints as a binary search visits them: one of the first level, then of two, four and eight.
struct Nf4Search {
  __m256 first, second_low, second_high, third, fourth;
};

QB_AVX2 inline Nf4Search nf4_search() {
  const float* m = nf4_midpoints().at;
  return {_mm256_set1_ps(m[7]), _mm256_set1_ps(m[3]), _mm256_set1_ps(m[11]),
          _mm256_setr_ps(m[1], m[5], m[9], m[13], m[1], m[5], m[9], m[13]),
          _mm256_setr_ps(m[0], m[2], m[4], m[6], m[8], m[10], m[12], m[14])};
}

// code · 2 + 1 where `above` holds, being −1 there.
QB_AVX2 inline __m256i append(__m256i code, __m256 above) {
  return _mm256_sub_epi32(_mm256_add_epi32(code, code), _mm256_castps_si256(above));
}

// The codes of 8 values. Each level appends the bit "above its midpoint", of which NaN is above none.
QB_AVX2 inline __m256i nf4_codes_of(__m256 x, const Nf4Search& search) {
  const __m256 first = _mm256_cmp_ps(x, search.first, _CMP_GT_OQ);
  const __m256 midpoint = _mm256_blendv_ps(search.second_low, search.second_high, first);
  __m256i code = append(_mm256_srli_epi32(_mm256_castps_si256(first), 31), _mm256_cmp_ps(x, midpoint, _CMP_GT_OQ));
  code = append(code, _mm256_cmp_ps(x, _mm256_permutevar8x32_ps(search.third, code), _CMP_GT_OQ));
  return append(code, _mm256_cmp_ps(x, _mm256_permutevar8x32_ps(search.fourth, code), _CMP_GT_OQ));
}

// 32 values → 16 bytes.
QB_AVX2 inline void nf4_half_block(const f16* x, __m256 scale, const Nf4Search& search, uint8_t* packed) {
  const __m256i bytes =
      narrow(nf4_codes_of(load_scaled(x, scale), search), nf4_codes_of(load_scaled(x + 8, scale), search),
             nf4_codes_of(load_scaled(x + 16, scale), search), nf4_codes_of(load_scaled(x + 24, scale), search));
  const __m256i pairs =
      _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x0110));  // (first, second) → 16 · first + second
  const __m128i out = _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(packed), out);
}

QB_AVX2 void nf4_blocks(const f16* x, size_t count, float* absmax, uint8_t* packed) {
  const Nf4Search search = nf4_search();
  size_t i = 0;
  for (; i + kNf4Block <= count; i += kNf4Block) {
    const __m256i largest = _mm256_max_epi16(_mm256_max_epi16(magnitudes(x + i), magnitudes(x + i + 16)),
                                             _mm256_max_epi16(magnitudes(x + i + 32), magnitudes(x + i + 48)));
    const __m128i half = _mm_max_epi16(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    // The only horizontal instruction looks for the least of 8: of the complements.
    const __m128i least = _mm_minpos_epu16(_mm_xor_si128(half, _mm_set1_epi16(-1)));
    const auto magnitude = static_cast<uint16_t>(~_mm_extract_epi16(least, 0));
    const float block_absmax = to_float(f16{magnitude});
    absmax[i / kNf4Block] = block_absmax;
    const __m256 scale = _mm256_set1_ps(1.0f / block_absmax);
    nf4_half_block(x + i, scale, search, packed + i / 2);
    nf4_half_block(x + i + 32, scale, search, packed + i / 2 + 16);
  }
  nf4_blocks_portable(x + i, count - i, absmax + i / kNf4Block, packed + i / 2);
}

}  // namespace avx2

#endif

}  // namespace

const Nf4Midpoints& nf4_midpoints() {
  static const Nf4Midpoints midpoints = [] {
    Nf4Midpoints m{};
    for (size_t i = 0; i < 15; ++i) m.at[i] = (kNf4Code[i] + kNf4Code[i + 1]) * 0.5f;
    return m;
  }();
  return midpoints;
}

const QuantKernels& portable_quant_kernels() {
  static constexpr QuantKernels kernels{max_magnitude_portable, int8_codes_portable, nf4_blocks_portable};
  return kernels;
}

const QuantKernels* avx2_quant_kernels() {
#if defined(__x86_64__)
  static constexpr QuantKernels kernels{avx2::max_magnitude, avx2::int8_codes, avx2::nf4_blocks};
  if (cpu_has_avx2()) return &kernels;
#endif
  return nullptr;
}

const QuantKernels& quant_kernels() {
  const QuantKernels* avx2 = avx2_quant_kernels();
  return avx2 ? *avx2 : portable_quant_kernels();
}

}  // namespace quantbench
