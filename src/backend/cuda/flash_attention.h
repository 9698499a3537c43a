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
  ScoreBias bias;
};
// Head sizes 64, 72, 80, 96, 128 and 256, of which 64 alone takes a bias.
bool has_flash(int head_dim, bool biased);
void attend_flash(const FlashArgs& args, const Room& room, const Stream& stream);

}  // namespace quantbench::QB_CUDA
