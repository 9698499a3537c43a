// Decoding nf4: codes of a tile through a 16-entry table in registers, and the scales of its rows. Included by
// ISA-specific files only.
#pragma once

#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {

constexpr int kBlock = 64;         // weights that share a scale
constexpr int kNestedBlock = 256;  // blocks that share a nested scale
constexpr int kVectorsPerTile = kTile / kLanes;

// NF4's code, index 0 … 15 (quant/nf4.h).
alignas(64) constexpr float kCode[16] = {-1.0f,
                                         -0.6961928009986877f,
                                         -0.5250730514526367f,
                                         -0.39491748809814453f,
                                         -0.28444138169288635f,
                                         -0.18477343022823334f,
                                         -0.09105003625154495f,
                                         0.0f,
                                         0.07958029955625534f,
                                         0.16093020141124725f,
                                         0.24611230194568634f,
                                         0.33791524171829224f,
                                         0.44070982933044434f,
                                         0.5626170039176941f,
                                         0.7229568362236023f,
                                         1.0f};

#if defined(__AVX512F__)
struct CodeTable {
  __m512 values;
};
QB_INLINE CodeTable code_table() { return {_mm512_load_ps(kCode)}; }
// The values of the codes in bits [4 · kNibble, 4 · kNibble + 4) of each lane. vpermps looks at four bits only.
template <int kNibble>
QB_INLINE F32 decode(const CodeTable& table, I32 codes) {
  return _mm512_permutexvar_ps(kNibble == 0 ? codes : _mm512_srli_epi32(codes, 4 * kNibble), table.values);
}
#else
struct CodeTable {
  __m256 low, high;
};
QB_INLINE CodeTable code_table() { return {_mm256_load_ps(kCode), _mm256_load_ps(kCode + 8)}; }
// vpermps looks at three bits; the fourth, moved to the sign, chooses between the halves of the table.
template <int kNibble>
QB_INLINE F32 decode(const CodeTable& table, I32 codes) {
  const __m256i index = kNibble == 0 ? codes : _mm256_srli_epi32(codes, 4 * kNibble);
  const __m256 sign = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28 - 4 * kNibble));
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, index), _mm256_permutevar8x32_ps(table.high, index),
                          sign);
}
#endif

QB_INLINE I32 load_codes(const uint8_t* p) { return load_i32(reinterpret_cast<const int32_t*>(p)); }

// The dynamic 8-bit code of nested scales (quant/nf4.h: nested_code) for one index a lane.
#if defined(__AVX512F__)
// Computed, because a gather of 16 takes as long as half a block's products. With d = index - 127, group i of the code
// holds |d| in [2^i, 2^(i+1)), evenly spaced: 10^(i-6) · (0.1 + 0.9 · (|d| + 0.5 - 2^i) / 2^i). The fraction is
// m / 2^(i+1) - 1 with m = 2|d| + 1, whose exponent modulo 16 finds the group: 0 to 6, 7 for 1.0 (index 255) and 15 for
// 0 (d = 0). Within 1.5e-7 of the table, relative.
QB_INLINE F32 nested_values(const float*, I32 index) {
  const __m512 start = _mm512_setr_ps(1e-7f, 1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 0.1f, 1, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m512 slope = _mm512_setr_ps(9e-7f, 9e-6f, 9e-5f, 9e-4f, 9e-3f, 9e-2f, 0.9f, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m512i d = _mm512_sub_epi32(index, _mm512_set1_epi32(127));
  const F32 m = fma(to_f32(_mm512_abs_epi32(d)), set1(2.0f), set1(1.0f));
  const F32 fraction = sub(_mm512_getmant_ps(m, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src), set1(1.0f));
  const __m512i group = _mm512_srli_epi32(_mm512_castps_si512(m), 23);
  const F32 size = fma(fraction, _mm512_permutexvar_ps(group, slope), _mm512_permutexvar_ps(group, start));
  const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  // size | (d & sign)
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(size), d, sign, 0xF8));
}
#else
QB_INLINE F32 nested_values(const float* code, I32 index) { return gather(code, index); }
#endif

// Scales, block by block. A row's nested scale changes every 256 blocks of the flat order: within a row at multiples of
// nested_period blocks at the most.
QB_INLINE int nested_period(int blocks_per_row) {  // gcd(blocks a row, 256)
  const int lowest_bit = blocks_per_row & -blocks_per_row;
  return lowest_bit < kNestedBlock ? lowest_bit : kNestedBlock;
}

QB_INLINE F32 nested_scales(const Nf4Weight& w, int first_row, int blocks, int block) {
  alignas(64) float values[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int row = least(first_row + lane, w.n - 1);  // rows beyond n are padding
    values[lane] = w.nested_absmax[(static_cast<size_t>(row) * blocks + block) / kNestedBlock];
  }
  return load(values);
}

// Scales of block `block` for rows [first_row, first_row + kLanes) of the tile that starts at `tile_row`. `nested` must
// be up to date (nested_scales at multiples of nested_period).
QB_INLINE F32 block_scales(const Nf4Weight& w, int tile_row, int lane, int blocks, int block, F32 nested) {
  const size_t at = static_cast<size_t>(tile_row) * blocks + static_cast<size_t>(block) * kTile + lane;
  if (!w.absmax8) return load(w.absmax + at);
  return add(mul(nested_values(w.nested_code, load_u8(w.absmax8 + at)), nested), set1(w.offset));
}

// Element `index` of the flat order.
QB_INLINE float flat_scale(const Nf4Weight& w, size_t block) {
  if (!w.absmax8) return w.absmax[block];
  return w.nested_code[w.absmax8[block]] * w.nested_absmax[block / kNestedBlock] + w.offset;
}
QB_INLINE void expand_flat_row(float* out, const Nf4Weight& w, int row) {
  const size_t begin = static_cast<size_t>(row) * w.k, end = begin + static_cast<size_t>(w.k);
  for (size_t i = begin; i < end;) {
    const float scale = flat_scale(w, i / kBlock);
    const size_t block_end = (i / kBlock + 1) * kBlock;
    for (; i < end && i < block_end; ++i) {
      const uint8_t pair = w.codes[i / 2];
      *out++ = kCode[i % 2 == 0 ? pair >> 4 : pair & 15] * scale;
    }
  }
}

}  // namespace quantbench::cpu::QB_ISA
