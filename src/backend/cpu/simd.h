// One spelling for the vectors of both kernel sets. Included only by files that are compiled once per set (QB_ISA names
// it); everything here has internal linkage and is inlined, so that no AVX-512 code can be merged into other files by
// the linker. For the same reason these files use no templates or inline functions of other headers.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernel_list.h"

#define QB_INLINE static inline __attribute__((always_inline, unused))

namespace quantbench::cpu::QB_ISA {

#if defined(__AVX512F__)

constexpr int kLanes = 16;  // fp32 a vector
using F32 = __m512;
using I32 = __m512i;
using Half = __m256i;  // kLanes fp16

QB_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }
QB_INLINE F32 zero() { return _mm512_setzero_ps(); }
QB_INLINE F32 set1(float x) { return _mm512_set1_ps(x); }
QB_INLINE F32 load(const float* p) { return _mm512_loadu_ps(p); }
QB_INLINE F32 load_first(const float* p, int count) { return _mm512_maskz_loadu_ps(first_lanes(count), p); }
QB_INLINE void store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
QB_INLINE void store_first(float* p, F32 x, int count) { _mm512_mask_storeu_ps(p, first_lanes(count), x); }
QB_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
QB_INLINE F32 fnma(F32 a, F32 b, F32 c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a·b
QB_INLINE F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
QB_INLINE F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
QB_INLINE F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
QB_INLINE F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
QB_INLINE F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
QB_INLINE F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
QB_INLINE F32 abs(F32 a) { return _mm512_abs_ps(a); }
QB_INLINE F32 round_nearest(F32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
QB_INLINE float sum(F32 a) { return _mm512_reduce_add_ps(a); }
QB_INLINE float largest(F32 a) { return _mm512_reduce_max_ps(a); }
QB_INLINE I32 to_i32(F32 a) { return _mm512_cvtps_epi32(a); }  // to nearest even
QB_INLINE F32 to_f32(I32 a) { return _mm512_cvtepi32_ps(a); }
QB_INLINE F32 pow2(F32 n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }
QB_INLINE Half load_half(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
QB_INLINE Half load_half_first(const uint16_t* p, int count) { return _mm256_maskz_loadu_epi16(first_lanes(count), p); }
QB_INLINE void store_half(uint16_t* p, Half x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
QB_INLINE void store_half_first(uint16_t* p, Half x, int count) { _mm256_mask_storeu_epi16(p, first_lanes(count), x); }
QB_INLINE F32 to_f32(Half x) { return _mm512_cvtph_ps(x); }
QB_INLINE Half to_half(F32 x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
QB_INLINE F32 widen_bf16s(Half x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
QB_INLINE F32 load_bf16(const Bf16* p) { return widen_bf16s(load_half(&p->bits)); }
QB_INLINE F32 load_bf16_first(const Bf16* p, int count) { return widen_bf16s(load_half_first(&p->bits, count)); }
// kLanes signed bytes as fp32.
QB_INLINE F32 load_i8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
QB_INLINE F32 gather(const float* table, I32 index) { return _mm512_i32gather_ps(index, table, 4); }
QB_INLINE I32 load_u8(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
QB_INLINE I32 load_i32(const int32_t* p) { return _mm512_loadu_si512(p); }
QB_INLINE void store_i32(int32_t* p, I32 x) { _mm512_storeu_si512(p, x); }
QB_INLINE I32 add(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
// acc + the sum of the products of a lane's four bytes (a unsigned, b signed), and of its two int16. Not intrinsics,
// because around those GCC 12 copies every sum to another register and back: a prefill in int8 then takes 1.6 times as
// long.
QB_INLINE I32 dot_u8_i8(I32 acc, I32 a, I32 b) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
  return acc;
}
QB_INLINE I32 dot_i16(I32 acc, I32 a, I32 b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
  return acc;
}

#else

constexpr int kLanes = 8;
using F32 = __m256;
using I32 = __m256i;
struct Half {  // a type of its own, because __m128i and __m256i vectors are converted differently
  __m128i v;
};

// The first `count` lanes set.
QB_INLINE __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
QB_INLINE F32 zero() { return _mm256_setzero_ps(); }
QB_INLINE F32 set1(float x) { return _mm256_set1_ps(x); }
QB_INLINE F32 load(const float* p) { return _mm256_loadu_ps(p); }
QB_INLINE F32 load_first(const float* p, int count) { return _mm256_maskload_ps(p, first_lanes(count)); }
QB_INLINE void store(float* p, F32 x) { _mm256_storeu_ps(p, x); }
QB_INLINE void store_first(float* p, F32 x, int count) { _mm256_maskstore_ps(p, first_lanes(count), x); }
QB_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
QB_INLINE F32 fnma(F32 a, F32 b, F32 c) { return _mm256_fnmadd_ps(a, b, c); }
QB_INLINE F32 add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
QB_INLINE F32 sub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
QB_INLINE F32 mul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
QB_INLINE F32 div(F32 a, F32 b) { return _mm256_div_ps(a, b); }
QB_INLINE F32 max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
QB_INLINE F32 min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
QB_INLINE F32 abs(F32 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
QB_INLINE F32 round_nearest(F32 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
QB_INLINE float sum(F32 a) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
QB_INLINE float largest(F32 a) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
QB_INLINE I32 to_i32(F32 a) { return _mm256_cvtps_epi32(a); }
QB_INLINE F32 to_f32(I32 a) { return _mm256_cvtepi32_ps(a); }
QB_INLINE F32 pow2(F32 n) {  // n in [-126, 127]
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
QB_INLINE Half load_half(const uint16_t* p) { return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))}; }
QB_INLINE Half load_half_first(const uint16_t* p, int count) {
  alignas(16) uint16_t copy[8] = {};
  for (int i = 0; i < count && i < 8; ++i) copy[i] = p[i];
  return {_mm_load_si128(reinterpret_cast<const __m128i*>(copy))};
}
QB_INLINE void store_half(uint16_t* p, Half x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x.v); }
QB_INLINE void store_half_first(uint16_t* p, Half x, int count) {
  alignas(16) uint16_t copy[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(copy), x.v);
  for (int i = 0; i < count && i < 8; ++i) p[i] = copy[i];
}
QB_INLINE F32 to_f32(Half x) { return _mm256_cvtph_ps(x.v); }
QB_INLINE Half to_half(F32 x) { return {_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
QB_INLINE F32 widen_bf16s(Half x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x.v), 16)); }
QB_INLINE F32 load_bf16(const Bf16* p) { return widen_bf16s(load_half(&p->bits)); }
QB_INLINE F32 load_bf16_first(const Bf16* p, int count) { return widen_bf16s(load_half_first(&p->bits, count)); }
QB_INLINE F32 load_i8(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
QB_INLINE F32 gather(const float* table, I32 index) { return _mm256_i32gather_ps(table, index, 4); }
QB_INLINE I32 load_u8(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
QB_INLINE I32 load_i32(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
QB_INLINE void store_i32(int32_t* p, I32 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
QB_INLINE I32 add(I32 a, I32 b) { return _mm256_add_epi32(a, b); }

#endif

// How far ahead of the weights in use their stream is fetched. Zen 5, two cores, GB/s where plain reading gives 75: nf4
// 59 without, 65 with 4 KB, 70 with 8, 69 with 12. fp16 asks for less (few_rows_dense.cpp), int8 for nothing.
constexpr size_t kPrefetchBytes = 8192;
template <size_t kBytes = kPrefetchBytes>
QB_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p) + kBytes, _MM_HINT_T0);
}

QB_INLINE int least(int a, int b) { return a < b ? a : b; }
QB_INLINE F32 round_to_half(F32 x) { return to_f32(to_half(x)); }

// e^x, relative error below 2e-7 for x in [-87, 88]; clamped outside, so that it is finite unless x is NaN.
// Cody and Waite's reduction to [-ln2/2, ln2/2], then the Taylor polynomial of degree 7 (remainder below 1e-8).
QB_INLINE F32 exp(F32 x) {
  x = min(set1(88.0f), max(set1(-87.0f), x));  // in this order a NaN stays one
  const F32 n = round_nearest(mul(x, set1(1.44269504f)));
  F32 r = fnma(n, set1(0.693359375f), x);
  r = fnma(n, set1(-2.12194440e-4f), r);
  F32 p = set1(1.98412698e-4f);
  p = fma(p, r, set1(1.38888889e-3f));
  p = fma(p, r, set1(8.33333333e-3f));
  p = fma(p, r, set1(4.16666667e-2f));
  p = fma(p, r, set1(1.66666667e-1f));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  return mul(p, pow2(n));
}

// x · σ(x), relative error below 5e-7.
QB_INLINE F32 silu(F32 x) { return div(x, add(set1(1.0f), exp(sub(zero(), x)))); }

// 0.5x(1 + tanh(u)) = x · σ(2u), u = √(2/π)(x + 0.044715x³): no cancellation, relative error below 2e-6 for
// |u| < 8, beyond that below 1e-6 of max(|x|, 1).
QB_INLINE F32 gelu_tanh(F32 x) {
  const F32 x3 = mul(mul(x, x), x);
  const F32 minus_2u = mul(set1(-1.5957691216f), fma(set1(0.044715f), x3, x));
  return div(x, add(set1(1.0f), exp(minus_2u)));
}

}  // namespace quantbench::cpu::QB_ISA
