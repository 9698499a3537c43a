// Scratch of the cpu backend's ops, sized from a recorded step and taken once.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"

namespace quantbench::cpu {

// Bytes of k int8 codes, padded to whole vectors.
constexpr size_t codes_stride(int k) { return (static_cast<size_t>(k) + 63) / 64 * 64; }

struct WorkspaceShape {
  int rows = 1;     // the most of one call
  int k = 1;        // the largest input of a product
  int kv_cols = 0;  // outputs of a key or value projection
  int head_dim = 0;
  int bias_reach = -1;  // the furthest distance that a bias of attention tells apart; -1: none has one
  int threads = 1;
  int int8_per_dword = 4;
  bool int8 = false;          // whether any product is LLM.int8
  bool nf4_in_int16 = false;  // whether any product is nf4 and the kernel set wants int16 activations for few rows
};
WorkspaceShape workspace_shape(const Plan& plan, int threads, const Kernels& kernels);
size_t workspace_bytes(const WorkspaceShape& shape);

// Panels of a product without int8 are made for so many rows at a time as are no more than this, and 128 at least; then
// reading the weights once more is nothing beside the product.
constexpr size_t kMostDenseFloats = size_t{4} << 20;
constexpr int kLeastDenseRows = 128;

// Pointers into one buffer. Threads have scratch of their own.
struct Workspace {
  WorkspaceShape shape;
  float* dense = nullptr;        // normalised rows, packed panels, or (int8) rows rounded to fp16: [padded rows, k]
  size_t dense_floats = 0;       // of these
  float* keys = nullptr;         // [rows, kv_cols] before they are rotated and stored
  float* values = nullptr;       // [rows, kv_cols]
  void* codes = nullptr;         // int8 codes of all rows: rows or panels
  float* absmax = nullptr;       // [padded rows]
  int32_t* sums = nullptr;       // [padded rows]
  int32_t* columns = nullptr;    // [k] outlier columns
  uint8_t* masks = nullptr;      // [threads, k]
  int16_t* nf4_codes = nullptr;  // [kFewRows, k]
  float* nf4_scales = nullptr;   // [kFewRows, k / 64]
  float* best = nullptr;         // [kArgMaxParts] of next_token
  int32_t* best_id = nullptr;    // [kArgMaxParts]
  uint64_t* digits = nullptr;    // [threads, kDigitValues] of next_token
  std::byte* threads = nullptr;
  size_t thread_bytes = 0;

  // Scratch of one thread: two output tiles, then what kernels ask for.
  float* tile(int thread) const {
    return reinterpret_cast<float*>(threads + thread_bytes * static_cast<size_t>(thread));
  }
  float* second_tile(int thread) const { return tile(thread) + kTileFloats; }
  float* scratch(int thread) const { return tile(thread) + 2 * kTileFloats; }

  static constexpr size_t kTileFloats = size_t{kGemmRows} * kGemmCols;
  static constexpr int kArgMaxParts = 64;
};
// Takes the buffer's memory apart. buffer: workspace_bytes(shape), aligned to 64.
Workspace cut_workspace(const WorkspaceShape& shape, std::byte* buffer);

}  // namespace quantbench::cpu
