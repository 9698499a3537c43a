// What a kernel set offers: plain functions on raw pointers, one struct of them per instruction set. Kernels know no
// tensors, no threads and no memory other than what they are given; cpu_ops.cpp cuts the work. This header holds plain
// data only, since files with different instruction sets include it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quantbench::cpu {

constexpr int kFewRows =
    8;                     // up to here weights are streamed once for all rows (decode), above they are tiled (prefill)
constexpr int kTile = 16;  // rows of an nf4 tile, activation rows of a packed panel, positions of a key tile
constexpr int kGemmCols = 64;          // most outputs of one call of the tiled products
constexpr int kGemmRows = 512;         // most activation rows of one call of the tiled products
constexpr int kAttendQueries = 8;      // queries that share one pass over keys and values
constexpr int kAttendPositions = 256;  // positions scored before their values are added

enum class Activation : uint8_t { none, silu, gelu_tanh, relu };

struct Bf16 {  // the upper half of an fp32
  uint16_t bits;
};

// Activations after LLM.int8's quantisation (quant/int8.h), for few rows.
struct Int8Rows {
  int rows = 0, k = 0;
  const int8_t* codes = nullptr;  // [rows, stride], zero in outlier columns and from k on
  size_t stride = 0;              // a multiple of 64
  const float* absmax = nullptr;  // [rows]
  const int32_t* sums = nullptr;  // [rows] of the codes
  int outliers = 0;
  const int32_t* columns = nullptr;  // [outliers]
  const float* x = nullptr;          // [rows, k], the activations rounded to fp16
};

// The same for many rows: codes in panels of kTile rows, so that a vector holds one depth of all rows of a panel.
struct Int8Panels {
  int rows = 0, k = 0;
  const void* codes = nullptr;    // [panels, depth, kTile] dwords of int8_per_dword codes, zero beyond rows and k
  const float* absmax = nullptr;  // [panels · kTile]
  const int32_t* sums = nullptr;  // [panels · kTile]
  int outliers = 0;
  const int32_t* columns = nullptr;  // [outliers]
  const float* x = nullptr;          // [rows, k], the activations rounded to fp16
};

struct Int8Weight {
  const int8_t* w;      // [n, k]
  const float* absmax;  // [n]
};

// nf4 in tiles of 16 rows where k is a multiple of 64 (`tiled`), else in bitsandbytes' flat order. A tile holds
// [k / 8][16 rows][4 bytes as bitsandbytes packs them]; its absmax codes [k / 64][16 rows]. Rows beyond n are padding.
struct Nf4Weight {
  int n, k;
  const uint8_t* codes;
  const uint8_t* absmax8;      // double-quantised, or null
  const float* absmax;         // plain, or null; tiled like absmax8
  const float* nested_absmax;  // one per 256 blocks of the flat order
  const float* nested_code;    // [256]
  float offset;
};

// Activations for the streamed nf4 products.
struct Nf4Rows {
  int rows = 0;
  const float* x = nullptr;  // [rows, ldx]
  size_t ldx = 0;
  // Where k is a multiple of 64 and the kernel set works in whole numbers (nf4_in_int16): x in units of its block's
  // scale, eight numbers of k in the order 1 5 0 4 3 7 2 6. [rows, k] and [rows, k / 64].
  const int16_t* codes = nullptr;
  const float* scales = nullptr;
};

struct AttendBlock {
  int count = 0;                    // at most kAttendQueries
  const float* q[kAttendQueries];   // [head_dim] each
  float* out[kAttendQueries];       // [head_dim] each
  int length[kAttendQueries];       // positions that a query sees
  const uint16_t* k = nullptr;      // this head's keys, in tiles of kTile positions: [head_dim][positions of the tile]
  const uint16_t* v = nullptr;      // [positions, head_dim]
  int positions = 0, head_dim = 0;  // capacity of the cache
  float scale = 1;
  // Added to a score: bias[min(max(position − position of the query, −reach), reach) + reach]; null: nothing is.
  const float* bias = nullptr;
  int reach = 0;
  int position[kAttendQueries];  // of each query, where there is a bias
};

struct Kernels {
  int lanes;           // fp32 numbers of a vector
  bool nf4_in_int16;   // whether few_rows_nf4 wants Nf4Rows::codes
  int int8_per_dword;  // codes that one step of the int8 product takes: 4, or 2 widened to 16 bits

  // Reads `bytes` (a multiple of 1024, aligned to 64) once; returns something that depends on them all.
  uint64_t (*read_plain)(const void* data, size_t bytes);
  uint64_t (*read_prefetch)(const void* data, size_t bytes);
  uint64_t (*read_streams)(const void* data, size_t bytes);  // four interleaved streams

  // --- one row at a time -----------------------------------------------------------------------------------------
  // out = norm(x); sums in double, so that all backends agree to the last bit but for double's own rounding.
  void (*normalize)(float* out, const float* x, int d, const float* weight, const float* bias, float eps,
                    bool centered);
  void (*round_half)(float* out, const float* x, size_t count);             // through fp16 and back; out may be x
  void (*widen)(float* out, const uint16_t* x, size_t count, float scale);  // fp16 → fp32, times scale
  void (*widen_bf16)(float* out, const Bf16* x, size_t count, float scale);
  bool (*mark_outliers)(uint8_t* mask, const float* x, int k, float threshold);  // sets mask[i] where |x| ≥ threshold
  // absmax over |x| < threshold, codes = rn(x · (127 · (1 / absmax))), 0 in the outlier columns; codes beyond k, up to
  // the next multiple of 64, are set to zero. Returns the sum of the codes.
  int32_t (*quantize_row)(int8_t* codes, float* absmax, const float* x, int k, float threshold, const int32_t* columns,
                          int outliers);
  void (*quantize_nf4_row)(int16_t* codes, float* scales, const float* x, int k);  // as Nf4Rows; k a multiple of 64
  void (*rotate)(float* head, const float* cos, const float* sin, int dims);
  void (*store_key)(uint16_t* keys, const float* head, int position, int positions, int head_dim);  // into its tile
  void (*narrow)(uint16_t* out, const float* x, size_t count);                                      // fp32 → fp16
  // y = act(tile + bias), y += tile + bias, h = act(gate + gate_bias) ∘ (up + up_bias); a bias may be null.
  void (*finish_store)(float* y, const float* tile, const float* bias, int count, Activation act);
  void (*finish_add)(float* y, const float* tile, const float* bias, int count);
  void (*finish_gate)(float* h, const float* gate, const float* gate_bias, const float* up, const float* up_bias,
                      int count, Activation act);
  // Index of the first largest of x; -1 if none is above -infinity.
  int (*arg_max)(const float* x, int count, float* value);

  // --- products for up to kFewRows rows: y[r][i - first] = Σ x[r]·w[i] for i in [first, last) ------------------------
  // fetches: weights are asked for ahead of their use (Features::wants_fetching).
  void (*few_rows_f16)(float* y, size_t ldy, const float* x, size_t ldx, int rows, const uint16_t* w, int k, int first,
                       int last, bool fetches);
  void (*few_rows_f32)(float* y, size_t ldy, const float* x, size_t ldx, int rows, const float* w, int k, int first,
                       int last, bool fetches);
  void (*few_rows_bf16)(float* y, size_t ldy, const float* x, size_t ldx, int rows, const Bf16* w, int k, int first,
                        int last, bool fetches);
  // Complete: scaled, biased, rounded to fp16, outliers added, rounded again.
  void (*few_rows_int8)(float* y, size_t ldy, const Int8Rows& x, const Int8Weight& w, const float* bias, int first,
                        int last);
  // first must be a multiple of kTile where k is one of 64. scratch: [k] floats.
  void (*few_rows_nf4)(float* y, size_t ldy, const Nf4Rows& x, const Nf4Weight& w, int first, int last, float* scratch);

  // --- products for many rows: y as above, [rows, ldy], at most kGemmCols outputs and kGemmRows rows a call ----------
  void (*pack_panel)(float* out, const float* x, size_t ldx, int rows,
                     int k);  // rows ≤ kTile → [k, kTile], padded by 0
  // One panel of Int8Panels::codes from rows ≤ kTile as quantize_row leaves them.
  void (*pack_codes)(void* out, const int8_t* codes, size_t stride, int rows, int k);
  // x: packed panels of all k; scratch: gemm_scratch floats.
  void (*gemm_f16)(float* y, size_t ldy, const float* x, int rows, const uint16_t* w, int k, int first, int last,
                   float* scratch);
  void (*gemm_f32)(float* y, size_t ldy, const float* x, int rows, const float* w, int k, int first, int last,
                   float* scratch);
  void (*gemm_bf16)(float* y, size_t ldy, const float* x, int rows, const Bf16* w, int k, int first, int last,
                    float* scratch);
  void (*gemm_nf4)(float* y, size_t ldy, const float* x, int rows, const Nf4Weight& w, int first, int last,
                   float* scratch);
  void (*gemm_int8)(float* y, size_t ldy, const Int8Panels& x, const Int8Weight& w, const float* bias, int first,
                    int last, float* scratch);

  // --- attention -----------------------------------------------------------------------------------------------------
  void (*attend)(const AttendBlock& block, float* scratch);  // scratch: attend_scratch(head_dim) floats
};

constexpr int kGemmDepth = 128;  // dwords of k that a tiled product takes at a time
// Sums of one call, its weights expanded for one depth, and a row of an untiled nf4 matrix.
constexpr size_t gemm_scratch(int k) {
  return size_t{kGemmCols} * kGemmRows + size_t{kGemmCols} * kGemmDepth + static_cast<size_t>(k) + 64;
}
constexpr size_t bias_scratch(int reach) { return (2 * static_cast<size_t>(reach) + 1 + 15) / 16 * 16; }
constexpr size_t attend_scratch(int head_dim) {
  return size_t{kAttendQueries} * (kAttendPositions + static_cast<size_t>(head_dim) + 64);
}

namespace avx2 {
const Kernels& kernels();
}
namespace avx512 {
const Kernels& kernels();
}

}  // namespace quantbench::cpu
