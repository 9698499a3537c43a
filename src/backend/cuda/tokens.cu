// From a token to its embedding, and from logits to the next token.
#include <cmath>

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/sampling.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;

__global__ void __launch_bounds__(kThreads) embed_kernel(const __grid_constant__ EmbedArgs a) {
  wait_for_previous();
  let_next_start();
  const int row = block_x();
  const uint16_t* const from = a.table + static_cast<size_t>(a.token[row]) * a.d;
  float* const to = a.x + static_cast<size_t>(row) * a.d;
  for (int i = thread_index(); i < a.d; i += kThreads) to[i] = float_of_half(from[i]) * a.scale;
}

struct Best {
  float score;
  int32_t id;
};
// Of two, the better; of equals the lower id.
QB_DEVICE Best better(Best a, Best b) { return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a; }

// Of the whole block, in thread 0.
QB_DEVICE Best block_best(Best best) {
  __shared__ float scores[kWarps];
  __shared__ int32_t ids[kWarps];
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    best = better(best, {from_lane_xor(best.score, mask), from_lane_xor(best.id, mask)});
  }
  sync_block();
  if (lane_index() == 0) {
    scores[warp_index()] = best.score;
    ids[warp_index()] = best.id;
  }
  sync_block();
  for (int i = 0; i < kWarps; ++i) best = better(best, {scores[i], ids[i]});
  return best;
}

// kTokenBlocks blocks a row; the one that comes last looks at what the others found. Where no score is above -infinity
// the token is 0, as in the reference.
__global__ void __launch_bounds__(kThreads) next_token_kernel(const __grid_constant__ NextTokenArgs a) {
  __shared__ int before;
  wait_for_previous();
  let_next_start();
  const int part = block_x(), row = block_y(), position = a.position[row];
  const float* const logits = a.logits + static_cast<size_t>(row) * a.vocab;
  const int share = (a.vocab + kTokenBlocks - 1) / kTokenBlocks, first = part * share;
  const int last = first + share < a.vocab ? first + share : a.vocab;
  Best best{-INFINITY, 0};
  for (int id = first + thread_index(); id < last; id += kThreads) {
    const float score = sampling_score(logits[id], a.temperature, a.seed, position, id);
    if (score > best.score) best = {score, id};
  }
  best = block_best(best);
  float* const scores = a.scores + static_cast<size_t>(row) * kTokenBlocks;
  int32_t* const ids = a.ids + static_cast<size_t>(row) * kTokenBlocks;
  if (thread_index() == 0) {
    scores[part] = best.score;
    ids[part] = best.id;
    before = arrive(a.arrived + row);
  }
  sync_block();
  if (before != kTokenBlocks - 1) return;
  best = {-INFINITY, 0};
  if (thread_index() < kTokenBlocks) best = {load_fresh(scores + thread_index()), load_fresh(ids + thread_index())};
  best = block_best(best);
  if (thread_index() != 0) return;
  a.arrived[row] = 0;
  a.token[row] = best.id;
  a.position[row] = position + 1;
  if (a.history && position + 1 < a.history_positions) {
    a.history[static_cast<size_t>(a.sequence[row]) * a.history_positions + position + 1] = best.id;
  }
}

}  // namespace

void embed(const EmbedArgs& args, const Stream& stream) { launch(embed_kernel, {args.rows}, kThreads, stream, args); }
void next_token(const NextTokenArgs& args, const Stream& stream) {
  launch(next_token_kernel, {kTokenBlocks, args.rows}, kThreads, stream, args);
}

}  // namespace quantbench::QB_CUDA
