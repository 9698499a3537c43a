// Products of many rows with fp16, bf16, fp32 and nf4 weights: a piece of the weight (64 columns × 128 deep) is
// expanded to fp32 in the cache and multiplied with all rows there. Expanding costs one instruction a weight against 64
// for the products of 512 rows, so that every format runs at the speed of an fp32 product.
#include "backend/cpu/gemm_tile.h"
#include "backend/cpu/nf4_tile.h"
#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {
namespace {

struct DotF32 {
  using Number = float;
  using Dword = float;
  using Vector = F32;
  QB_INLINE Vector zero() { return QB_ISA::zero(); }
  QB_INLINE Vector load_sum(const float* p) { return QB_ISA::load(p); }
  QB_INLINE void store_sum(float* p, Vector v) { QB_ISA::store(p, v); }
  QB_INLINE Vector load(const float* p) { return QB_ISA::load(p); }
  QB_INLINE Vector broadcast(const float* p) { return QB_ISA::set1(*p); }
  QB_INLINE Vector dot(Vector acc, Vector w, Vector x) { return QB_ISA::fma(w, x, acc); }
};

QB_INLINE void widen_row(float* out, const uint16_t* w, int count) {
  int j = 0;
  for (; j + kLanes <= count; j += kLanes) store(out + j, to_f32(load_half(w + j)));
  if (j < count) store_first(out + j, to_f32(load_half_first(w + j, count - j)), count - j);
}
QB_INLINE void widen_row(float* out, const Bf16* w, int count) {
  int j = 0;
  for (; j + kLanes <= count; j += kLanes) store(out + j, load_bf16(w + j));
  if (j < count) store_first(out + j, load_bf16_first(w + j, count - j), count - j);
}
QB_INLINE void widen_row(float* out, const float* w, int count) {
  for (int j = 0; j < count; ++j) out[j] = w[j];
}

QB_INLINE int round_up(int value, int step) { return (value + step - 1) / step * step; }

// fp16, bf16 and fp32: rows stay rows.
template <typename Weight>
QB_INLINE void multiply_rows(float* y, size_t ldy, const float* x, int rows, const Weight* w, int k, int first,
                             int last, float* scratch) {
  float* const sums = scratch;
  float* const piece = scratch + size_t{kGemmCols} * kGemmRows;
  const int cols = last - first, padded = round_up(cols, kTileCols);
  for (int j = 0; j < k; j += kGemmDepth) {
    const int depth = least(kGemmDepth, k - j);
    for (int c = 0; c < padded; ++c) {  // padding repeats the last column; its sums are not stored
      widen_row(piece + static_cast<size_t>(c) * kGemmDepth,
                w + static_cast<size_t>(first + least(c, cols - 1)) * k + j, depth);
    }
    multiply_piece<DotF32, ByColumn>(sums, x + static_cast<size_t>(j) * kTile, static_cast<size_t>(k) * kTile, rows,
                                     piece, padded, depth, j == 0);
  }
  store_rows(y, ldy, sums, rows, cols);
}

template <int kNibble>
QB_INLINE void expand_nibble(float* out, const CodeTable& table, I32 codes, F32 scale) {
  store(out + size_t{kNibble ^ 1} * kTile, mul(decode<kNibble>(table, codes), scale));
}

// kLanes rows of a tile, blocks [begin, end), to out [k][kTile].
QB_INLINE void expand_tile(float* out, const Nf4Weight& w, int row, int lane, int begin, int end) {
  const int blocks = w.k / kBlock, period = nested_period(blocks);
  const CodeTable table = code_table();
  F32 nested = zero();
  for (int b = begin; b < end; ++b) {
    if (w.absmax8 && (b == begin || b % period == 0)) nested = nested_scales(w, row + lane, blocks, b);
    const F32 scale = block_scales(w, row, lane, blocks, b, nested);
    const uint8_t* codes =
        w.codes + static_cast<size_t>(row) * w.k / 2 + static_cast<size_t>(b) * kBlock * 8 + size_t{4} * lane;
    for (int j = 0; j < kBlock; j += 8, codes += size_t{4} * kTile, out += size_t{8} * kTile) {
      const I32 v = load_codes(codes);
      expand_nibble<0>(out, table, v, scale);
      expand_nibble<1>(out, table, v, scale);
      expand_nibble<2>(out, table, v, scale);
      expand_nibble<3>(out, table, v, scale);
      expand_nibble<4>(out, table, v, scale);
      expand_nibble<5>(out, table, v, scale);
      expand_nibble<6>(out, table, v, scale);
      expand_nibble<7>(out, table, v, scale);
    }
  }
}

void multiply_tiles(float* y, size_t ldy, const float* x, int rows, const Nf4Weight& w, int first, int last,
                    float* scratch) {
  constexpr int kBlocksAtOnce = kGemmDepth / kBlock;
  float* const sums = scratch;
  float* const piece = scratch + size_t{kGemmCols} * kGemmRows;
  const int blocks = w.k / kBlock, cols = round_up(last - first, kTile);
  for (int b = 0; b < blocks; b += kBlocksAtOnce) {
    const int end = least(blocks, b + kBlocksAtOnce);
    for (int c = 0; c < cols; c += kTile) {
      for (int lane = 0; lane < kTile; lane += kLanes) {
        expand_tile(piece + static_cast<size_t>(c) * kGemmDepth + lane, w, first + c, lane, b, end);
      }
    }
    multiply_piece<DotF32, ByDepth>(sums, x + static_cast<size_t>(b) * kBlock * kTile, static_cast<size_t>(w.k) * kTile,
                                    rows, piece, cols, (end - b) * kBlock, b == 0);
  }
  store_rows(y, ldy, sums, rows, last - first);
}

}  // namespace

void gemm_f16(float* y, size_t ldy, const float* x, int rows, const uint16_t* w, int k, int first, int last,
              float* scratch) {
  multiply_rows(y, ldy, x, rows, w, k, first, last, scratch);
}

void gemm_bf16(float* y, size_t ldy, const float* x, int rows, const Bf16* w, int k, int first, int last,
               float* scratch) {
  multiply_rows(y, ldy, x, rows, w, k, first, last, scratch);
}

void gemm_f32(float* y, size_t ldy, const float* x, int rows, const float* w, int k, int first, int last,
              float* scratch) {
  multiply_rows(y, ldy, x, rows, w, k, first, last, scratch);
}

void gemm_nf4(float* y, size_t ldy, const float* x, int rows, const Nf4Weight& w, int first, int last, float* scratch) {
  if (w.k % kBlock == 0) return multiply_tiles(y, ldy, x, rows, w, first, last, scratch);
  // Blocks straddle rows: one expanded row at a time, as an fp32 weight.
  float* const row = scratch + size_t{kGemmCols} * (kGemmRows + kGemmDepth);
  for (int i = first; i < last; ++i) {
    expand_flat_row(row, w, i);
    multiply_rows(y + (i - first), ldy, x, rows, row, w.k, 0, 1, scratch);
  }
}

}  // namespace quantbench::cpu::QB_ISA
