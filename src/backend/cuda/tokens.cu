// From a token to its embedding, and from logits to the next token.
#include <cmath>

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/sampling.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256;
constexpr int kTokenThreads = 1024, kTokenWarps = kTokenThreads / kWarpSize;

__global__ void __launch_bounds__(kThreads) embed_kernel(const __grid_constant__ EmbedArgs a) {
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

// A block a row. Where no score is above -infinity the token is 0, as in the reference.
__global__ void __launch_bounds__(kTokenThreads) next_token_kernel(const __grid_constant__ NextTokenArgs a) {
  __shared__ float scores[kTokenWarps];
  __shared__ int32_t ids[kTokenWarps];
  const int row = block_x(), position = a.position[row];
  const float* const logits = a.logits + static_cast<size_t>(row) * a.vocab;
  Best best{-INFINITY, 0};
  for (int id = thread_index(); id < a.vocab; id += kTokenThreads) {
    const float score = sampling_score(logits[id], a.temperature, a.seed, position, id);
    if (score > best.score) best = {score, id};
  }
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    best = better(best, {from_lane_xor(best.score, mask), from_lane_xor(best.id, mask)});
  }
  if (lane_index() == 0) {
    scores[warp_index()] = best.score;
    ids[warp_index()] = best.id;
  }
  sync_block();
  if (thread_index() != 0) return;
  for (int i = 1; i < kTokenWarps; ++i) best = better(best, {scores[i], ids[i]});
  a.token[row] = best.id;
  a.position[row] = position + 1;
  if (a.history && position + 1 < a.history_positions) {
    a.history[static_cast<size_t>(a.sequence[row]) * a.history_positions + position + 1] = best.id;
  }
}

}  // namespace

void embed(const EmbedArgs& args, Stream stream) { launch(embed_kernel, {args.rows}, kThreads, stream, args); }
void next_token(const NextTokenArgs& args, Stream stream) {
  launch(next_token_kernel, {args.rows}, kTokenThreads, stream, args);
}

}  // namespace quantbench::QB_CUDA
