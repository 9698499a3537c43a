// From a token to its embedding, and from logits to the next token.
#include <cmath>

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/sampling.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;

__global__ void __launch_bounds__(kThreads) embed_kernel(const __grid_constant__ EmbedArgs a) {
  let_next_start();
  wait_for_previous();
  const int row = block_x();
  const uint16_t* const from = a.table + static_cast<size_t>(a.token[row]) * a.d;
  float* const to = a.x + static_cast<size_t>(row) * a.d;
  for (int i = thread_index(); i < a.d; i += kThreads) {
    to[i] = (a.bf16 ? float_of_bf16(from[i]) : float_of_half(from[i])) * a.scale;
  }
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

// --- which ids may be chosen -----------------------------------------------------------------------------------------
// The least key that stays is found digit by digit (sampling.h), each in a launch of its own: its blocks add up their
// share of the logits in shared memory, and that in device memory. What a digit is, every block of the launch after
// finds for itself. Sums are of whole numbers, so the order in which blocks come to them does not matter.
enum class Counted : uint8_t { nothing, ids, mass };
struct Pass {
  Counted counted = Counted::nothing;
  int digit = 0;
};
struct ChoiceArgs {
  NextTokenArgs next;
  Pass pass, before;  // this launch's and that of the launch before
  int number = 0;     // of the launch
};
constexpr int kIdsOfThread = 8, kIdsOfBlock = kThreads * kIdsOfThread;
constexpr int kSumBuffers = 3;  // written by this launch, read by it, zeroed by it for the next
static_assert(kSumBuffers * kDigitValues == kCutSums);

QB_DEVICE uint64_t* sums_of(const ChoiceArgs& a, int row, int number) {
  return a.next.cut.sums + static_cast<size_t>(row) * kCutSums + number % kSumBuffers * kDigitValues;
}

// After the launch before this one; the same in all threads of all blocks.
QB_DEVICE CutState state_of(const ChoiceArgs& a, int row) {
  __shared__ uint64_t warp_sums[kWarps], rank_left;
  __shared__ uint32_t found;
  if (a.number == 0) return {static_cast<uint64_t>(a.next.cut.top_k), 0, 0};
  CutState state = a.next.cut.state[2 * row + (a.number - 1) % 2];
  if (a.before.counted == Counted::nothing) return state;
  // Each thread has some values of the digit, from the largest down.
  constexpr int kValues = kDigitValues / kThreads;
  const uint64_t* const sums = sums_of(a, row, a.number - 1) + kDigitValues - 1 - thread_index() * kValues;
  uint64_t own[kValues], sum = 0;
  for (int i = 0; i < kValues; ++i) sum += own[i] = sums[-i];
  uint64_t above = 0, total = sum;
  for (int mask = 1; mask < kWarpSize; mask *= 2) {
    const uint64_t other = from_lane_xor(total, mask);
    if (lane_index() & mask) above += other;
    total += other;
  }
  if (lane_index() == 0) warp_sums[warp_index()] = total;
  if (thread_index() == 0) found = 0, rank_left = 0;
  sync_block();
  total = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp_index()) above += warp_sums[i];
    total += warp_sums[i];
  }
  const int digit = a.before.digit;
  if (a.before.counted == Counted::mass && digit == 0) state.rank = mass_to_keep(a.next.cut.top_p, total);
  if (above < state.rank && state.rank <= above + sum) {
    for (int i = 0; i < kValues; ++i) {
      if (state.rank <= above + own[i]) {
        found = static_cast<uint32_t>(kDigitValues - 1 - thread_index() * kValues - i);
        rank_left = state.rank - above;
        break;
      }
      above += own[i];
    }
  }
  sync_block();
  const uint32_t prefix = state.prefix << digit_bits(digit) | found;
  return digit + 1 < kKeyDigits ? CutState{rank_left, prefix, state.least} : CutState{0, 0, prefix};
}

__global__ void __launch_bounds__(kThreads) cut_kernel(const __grid_constant__ ChoiceArgs a) {
  // Of masses the low kLowBits and the rest: native additions, which kIdsOfBlock of them do not overflow.
  constexpr int kLowBits = 20;
  static_assert((uint64_t{kIdsOfBlock} << kLowBits) <= UINT32_MAX &&
                (uint64_t{kIdsOfBlock} << (kMassBits - kLowBits)) <= UINT32_MAX);
  __shared__ uint32_t low[kDigitValues], high[kDigitValues];
  const CutArgs& cut = a.next.cut;
  const int row = block_y(), thread = thread_index();
  for (int i = thread; i < kDigitValues; i += kThreads) low[i] = high[i] = 0;
  wait_for_previous();
  let_next_start();
  const float* const logits = a.next.logits + static_cast<size_t>(row) * a.next.vocab;
  float own[kIdsOfThread];
  for (int i = 0; i < kIdsOfThread; ++i) {
    const int id = block_x() * kIdsOfBlock + i * kThreads + thread;
    own[i] = id < a.next.vocab ? logits[id] : NAN;
  }
  const CutState state = state_of(a, row);
  if (block_x() == 0 && thread == 0) cut.state[2 * row + a.number % 2] = state;
  uint64_t* const next_sums = sums_of(a, row, a.number + 1);
  for (int i = block_x() * kThreads + thread; i < kDigitValues; i += blocks_x() * kThreads) next_sums[i] = 0;
  if (a.number == 0) {
    uint32_t most = 0;
    for (const float logit : own) {
      const uint32_t key = order_key(logit);
      most = key > most ? key : most;
    }
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
      const uint32_t other = from_lane_xor(most, mask);
      most = other > most ? other : most;
    }
    if (lane_index() == 0) raise_to(cut.most + row, most);
  }
  if (a.pass.counted == Counted::nothing) return;
  const float most = a.pass.counted == Counted::mass ? logit_of_key(cut.most[row]) : 0;
  const int digit = a.pass.digit;
  sync_block();
  for (int i = 0; i < kIdsOfThread; ++i) {
    const uint32_t key = order_key(own[i]);
    const bool is_there = block_x() * kIdsOfBlock + i * kThreads + thread < a.next.vocab;
    if (!is_there || key < state.least || !has_prefix(key, digit, state.prefix)) continue;
    const uint32_t at = digit_of(key, digit);
    if (a.pass.counted == Counted::ids) {
      add_to(low + at, 1u);
      continue;
    }
    const uint64_t mass = sampling_mass(own[i], most, a.next.temperature);
    if (mass == 0) continue;
    add_to(low + at, static_cast<uint32_t>(mass & ((1u << kLowBits) - 1)));
    add_to(high + at, static_cast<uint32_t>(mass >> kLowBits));
  }
  sync_block();
  uint64_t* const sums = sums_of(a, row, a.number);
  for (int i = thread; i < kDigitValues; i += kThreads) {
    const uint64_t sum = (uint64_t{high[i]} << kLowBits) + low[i];
    if (sum != 0) add_to(sums + i, sum);
  }
}

// --- the choice ------------------------------------------------------------------------------------------------------
// kTokenBlocks blocks a row; the one that comes last looks at what the others found. Where no score is above -infinity
// the token is 0, as in the reference.
__global__ void __launch_bounds__(kThreads) next_token_kernel(const __grid_constant__ ChoiceArgs args) {
  __shared__ int before;
  const NextTokenArgs& a = args.next;
  wait_for_previous();
  let_next_start();
  const int part = block_x(), row = block_y(), position = a.position[row], sequence = a.sequence[row];
  const bool is_done = a.done && a.done[sequence] != 0;  // asked for now, so that the end need not wait for it
  const int stop_count = a.done ? a.stops[0] : 0;
  const float* const logits = a.logits + static_cast<size_t>(row) * a.vocab;
  const int share = (a.vocab + kTokenBlocks - 1) / kTokenBlocks, first = part * share;
  const int last = first + share < a.vocab ? first + share : a.vocab;
  const uint32_t least = args.number > 0 ? state_of(args, row).least : 0;
  Best best{-INFINITY, 0};
  for (int id = first + thread_index(); id < last; id += kThreads) {
    if (least != 0 && order_key(logits[id]) < least) continue;
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
  if (args.number > 0) {
    uint64_t* const sums = sums_of(args, row, 0);
    for (int i = thread_index(); i < kDigitValues; i += kThreads) sums[i] = 0;
  }
  if (thread_index() != 0) return;
  a.arrived[row] = 0;
  if (args.number > 0) a.cut.most[row] = 0;
  if (is_done) return;
  a.token[row] = best.id;
  a.position[row] = position + 1;
  if (a.history && position + 1 < a.history_positions) {
    a.history[static_cast<size_t>(sequence) * a.history_positions + position + 1] = best.id;
  }
  if (is_among(a.stops + 1, stop_count, best.id)) a.done[sequence] = 1;
}

}  // namespace

void embed(const EmbedArgs& args, const Stream& stream) { launch(embed_kernel, {args.rows}, kThreads, stream, args); }
void next_token(const NextTokenArgs& args, const Stream& stream) {
  ChoiceArgs choice;
  choice.next = args;
  const auto count = [&](Counted counted, int digit) {
    choice.pass = {counted, digit};
    launch(cut_kernel, {(args.vocab + kIdsOfBlock - 1) / kIdsOfBlock, args.rows}, kThreads, stream, choice);
    choice.before = choice.pass;
    ++choice.number;
  };
  const bool has_rank = args.cut.top_k > 0, has_mass = args.cut.top_p < 1;
  for (int digit = 0; has_rank && digit < kKeyDigits; ++digit) count(Counted::ids, digit);
  if (has_mass && !has_rank) count(Counted::nothing, 0);  // finds the largest logit
  for (int digit = 0; has_mass && digit < kKeyDigits; ++digit) count(Counted::mass, digit);
  launch(next_token_kernel, {kTokenBlocks, args.rows}, kThreads, stream, choice);
}

}  // namespace quantbench::QB_CUDA
