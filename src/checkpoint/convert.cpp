#include "checkpoint/convert.h"

#include <algorithm>

#include "core/cpu_features.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define QB_AVX2 __attribute__((target("avx2,f16c,fma")))
#endif

namespace quantbench {
namespace {

constexpr uint32_t kMagnitudeMask = 0x7fffffff;
uint32_t magnitude_of(float x) { return std::bit_cast<uint32_t>(x) & kMagnitudeMask; }

uint32_t f16_magnitude_portable(const f16* x, size_t count) {
  int16_t largest = 0;  // f16 bits compare as the numbers do, too
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, static_cast<int16_t>(x[i].bits & 0x7fff));
  return magnitude_of(to_float(f16{static_cast<uint16_t>(largest)}));
}

uint32_t f32_magnitude_portable(const float* x, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, magnitude_of(x[i]));
  return largest;
}

uint32_t f32_to_f16_portable(const float* x, size_t count, f16* out) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    largest = std::max(largest, magnitude_of(x[i]));
    out[i] = to_f16(x[i]);
  }
  return largest;
}

uint32_t bf16_to_f16_portable(const bf16* x, size_t count, f16* out) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const float value = to_float(x[i]);
    largest = std::max(largest, magnitude_of(value));
    out[i] = to_f16(value);
  }
  return largest;
}

uint32_t bf16_to_f32_portable(const bf16* x, size_t count, float* out) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    out[i] = to_float(x[i]);
    largest = std::max(largest, magnitude_of(out[i]));
  }
  return largest;
}

uint32_t f16_to_f32_portable(const f16* x, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = to_float(x[i]);
  return f16_magnitude_portable(x, count);
}

#if defined(__x86_64__)

namespace avx2 {

QB_AVX2 inline __m256i load(const void* x) { return _mm256_loadu_si256(static_cast<const __m256i*>(x)); }

QB_AVX2 inline __m256i larger_magnitude(__m256i largest, __m256i x) {
  return _mm256_max_epu32(largest, _mm256_and_si256(x, _mm256_set1_epi32(kMagnitudeMask)));
}

QB_AVX2 inline uint32_t largest_lane(__m256i lanes) {
  alignas(32) uint32_t values[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(values), lanes);
  return *std::max_element(values, values + 8);
}

// 8 bf16 → 8 fp32.
QB_AVX2 inline __m256i widen(const bf16* x) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
}

QB_AVX2 inline void store_f16(f16* out, __m256i x) {
  const __m128i half = _mm256_cvtps_ph(_mm256_castsi256_ps(x), _MM_FROUND_TO_NEAREST_INT);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), half);
}

QB_AVX2 uint32_t f16_magnitude(const f16* x, size_t count) {
  const __m256i mask = _mm256_set1_epi16(0x7fff);
  __m256i a = _mm256_setzero_si256(), b = a;
  size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    a = _mm256_max_epi16(a, _mm256_and_si256(load(x + i), mask));
    b = _mm256_max_epi16(b, _mm256_and_si256(load(x + i + 16), mask));
  }
  alignas(32) int16_t lanes[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_max_epi16(a, b));
  const f16 vector{static_cast<uint16_t>(*std::max_element(lanes, lanes + 16))};
  return std::max(magnitude_of(to_float(vector)), f16_magnitude_portable(x + i, count - i));
}

QB_AVX2 uint32_t f32_magnitude(const float* x, size_t count) {
  __m256i a = _mm256_setzero_si256(), b = a;
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    a = larger_magnitude(a, load(x + i));
    b = larger_magnitude(b, load(x + i + 8));
  }
  return std::max(largest_lane(_mm256_max_epu32(a, b)), f32_magnitude_portable(x + i, count - i));
}

QB_AVX2 uint32_t f32_to_f16(const float* x, size_t count, f16* out) {
  __m256i largest = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i value = load(x + i);
    largest = larger_magnitude(largest, value);
    store_f16(out + i, value);
  }
  return std::max(largest_lane(largest), f32_to_f16_portable(x + i, count - i, out + i));
}

QB_AVX2 uint32_t bf16_to_f16(const bf16* x, size_t count, f16* out) {
  __m256i largest = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i value = widen(x + i);
    largest = larger_magnitude(largest, value);
    store_f16(out + i, value);
  }
  return std::max(largest_lane(largest), bf16_to_f16_portable(x + i, count - i, out + i));
}

QB_AVX2 uint32_t bf16_to_f32(const bf16* x, size_t count, float* out) {
  __m256i largest = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i value = widen(x + i);
    largest = larger_magnitude(largest, value);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), value);
  }
  return std::max(largest_lane(largest), bf16_to_f32_portable(x + i, count - i, out + i));
}

// The hardware makes signalling NaNs quiet and to_float() does not, so a piece with a NaN is left to to_float(): rare,
// and kept only where --allow-nonfinite allows it.
QB_AVX2 uint32_t f16_to_f32(const f16* x, size_t count, float* out) {
  const uint32_t largest = f16_magnitude(x, count);
  if (largest > 0x7f800000u) return f16_to_f32_portable(x, count, out);
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  }
  f16_to_f32_portable(x + i, count - i, out + i);
  return largest;
}

}  // namespace avx2

#endif

}  // namespace

uint32_t bf16_magnitude(const bf16* x, size_t count) {
  int16_t largest = 0;
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, static_cast<int16_t>(x[i].bits & 0x7fff));
  return static_cast<uint32_t>(largest) << 16;
}

uint32_t f32_to_bf16(const float* x, size_t count, bf16* out) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    largest = std::max(largest, magnitude_of(x[i]));
    out[i] = to_bf16(x[i]);
  }
  return largest;
}

uint32_t f16_to_bf16(const f16* x, size_t count, bf16* out) {
  for (size_t i = 0; i < count; ++i) out[i] = to_bf16(to_float(x[i]));
  return f16_magnitude_portable(x, count);
}

const ConvertKernels& portable_convert_kernels() {
  static constexpr ConvertKernels kernels{f16_magnitude_portable, f32_magnitude_portable, f32_to_f16_portable,
                                          bf16_to_f16_portable,   bf16_to_f32_portable,   f16_to_f32_portable};
  return kernels;
}

const ConvertKernels* avx2_convert_kernels() {
#if defined(__x86_64__)
  static constexpr ConvertKernels kernels{avx2::f16_magnitude, avx2::f32_magnitude, avx2::f32_to_f16,
                                          avx2::bf16_to_f16,   avx2::bf16_to_f32,   avx2::f16_to_f32};
  if (cpu_has_avx2()) return &kernels;
#endif
  return nullptr;
}

const ConvertKernels& convert_kernels() {
  const ConvertKernels* avx2 = avx2_convert_kernels();
  return avx2 ? *avx2 : portable_convert_kernels();
}

}  // namespace quantbench
