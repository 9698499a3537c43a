// What the persistent kernel walks through: one token's ops as a list of steps, each a product or an attention. A
// step's outputs go into an exchange buffer of its own, as words that carry the number of the launch they belong to, so
// that a reader knows by a word itself that it has arrived: no barrier, no counter, nothing to reset.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/kernels.h"

namespace quantbench::QB_CUDA {

// Low half: fp32, or two fp16 of which the first is lower. High half: the launch (epoch) that wrote it.
using Tagged = uint64_t;

constexpr int kConsumerWarps = 16;
constexpr int kFinishers = 2;     // warps that turn a unit's sums into outputs
constexpr int kUnitRows = 16;     // outputs of a unit of work: eight rows from `low` on and eight from `high` on
constexpr int kChunkBytes = 128;  // of a weight row; rows are whole chunks
// Of a slot of the ring, at most. Smaller ones let the producer measure out better what is on the way; nf4's sums take
// longer to get going.
constexpr int kMostSlotChunks = 8, kFewSlotChunks = 5;
constexpr int kScaleHeadBytes = 16;  // before the scales of a unit: what they begin with
constexpr int kNestedBytes = 48;     // of the nested scales of eight rows: at most 9 of them, from a whole 16 bytes on
constexpr int kRowsChunkBytes = kUnitRows * kChunkBytes;  // a chunk of each row of a unit

enum class StepKind : uint8_t { product, attend };
// How a step's input comes: a row of an fp16 table, tagged fp32, or tagged pairs of fp16.
enum class Source : uint8_t { table, floats, halves };

struct StepInput {
  Source source = Source::floats;
  const Tagged* words = nullptr;
  const uint16_t* table = nullptr;  // [vocab, k]
  float scale = 1;                  // of the table's numbers
};

struct Segment {  // rows of one matrix; a step's units go through its segments in order
  Weight w;
  const float* bias = nullptr;
  int map = 0, rotated_map = 0;  // index of the tensor map of its units; of those that are rotated
  int units = 0;                 // 0: the second matrix of a gate, which shares the units of the first
};

// What a warp takes at a time is a piece: some chunks of each row of a unit. Where a warp begins in a block's pieces of
// a step: a unit's piece, that many slots further on, the slot's piece `in_slot`.
struct alignas(4) WarpStart {
  uint8_t unit, piece, slots, in_slot;
};
constexpr uint8_t kNoUnit = 255;  // `unit` of a warp that has no pieces
// How a warp goes from one of its pieces to the next, sixteen further on; slots and areas of scales modulo those of
// their rings. Read for each piece, so that it takes no registers between.
struct alignas(16) Walk {
  uint16_t piece_bytes = 0;  // of half of a unit's rows
  uint16_t pieces = 0;       // of a unit
  uint16_t on_pieces = 0;
  uint8_t on_units = 0, on_slots = 0, on_in_slot = 0, on_areas = 0;
  uint8_t slots_flip = 0, areas_flip = 0;  // whether it goes round the ring an odd number of times more
  uint8_t slot_pieces = 0, piece_chunks = 0, parts = 0;
};
static_assert(sizeof(Walk) == 16);

struct alignas(128) Step {
  StepKind kind = StepKind::product;
  WeightFormat format = WeightFormat::f16;
  Finish finish = Finish::store;
  Activation act = Activation::none;
  int index = 0;  // of this step
  int turn = 0;   // unit u is done by multiprocessor (turn + u) mod their number: work goes round across steps
  int units = 0;  // attend: q heads
  // Products.
  int k = 0;
  double inverse_k = 0;
  int chunks = 0, slots = 0, slot_chunks = 0;  // of a unit's rows; slots · slot_chunks = chunks
  WarpStart starts[kConsumerWarps];
  Walk walk;
  int rounds = 0, rest = 0;  // each block has `rounds` units, the first `rest` from the turn on one more
  // A unit is eight rows, as `low` over the first half of k and as `high` over the second; chunks are then those of a
  // half.
  bool halved = false;
  bool activates_second = false;  // gate: the first matrix is what is gated
  bool same_row = false;          // as the product's before this one, which is still there
  bool floats = false;            // store, gate: `out` is floats, which fp32 weights are multiplied with
  int segment_count = 0;
  Segment segments[kMostJobs];
  StepInput in;       // attend: words are q, [q_heads · head_dim] floats
  RowNorm norm;       // of `in`; weight null: none
  RowNorm next_norm;  // of the step after this one, [next_norm_count]
  int next_norm_count = 0;
  StepInput old;  // add: what is added to
  // store, gate: [n / 2] pairs of halves, or [n] floats; add: [n] floats; qkv: floats of q, k and v, or of q alone, one
  // after the other
  Tagged* out = nullptr;
  float* logits = nullptr;  // store: plain fp32 instead of `out`, and their best is the next token
  // qkv and attend
  Cache kv;
  Rotation rotation;
  int q_heads = 0;
  float scale = 1;
  const Tagged *new_k = nullptr, *new_v = nullptr;  // attend: of this token, floats; null: all are in the cache
  const int32_t* length = nullptr;                  // attend: [1] of the positions seen; null: those up to the token's
  bool biased = false;                              // attend: by PersistentArgs::bias
  // attend: what parts of the positions give, floats: [q_heads, most_parts, kPartHead + head_dim], first the largest
  // score and the sum of the weights
  Tagged* parts = nullptr;
  int most_parts = 1;
};

constexpr int kPartHead = 2;
// Lanes that share a position of attention, each with every so many fourth of a head's dimensions.
template <int kHeadDim>
constexpr int kLanesOfPosition = kHeadDim > 128 ? 8 : 4;
// So many positions the consumers take at a time; a head's are shared out among blocks where there are more.
template <int kHeadDim>
constexpr int kPartPositions = kConsumerWarps * 32 / kLanesOfPosition<kHeadDim>;

struct alignas(128) TensorMap {  // CUtensorMap
  uint64_t words[16];
};

// Where things lie in the kernel's dynamic shared memory; offsets in bytes.
struct SharedLayout {
  uint32_t ring, scales, table, code, bias, x, codes, outliers, parts, outlier_parts, sums, largest, rows, best, places,
      steps, finisher_steps, producer_steps, token, part_barriers, scale_barriers, barriers, bytes;
};
constexpr size_t kPlaceBytes = 32;            // of a warp's place in the stream between products
constexpr int kPartBuffers = 2 * kFinishers;  // units whose sums wait; a buffer is always the same finisher's
constexpr size_t kLanesOfNf4Sum = 2;          // a warp's sum of a row lies in so many lanes, which the finisher adds up
constexpr int kStepsAtOnce = 4;               // a block's finishers are fewer steps than this behind its consumers
struct SharedNeeds {                          // of all steps
  int most_k = 0;
  int row_bytes = 0;  // of a row as it is multiplied
  int slot_bytes = 0, scale_bytes = 0;
  int head_dim = 0;
  int bias_values = 0, bias_reach = 0;  // of a bias by distance
  bool int8 = false, nf4 = false;
};
constexpr SharedLayout shared_layout(int slots, const SharedNeeds& needs) {
  constexpr size_t kLanes = 32, kBytes = 256;
  SharedLayout at{};
  const auto k = static_cast<size_t>(needs.most_k), row = static_cast<size_t>(needs.row_bytes),
             head = static_cast<size_t>(needs.head_dim);
  const bool int8 = needs.int8, nf4 = needs.nf4;
  const auto take = [&at](size_t bytes) {
    const uint32_t here = at.bytes;
    at.bytes += static_cast<uint32_t>((bytes + 127) / 128 * 128);
    return here;
  };
  at.ring = take(static_cast<size_t>(slots) * static_cast<size_t>(needs.slot_bytes));
  at.scales = take(nf4 ? static_cast<size_t>(slots + 1) * static_cast<size_t>(needs.scale_bytes) : 0);
  at.table = take(nf4 ? kBytes * kLanes * sizeof(uint32_t) : 0);
  at.code = take(nf4 ? kBytes * sizeof(float) : 0);
  const int distances = needs.bias_values > 0 ? 2 * needs.bias_reach + 1 : 0;
  at.bias = take(static_cast<size_t>(needs.bias_values + distances) * sizeof(float));
  // Attention works where the row lies between products.
  constexpr size_t kJoined = kConsumerWarps * kLanes * 4 * sizeof(float);  // four numbers of each thread
  size_t attention = (kConsumerWarps * (head + 2) + 2 * head) * sizeof(float);
  if (attention < kJoined) attention = kJoined;
  at.x = take(row > attention ? row : attention);
  at.codes = take(int8 ? k : 0);
  at.outliers = take(int8 ? k / 8 : 0);  // a bit a column
  at.outlier_parts = take(int8 ? sizeof(float) * kPartBuffers * kConsumerWarps * kUnitRows : 0);
  at.parts = take(sizeof(float) * kPartBuffers * kConsumerWarps * kUnitRows * (nf4 ? kLanesOfNf4Sum : 1));
  at.sums = take(sizeof(double) * kConsumerWarps * 2);
  at.largest = take(kConsumerWarps * sizeof(uint32_t));
  at.rows = take(sizeof(float) * kStepsAtOnce * 2);
  at.best = take(sizeof(float) * kFinishers * 2);
  at.places = take(kConsumerWarps * kPlaceBytes);
  at.steps = take(2 * sizeof(Step));
  at.finisher_steps = take(static_cast<size_t>(2 * kFinishers) * sizeof(Step));
  at.producer_steps = take(2 * sizeof(Step));
  at.token = take(3 * sizeof(int));
  at.part_barriers = take((2 * kPartBuffers + 1) * sizeof(uint64_t));
  at.scale_barriers = take(nf4 ? static_cast<size_t>(slots + 1) * sizeof(uint64_t) : 0);
  at.barriers = take(2 * static_cast<size_t>(slots) * sizeof(uint64_t));
  return at;
}

struct PersistentArgs {
  const Step* steps = nullptr;
  int step_count = 0;
  const TensorMap* maps = nullptr;
  uint32_t epoch = 0;
  int slots = 0, slot_bytes = 0;  // of the ring
  int slots_on_the_way = 0;       // at most, of those
  bool nf4 = false;
  SharedLayout at{};
  int scale_bytes = 0;                   // nf4: of the largest unit
  const float* nested_code = nullptr;    // [256]
  const uint32_t* code_pairs = nullptr;  // [256] nf4: a byte's two codes as fp16
  ScoreBias bias;                        // of attentions that are biased
  int bias_values = 0;                   // of those
  int32_t *token = nullptr, *position = nullptr;
  const int32_t* sequence = nullptr;
  int32_t* history = nullptr;
  int history_positions = 0;
  const int32_t* stops = nullptr;  // [1 + their number]; null with done
  int32_t* done = nullptr;         // [sequences] or null
  // Whether the launch ends with the next token; else with the logits, from which another kernel chooses.
  bool chooses = true;
  float temperature = 0;
  uint64_t seed = 0;
  Tagged* best = nullptr;     // [multiprocessors, 2] score and id
  uint32_t* stuck = nullptr;  // [4] on the host: what a wait that never ended waited for
};

struct KernelKind {
  WeightFormat format = WeightFormat::f16;  // of the products, but the head's, which may be fp16 beside any
  int head_dim = 0;
  // Products with fp32 weights beside those, attention with a bias by distance or of other positions than a token's.
  bool for_t5 = false;
};
constexpr bool has_persistent_kernel(int head_dim, bool for_t5) {
  if (for_t5) return head_dim == 64;
  return head_dim == 32 || head_dim == 64 || head_dim == 80 || head_dim == 128 || head_dim == 256;
}
// How many registers a thread the kernel's code lacks of those that its warps hand to one another: with any, it would
// wait for ever. 0 but for a compiler that gave it fewer.
int missing_registers(const KernelKind& kind);
void launch_persistent(const PersistentArgs& args, const KernelKind& kind, size_t shared_bytes, int multiprocessors,
                       const Stream& stream);

}  // namespace quantbench::QB_CUDA
