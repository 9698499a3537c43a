// nf4 products of up to eight rows. A vector lane is a weight row: eight consecutive codes of 16 rows fill a register,
// a permutation looks up codes, broadcast activations multiply them; no horizontal sums.
//
// AVX-512: the table holds the code in units of 1/8191 and activations are int16 in units of 1/16383 of their block's
// largest, so that one vpermw looks up two codes a lane and one vpdpwssd multiplies and adds both: 11 vector
// instructions per 128 weights, where exact fp32 (vpermps and a multiply-add a code) takes 23 and cannot keep up with
// more than 25 GB/s a core on a Zen 5. int32 sums of 16 products are exact (16 · 8191 · 16383 < 2^31); a block's sum is
// scaled in fp32. Rounding code and activation costs about 1e-4 of the product, a third of what bitsandbytes' half
// arithmetic does. AVX2: exact codes in fp32.
#include "backend/cpu/nf4_tile.h"
#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {
namespace {

#if !defined(__AVX512F__)

// The activation that goes with nibble t of a dword: bitsandbytes puts the first code of a byte into the high half.
constexpr int element_of(int nibble) { return nibble ^ 1; }

// acc[r][t % kChains] += code · x for the eight codes of each lane of `codes`.
template <int kNibble, int kRows, int kChains>
QB_INLINE void multiply(F32 (&acc)[kRows][kChains], const CodeTable& table, I32 codes, const float* x, size_t ldx) {
  const F32 w = decode<kNibble>(table, codes);
  for (int r = 0; r < kRows; ++r) {
    F32& to = acc[r][kNibble % kChains];
    to = fma(w, set1(x[r * ldx + element_of(kNibble)]), to);
  }
}

template <int kRows, int kChains>
QB_INLINE void tile(float* y, size_t ldy, int count, const float* x, size_t ldx, const Nf4Weight& w, int row,
                    int lane) {
  const int blocks = w.k / kBlock, period = nested_period(blocks);
  const uint8_t* codes = w.codes + static_cast<size_t>(row) * w.k / 2 + size_t{4} * lane;
  const CodeTable table = code_table();
  F32 total[kRows];
  for (int r = 0; r < kRows; ++r) total[r] = zero();
  F32 nested = zero();
  for (int b = 0; b < blocks; ++b) {
    if (w.absmax8 && b % period == 0) nested = nested_scales(w, row + lane, blocks, b);
    F32 acc[kRows][kChains];
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kChains; ++c) acc[r][c] = zero();
    }
    for (int j = 0; j < kBlock; j += 8, codes += size_t{4} * kTile) {
      const I32 v = load_codes(codes);
      const float* at = x + static_cast<size_t>(b) * kBlock + j;
      multiply<0>(acc, table, v, at, ldx);
      multiply<1>(acc, table, v, at, ldx);
      multiply<2>(acc, table, v, at, ldx);
      multiply<3>(acc, table, v, at, ldx);
      multiply<4>(acc, table, v, at, ldx);
      multiply<5>(acc, table, v, at, ldx);
      multiply<6>(acc, table, v, at, ldx);
      multiply<7>(acc, table, v, at, ldx);
    }
    const F32 scale = block_scales(w, row, lane, blocks, b, nested);
    for (int r = 0; r < kRows; ++r) {
      F32 sum = acc[r][0];
      for (int c = 1; c < kChains; ++c) sum = add(sum, acc[r][c]);
      total[r] = fma(scale, sum, total[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) store_first(y + r * ldy + lane, total[r], least(kLanes, count - lane));
}

template <int kRows, int kChains>
void tiles(float* y, size_t ldy, const float* x, size_t ldx, const Nf4Weight& w, int first, int last) {
  for (int row = first; row < last; row += kTile) {
    const int count = least(kTile, last - row);
    for (int lane = 0; lane < count; lane += kLanes) {
      tile<kRows, kChains>(y + (row - first), ldy, count, x, ldx, w, row, lane);
    }
  }
}

#else

constexpr float kCodeUnits = 8191, kActivationUnits = 16383;
constexpr int kExact = 16;  // products whose int32 sum cannot overflow
// How far ahead of the codes in use. Zen 5, two cores, memory that gives 66 GB/s: 59 GB/s of codes without, 65 with 4
// KB, 70 with 8 KB, 69 with 12 KB.
constexpr size_t kPrefetchBytes = 8192;

// The code twice over: vpermw looks at five bits, and the fifth belongs to the next nibble.
QB_INLINE __m512i code_table_i16() {
  alignas(64) int16_t table[32];
  for (int i = 0; i < 32; ++i) {
    const float code = kCode[i % 16] * kCodeUnits;
    table[i] = static_cast<int16_t>(code + (code < 0 ? -0.5f : 0.5f));
  }
  return _mm512_load_si512(table);
}

// acc[r] += Σ of the eight codes of each lane times their activations; pairs: [rows][4] of int16 pairs.
template <int kRows>
QB_INLINE void multiply_i16(__m512i (&acc)[kRows], __m512i table, const uint8_t* codes, const int16_t* pairs,
                            size_t stride) {
  const __m512i v = _mm512_loadu_si512(codes);
  prefetch(codes);
  const __m512i w[4] = {_mm512_permutexvar_epi16(v, table), _mm512_permutexvar_epi16(_mm512_srli_epi16(v, 4), table),
                        _mm512_permutexvar_epi16(_mm512_srli_epi16(v, 8), table),
                        _mm512_permutexvar_epi16(_mm512_srli_epi16(v, 12), table)};
  for (int r = 0; r < kRows; ++r) {
    const auto* x = reinterpret_cast<const int32_t*>(pairs + r * stride);
    for (int i = 0; i < 4; ++i) acc[r] = dot_i16(acc[r], w[i], _mm512_set1_epi32(x[i]));
  }
}

template <int kRows>
QB_INLINE void tile_i16(float* y, size_t ldy, int count, const Nf4Rows& x, const Nf4Weight& w, int row) {
  const int blocks = w.k / kBlock, period = nested_period(blocks);
  const size_t k = static_cast<size_t>(w.k);
  const uint8_t* codes = w.codes + static_cast<size_t>(row) * k / 2;
  const __m512i table = code_table_i16();
  F32 total[kRows];
  for (int r = 0; r < kRows; ++r) total[r] = zero();
  F32 nested = zero();
  for (int b = 0; b < blocks; ++b) {
    if (w.absmax8 && b % period == 0) nested = nested_scales(w, row, blocks, b);
    F32 sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = zero();
    for (int j = 0; j < kBlock; j += kExact, codes += size_t{8} * kTile) {
      const int16_t* at = x.codes + static_cast<size_t>(b) * kBlock + j;
      __m512i acc[kRows];
      for (int r = 0; r < kRows; ++r) acc[r] = _mm512_setzero_si512();
      multiply_i16<kRows>(acc, table, codes, at, k);
      multiply_i16<kRows>(acc, table, codes + size_t{4} * kTile, at + 8, k);
      for (int r = 0; r < kRows; ++r) sums[r] = add(sums[r], to_f32(acc[r]));
    }
    const F32 scale = block_scales(w, row, 0, blocks, b, nested);
    for (int r = 0; r < kRows; ++r) {
      total[r] = fma(mul(scale, set1(x.scales[static_cast<size_t>(r) * blocks + b])), sums[r], total[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) store_first(y + r * ldy, total[r], count);
}

template <int kRows>
void tiles_i16(float* y, size_t ldy, const Nf4Rows& x, const Nf4Weight& w, int first, int last) {
  for (int row = first; row < last; row += kTile) {
    tile_i16<kRows>(y + (row - first), ldy, least(kTile, last - row), x, w, row);
  }
}

#endif

void flat(float* y, size_t ldy, const float* x, size_t ldx, int rows, const Nf4Weight& w, int first, int last,
          float* scratch) {
  for (int i = first; i < last; ++i) {
    expand_flat_row(scratch, w, i);
    for (int r = 0; r < rows; ++r) {
      F32 acc = zero();
      for (int j = 0; j < w.k; j += kLanes) {
        const int left = least(kLanes, w.k - j);
        acc = fma(load_first(scratch + j, left), load_first(x + r * ldx + j, left), acc);
      }
      y[r * ldy + (i - first)] = sum(acc);
    }
  }
}

}  // namespace

void quantize_nf4_row(int16_t* codes, float* scales, const float* x, int k) {
#if defined(__AVX512F__)
  // The nibbles of a dword as 16-bit words see them.
  const __m512i order = _mm512_setr_epi32(1, 5, 0, 4, 3, 7, 2, 6, 9, 13, 8, 12, 11, 15, 10, 14);
  for (int b = 0; b < k / kBlock; ++b, x += kBlock, codes += kBlock) {
    F32 most = zero();
    for (int j = 0; j < kBlock; j += kLanes) most = max(most, abs(load(x + j)));
    const float top = largest(most);
    scales[b] = top / (kActivationUnits * kCodeUnits);
    const F32 factor = set1(top > 0 ? kActivationUnits / top : 0.0f);
    for (int j = 0; j < kBlock; j += kLanes) {
      const __m512i rounded = _mm512_permutexvar_epi32(order, to_i32(mul(load(x + j), factor)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + j), _mm512_cvtepi32_epi16(rounded));
    }
  }
#else
  (void)codes, (void)scales, (void)x, (void)k;  // exact in fp32, so never asked for
#endif
}

void few_rows_nf4(float* y, size_t ldy, const Nf4Rows& x, const Nf4Weight& w, int first, int last, float* scratch) {
  if (w.k % kBlock != 0) return flat(y, ldy, x.x, x.ldx, x.rows, w, first, last, scratch);
#if defined(__AVX512F__)
  switch (x.rows) {
    case 1: return tiles_i16<1>(y, ldy, x, w, first, last);
    case 2: return tiles_i16<2>(y, ldy, x, w, first, last);
    case 3: return tiles_i16<3>(y, ldy, x, w, first, last);
    case 4: return tiles_i16<4>(y, ldy, x, w, first, last);
    case 5: return tiles_i16<5>(y, ldy, x, w, first, last);
    case 6: return tiles_i16<6>(y, ldy, x, w, first, last);
    case 7: return tiles_i16<7>(y, ldy, x, w, first, last);
    default: return tiles_i16<8>(y, ldy, x, w, first, last);
  }
#else
  switch (x.rows) {
    case 1: return tiles<1, 4>(y, ldy, x.x, x.ldx, w, first, last);
    case 2: return tiles<2, 4>(y, ldy, x.x, x.ldx, w, first, last);
    case 3: return tiles<3, 2>(y, ldy, x.x, x.ldx, w, first, last);
    case 4: return tiles<4, 2>(y, ldy, x.x, x.ldx, w, first, last);
    case 5: return tiles<5, 1>(y, ldy, x.x, x.ldx, w, first, last);
    case 6: return tiles<6, 1>(y, ldy, x.x, x.ldx, w, first, last);
    case 7: return tiles<7, 1>(y, ldy, x.x, x.ldx, w, first, last);
    default: return tiles<8, 1>(y, ldy, x.x, x.ldx, w, first, last);
  }
#endif
}

}  // namespace quantbench::cpu::QB_ISA
