// The register tile of the products with many rows and the loops around it, for fp32 and for int8 alike: both work on
// dwords (one fp32 number, or the codes that one vpdpbusd or vpmaddwd multiplies). Included by ISA-specific files only.
//
// A vector lane is an activation row, since activations are packed in panels [depth][16 rows]; weights are broadcast
// dword by dword from a small expanded piece, so they need no transposition. Sums of a call stay in `sums`
// [panel][column][16 rows], 128 KB for 512 rows: beside 32 KB of weights that is well inside a 1 MB second-level cache.
#pragma once

#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {

#if defined(__AVX512F__)
constexpr int kTileVectors = 3;  // 3 × 8 sums, 3 activations and a weight: 28 of 32 registers
constexpr int kTileCols = 8;
#else
constexpr int kTileVectors = 2;  // 2 × 4 sums, 2 activations and a weight: 11 of 16 registers
constexpr int kTileCols = 4;
#endif
constexpr int kVectorsPerPanel = kTile / kLanes;

// Where the dword (column, depth) of an expanded piece lies, seen from the first column of a register tile.
struct ByColumn {  // rows of the weight as they are stored
  static constexpr int kColStride = kGemmDepth, kDepthStride = 1;
  static constexpr int start(int column) { return column * kGemmDepth; }
};
struct ByDepth {  // 16 rows of an nf4 tile side by side; tiles behind one another
  static constexpr int kColStride = 1, kDepthStride = kTile;
  static constexpr int start(int column) { return column / kTile * kTile * kGemmDepth + column % kTile; }
};

// sums[v][c] (+)= Σ_depth x[v][depth] · w[c][depth] for kVectors vectors of rows and kTileCols columns.
// x[v]: [depth][kTile]; sums[v]: [column][kTile].
template <typename Dot, typename Layout, int kVectors>
QB_INLINE void register_tile(typename Dot::Number* const* sums, const typename Dot::Dword* const* x,
                             const typename Dot::Dword* w, int depth, bool first) {
  typename Dot::Vector acc[kVectors][kTileCols];
  for (int v = 0; v < kVectors; ++v) {
    for (int c = 0; c < kTileCols; ++c) acc[v][c] = first ? Dot::zero() : Dot::load_sum(sums[v] + c * kTile);
  }
  for (int j = 0; j < depth; ++j) {
    typename Dot::Vector in[kVectors];
    for (int v = 0; v < kVectors; ++v) in[v] = Dot::load(x[v] + j * kTile);
    for (int c = 0; c < kTileCols; ++c) {
      const auto weight = Dot::broadcast(w + c * Layout::kColStride + j * Layout::kDepthStride);
      for (int v = 0; v < kVectors; ++v) acc[v][c] = Dot::dot(acc[v][c], weight, in[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    for (int c = 0; c < kTileCols; ++c) Dot::store_sum(sums[v] + c * kTile, acc[v][c]);
  }
}

// One depth step of a call: all rows times `cols` (a multiple of kTileCols) expanded columns. x: packed panels
// [panel][total_depth][kTile], from this depth on; sums: [panel][kGemmCols][kTile].
template <typename Dot, typename Layout>
void multiply_piece(typename Dot::Number* sums, const typename Dot::Dword* x, size_t panel_stride, int rows,
                    const typename Dot::Dword* w, int cols, int depth, bool first) {
  const int vectors = (rows + kLanes - 1) / kLanes;
  for (int v = 0; v < vectors; v += kTileVectors) {
    const typename Dot::Dword* in[kTileVectors];
    typename Dot::Number* out[kTileVectors];
    const int count = least(kTileVectors, vectors - v);
    for (int i = 0; i < count; ++i) {
      const int panel = (v + i) / kVectorsPerPanel, lane = (v + i) % kVectorsPerPanel * kLanes;
      in[i] = x + panel * panel_stride + lane;
      out[i] = sums + static_cast<size_t>(panel) * kGemmCols * kTile + lane;
    }
    for (int c = 0; c < cols; c += kTileCols) {
      const typename Dot::Dword* at = w + Layout::start(c);
      switch (count) {
        case 1: register_tile<Dot, Layout, 1>(out, in, at, depth, first); break;
        case 2: register_tile<Dot, Layout, 2>(out, in, at, depth, first); break;
        default: register_tile<Dot, Layout, kTileVectors>(out, in, at, depth, first); break;
      }
      for (int i = 0; i < count; ++i) out[i] += kTileCols * kTile;
    }
  }
}

// y[r][c] = sums of row r and column c: the tiles turned back to rows.
QB_INLINE void store_rows(float* y, size_t ldy, const float* sums, int rows, int cols) {
  for (int r = 0; r < rows; r += 4) {
    const float* from = sums + static_cast<size_t>(r / kTile) * kGemmCols * kTile + r % kTile;
    int c = 0;
    for (; c + 4 <= cols && r + 4 <= rows; c += 4) {
      __m128 in[4];
      for (int i = 0; i < 4; ++i) in[i] = _mm_loadu_ps(from + static_cast<size_t>(c + i) * kTile);
      _MM_TRANSPOSE4_PS(in[0], in[1], in[2], in[3]);
      for (int i = 0; i < 4; ++i) _mm_storeu_ps(y + (r + i) * ldy + c, in[i]);
    }
    for (; c < cols; ++c) {
      for (int i = 0; i < least(4, rows - r); ++i) y[(r + i) * ldy + c] = from[c * kTile + i];
    }
  }
}

}  // namespace quantbench::cpu::QB_ISA
