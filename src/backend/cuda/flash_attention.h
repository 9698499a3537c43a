// Attention of many rows on tensor cores.
#pragma once

#include "backend/cuda/kernels.h"

namespace quantbench::QB_CUDA {

struct FlashArgs {
  float* a;        // [rows, q_heads · head_dim]
  const float* q;  // [rows, q_heads · head_dim]
  int rows, q_heads;
  RowPlaces places;
  Cache kv;
  float scale;
  ReadyRows ready;         // a, for the product that follows
  const int32_t* lengths;  // [rows] positions that a row sees; null: up to its own
};
// Head sizes 64, 80, 96, 128 and 256.
bool has_flash(int head_dim);
void attend_flash(const FlashArgs& args, const Stream& stream);

}  // namespace quantbench::QB_CUDA
