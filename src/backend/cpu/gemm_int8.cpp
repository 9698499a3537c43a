// LLM.int8 products of many rows: exact int32 sums in the register tile of gemm_tile.h, four codes a dword with
// vpdpbusd, two widened to 16 bits with vpmaddwd on AVX2; then the same finish as for few rows.
#include "backend/cpu/gemm_tile.h"
#include "backend/cpu/int8_finish.h"
#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {
namespace {

struct DotInt8 {
  using Number = int32_t;
  using Dword = int32_t;
  using Vector = I32;
  QB_INLINE Vector load_sum(const int32_t* p) { return load_i32(p); }
  QB_INLINE void store_sum(int32_t* p, Vector v) { store_i32(p, v); }
  QB_INLINE Vector load(const int32_t* p) { return load_i32(p); }
#if defined(__AVX512F__)
  static constexpr int kCodes = 4;
  QB_INLINE Vector zero() { return _mm512_setzero_si512(); }
  QB_INLINE Vector broadcast(const int32_t* p) { return _mm512_set1_epi32(*p); }
  // w holds w + 128 (unsigned); 128 · Σ codes is taken off at the end.
  QB_INLINE Vector dot(Vector acc, Vector w, Vector x) { return dot_u8_i8(acc, w, x); }
#else
  static constexpr int kCodes = 2;
  QB_INLINE Vector zero() { return _mm256_setzero_si256(); }
  QB_INLINE Vector broadcast(const int32_t* p) { return _mm256_set1_epi32(*p); }
  QB_INLINE Vector dot(Vector acc, Vector w, Vector x) { return _mm256_add_epi32(acc, _mm256_madd_epi16(w, x)); }
#endif
};

// `count` codes of a weight row as dwords; what is missing in the last one is zero.
QB_INLINE void expand_row(int32_t* out, const int8_t* w, int count) {
#if defined(__AVX512F__)
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  for (int j = 0; j < count; j += 64) {
    const int left = least(64, count - j);
    const __mmask64 mask = left == 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
    _mm512_storeu_si512(out + j / 4, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, w + j), flip));
  }
#else
  int j = 0;
  for (; j + 16 <= count; j += 16) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w + j));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j / 2), _mm256_cvtepi8_epi16(codes));
  }
  auto* words = reinterpret_cast<int16_t*>(out);
  for (; j < count; ++j) words[j] = w[j];
  if (count % 2 != 0) words[count] = 0;
#endif
}

#if defined(__AVX512F__)
constexpr int32_t kWeightOffset = 128;  // what expand_row adds to a weight
#else
constexpr int32_t kWeightOffset = 0;
#endif

constexpr int kOutliersAtOnce = 64;

// values[o][lane] of outliers [begin, end) for the rows of a panel.
QB_INLINE void gather_values(float* values, const Int8Panels& x, int begin, int end, int row) {
  const int count = least(kTile, x.rows - row);
  for (int o = begin; o < end; ++o, values += kTile) {
    const float* from = x.x + static_cast<size_t>(row) * x.k + x.columns[o];
    for (int lane = 0; lane < kTile; ++lane) values[lane] = lane < count ? from[static_cast<size_t>(lane) * x.k] : 0;
  }
}

// weights[o][i] of outliers [begin, end) and `count` columns from `column` on; rows of kGemmCols.
QB_INLINE void gather_outliers(float* weights, const Int8Panels& x, const Int8Weight& w, int begin, int end, int column,
                               int count) {
  alignas(64) float scales[kGemmCols] = {};
  for (int i = 0; i < count; ++i) scales[i] = w.absmax[column + i];
  for (int o = begin; o < end; ++o, weights += kGemmCols) {
    alignas(64) int8_t codes[kGemmCols] = {};
    for (int i = 0; i < count; ++i) codes[i] = w.w[static_cast<size_t>(column + i) * x.k + x.columns[o]];
    for (int i = 0; i < count; i += kTile) outlier_weights(weights + i, codes + i, scales + i);
  }
}

// From int32 sums to outputs (fp32, in the same place) for up to kGemmCols columns of all rows; lanes are
// rows. Outlier activations lie k apart, so they are gathered once for all columns.
// sums: [panel][kGemmCols][kTile] from `column` on.
void finish_columns(int32_t* sums, const Int8Panels& x, const Int8Weight& w, const float* bias, int column, int count) {
  alignas(64) float weights[kOutliersAtOnce * kGemmCols];
  for (int row = 0; row < x.rows; row += kTile) {
    const size_t panel = static_cast<size_t>(row) / kTile;
    alignas(64) float outliers[kGemmCols * kTile] = {};  // [column][row]
    for (int o = 0; o < x.outliers; o += kOutliersAtOnce) {
      const int end = least(x.outliers, o + kOutliersAtOnce);
      if (row == 0 || x.outliers > kOutliersAtOnce) gather_outliers(weights, x, w, o, end, column, count);
      alignas(64) float values[kOutliersAtOnce * kTile];
      gather_values(values, x, o, end, row);
      for (int i = 0; i < count; ++i) {
        add_products(outliers + static_cast<size_t>(i) * kTile, values, weights + i, kGemmCols, end - o);
      }
    }
    alignas(64) int32_t offsets[kTile];
    for (int lane = 0; lane < kTile; ++lane) offsets[lane] = -kWeightOffset * x.sums[row + lane];
    for (int i = 0; i < count; ++i) {
      int32_t* const at = sums + (panel * kGemmCols + i) * kTile;
      const F32 scale = set1(w.absmax[column + i]), addend = set1(bias ? bias[column + i] : 0.0f);
      for (int lane = 0; lane < kTile; lane += kLanes) {
        const I32 acc = add(load_i32(at + lane), load_i32(offsets + lane));
        F32 out = int8_output(acc, load(x.absmax + row + lane), scale, addend);
        if (x.outliers != 0) out = add_outliers(out, load(outliers + static_cast<size_t>(i) * kTile + lane));
        store(reinterpret_cast<float*>(at) + lane, out);
      }
    }
  }
}

}  // namespace

void pack_codes(void* out, const int8_t* codes, size_t stride, int rows, int k) {
  constexpr int kCodes = DotInt8::kCodes;
  // Codes of four dwords; rows are padded to 64 codes, so this stays inside.
  constexpr size_t kLoadBytes = size_t{4} * kCodes;
  const int depth = (k + kCodes - 1) / kCodes;
  for (int r = 0; r < kTile; r += 4) {
    for (int j = 0; j < depth; j += 4) {
      __m128 in[4];  // dwords, moved as they are
      for (int i = 0; i < 4; ++i) {
        const int8_t* from = codes + static_cast<size_t>(r + i) * stride + static_cast<size_t>(j / 4) * kLoadBytes;
        __m128i v = _mm_setzero_si128();
#if defined(__AVX512F__)
        if (r + i < rows) v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
#else
        if (r + i < rows) v = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#endif
        in[i] = _mm_castsi128_ps(v);
      }
      _MM_TRANSPOSE4_PS(in[0], in[1], in[2], in[3]);
      for (int i = 0; i < 4 && j + i < depth; ++i) {
        _mm_storeu_ps(static_cast<float*>(out) + static_cast<size_t>(j + i) * kTile + r, in[i]);
      }
    }
  }
}

void gemm_int8(float* y, size_t ldy, const Int8Panels& x, const Int8Weight& w, const float* bias, int first, int last,
               float* scratch) {
  constexpr int kCodes = DotInt8::kCodes;
  auto* const sums = reinterpret_cast<int32_t*>(scratch);
  auto* const piece = reinterpret_cast<int32_t*>(scratch + size_t{kGemmCols} * kGemmRows);
  const int k = x.k, cols = last - first, padded = (cols + kTileCols - 1) / kTileCols * kTileCols;
  const int total_depth = (k + kCodes - 1) / kCodes;
  const auto* in = static_cast<const int32_t*>(x.codes);
  for (int j = 0; j < total_depth; j += kGemmDepth) {
    const int depth = least(kGemmDepth, total_depth - j);
    for (int c = 0; c < padded; ++c) {
      expand_row(piece + static_cast<size_t>(c) * kGemmDepth,
                 w.w + static_cast<size_t>(first + least(c, cols - 1)) * k + static_cast<size_t>(j) * kCodes,
                 least(depth * kCodes, k - j * kCodes));
    }
    multiply_piece<DotInt8, ByColumn>(sums, in + static_cast<size_t>(j) * kTile,
                                      static_cast<size_t>(total_depth) * kTile, x.rows, piece, padded, depth, j == 0);
  }
  finish_columns(sums, x, w, bias, first, cols);
  store_rows(y, ldy, scratch, x.rows, cols);
}

}  // namespace quantbench::cpu::QB_ISA
