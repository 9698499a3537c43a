// A block has tiles of 64 outputs by 256 or 272 rows of x, as fits their number better. Two warpgroups have 64 weight
// rows each, which are the left operand of their products: by turns eight of the gate's and eight of the other matrix
// that meet them, so that one thread has both sums. fp16 weights come with x, boxes of which one warp asks for, into a
// ring, as in tensor_products.cu. Of NF4 weights a warp copies its own codes into shared memory some stages of 64 k
// ahead, looks up the two numbers of each byte, and leaves them in the registers that the product reads, while the
// product before is on its way.
#include "backend/cuda/turned_products.h"

#include "backend/cuda/box_ring.cuh"
#include "backend/cuda/finish.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/tensor_products.h"
#include "backend/cuda/warpgroup.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kConsumers = 2 * kWarpgroup, kThreads = kConsumers + kWarpgroup, kWarps = kConsumers / kWarpSize;
constexpr int kOutputs = 64, kWarpOutputs = kOutputs / kWarps;       // of a tile
constexpr int kStage = 64, kLine = kStage * 2, kCodes = kStage / 2;  // k; bytes of a row of fp16, of codes
constexpr int kAhead = 4;                                            // stages of codes on their way
constexpr int kWeights = 2 * kOutputs * kLine;                       // bytes of a stage's fp16 weights
constexpr int kWarpCodes = 2 * kWarpOutputs * kCodes;
constexpr int kCopies = 16,
              kTable = 256 * kCopies * 8;  // two floats a byte; a copy for each lane that reads with others
static_assert(kCopies * 8 == 0x80);        // pick_

template <bool kDecodes, int kColumns>  // half of a tile's rows of x
struct Places {
  static constexpr int kX = 2 * kColumns * kLine, kSlot = kX + (kDecodes ? 0 : kWeights);
  static constexpr int kTableAt = kSlots * kSlot, kCodesAt = kTableAt + (kDecodes ? kTable : 0),
                       kBarriersAt = kCodesAt + (kDecodes ? kWarps * kAhead * kWarpCodes : 0),
                       kBytes = kBarriersAt + 2 * kSlots * 8;
};

struct TurnedArgs {
  TensorMap x, w[2];  // w: fp16, the gate's and the other
  FinishArgs finish;
  int stages = 0, tiles = 0, of_rows = 0;  // of_rows: tiles beside one another, which have the same weights
  float code[16]{};                        // NF4's, as is the next
  const float* nested_code = nullptr;      // [256]
};

#if defined(QB_WARPGROUPS)

// The eight rows of a warp of the one matrix, then of the other.
QB_DEVICE void ask_for_weights(const TurnedArgs& a, int tile, int stage, SharedAddress to, SharedAddress full) {
  constexpr int kBox = kWarpOutputs * kLine;
  const int first = tile / a.of_rows * kOutputs;
#pragma unroll
  for (int i = 0; i < 2 * kWarps; ++i) {
    copy_rows(to + static_cast<SharedAddress>(i * kBox), &a.w[i % 2], first + i / 2 * kWarpOutputs, stage * kStage,
              full);
  }
}
template <bool kDecodes, int kColumns>
QB_DEVICE void produce(const TurnedArgs& a, SharedAddress ring, const Barriers& barriers) {
  using P = Places<kDecodes, kColumns>;
  const auto slot_at = [&](int slot) { return ring + static_cast<SharedAddress>(slot * P::kSlot); };
  // Weights of the first tile do not wait for the kernel before.
  const int ahead = kDecodes ? 0 : a.stages < kSlots ? a.stages : kSlots;
  for (int i = 0; i < ahead; ++i) {
    barrier_expect(barriers.full(i), P::kSlot);
    ask_for_weights(a, block_x(), i, slot_at(i) + P::kX, barriers.full(i));
  }
  wait_for_previous();
  Turn turn;
  int skipped = ahead;
  for (int tile = block_x(); tile < a.tiles; tile += blocks_x()) {
    const int row = tile % a.of_rows * 2 * kColumns;
    for (int stage = 0; stage < a.stages; ++stage) {
      const SharedAddress full = barriers.full(turn.slot), to = slot_at(turn.slot);
      if (skipped > 0) {
        --skipped;
      } else {
        wait_for(barriers.empty(turn.slot), turn.parity ^ 1);
        barrier_expect(full, P::kSlot);
        if constexpr (!kDecodes) ask_for_weights(a, tile, stage, to + P::kX, full);
      }
      copy_rows(to, &a.x, row, stage * kStage, full);
      copy_rows(to + P::kX / 2, &a.x, row + kColumns, stage * kStage, full);
      turn.next();
    }
  }
}

// A thread's sums of a tile: of its warp's output g, the gate's and the other's, and of rows 8j + 2t of x and the next.
template <bool kDecodes, int kColumns>
class Consumer {
 public:
  QB_DEVICE Consumer(const TurnedArgs& args, std::byte* shared)
      : args_(args),
        a_(args.finish),
        shared_(shared),
        ring_(shared_address(shared)),
        barriers_{ring_ + P::kBarriersAt},
        pick_(0x80u << (8 * (lane_index() % 4))),
        table_(ring_ + P::kTableAt + static_cast<SharedAddress>(lane_index() % kCopies * 8)) {}

  QB_DEVICE void make_table() const {
    auto* const table = reinterpret_cast<Pair*>(shared_ + P::kTableAt);
    for (int i = thread_index(); i < 256 * kCopies; i += kConsumers) {
      const int byte = i / kCopies;  // the first code of a byte is in its high half
      table[i] = {args_.code[byte >> 4], args_.code[byte & 15]};
    }
    sync_first<kConsumers>();
  }

  // A tile's place, and asks for its first codes.
  QB_DEVICE void begin(int tile) {
    if (tile >= args_.tiles) return;
    first_row_ = tile % args_.of_rows * 2 * kColumns;
    own_ = tile / args_.of_rows * kOutputs + warp_index() * kWarpOutputs;
    if constexpr (kDecodes) {
      const int lane = lane_index(), copied = lane / 2;
      from_ = static_cast<const std::byte*>(weight(copied / kWarpOutputs).w) +
              static_cast<size_t>(row_of(copied % kWarpOutputs)) * (weight(0).k / 2) + lane % 2 * 16;
      for (int stage = 0; stage < kAhead; ++stage) copy(stage);
      for (int h = 0; h < 2; ++h) scales_[h] = ask_scale(h, 0);
    }
  }

  QB_DEVICE void run() {
    Turn turn;
    for (int tile = block_x(); tile < args_.tiles; tile += blocks_x()) {
      uint32_t sums[2][kColumns / 2] = {};
      multiply(sums, turn);
      const int row = first_row_, output = own_;
      begin(tile + blocks_x());
      finish_tile(sums, row, output);
    }
  }

 private:
  using P = Places<kDecodes, kColumns>;
  struct Scale {  // what one is made of, on its way
    float nested;
    uint32_t byte;
  };

  QB_DEVICE const Weight& weight(int job) const { return a_.jobs[job].w; }
  // Of the warp's output 0 to 7. Beyond the last one: the last, which is not kept.
  QB_DEVICE int row_of(int output) const {
    const int end = weight(0).n;
    return own_ + output < end ? own_ + output : end - 1;
  }
  QB_DEVICE std::byte* codes_at(int stage) const {
    return shared_ + P::kCodesAt + (warp_index() * kAhead + stage % kAhead) * kWarpCodes;
  }
  QB_DEVICE void copy(int stage) const {
    if (stage < args_.stages) copy16_async(codes_at(stage) + lane_index() * 16, from_ + stage * kCodes, true);
    close_copies();
  }
  QB_DEVICE Scale ask_scale(int h, int stage) const {
    const Weight& w = weight(h);
    const size_t block = static_cast<size_t>(row_of(lane_index() / 4)) * args_.stages + stage;
    if (!w.absmax8) return {w.absmax[block], 0};
    return {w.nested_absmax[block / 256], w.absmax8[block]};
  }
  QB_DEVICE float scale_of(int h, const Scale& s) const {
    const Weight& w = weight(h);
    if (!w.absmax8) return s.nested;
    return add_rn(mul_rn(args_.nested_code[s.byte], s.nested), w.offset);
  }

  // Two numbers of the word's byte t.
  QB_DEVICE uint32_t pair_of(uint32_t word, float scale) const {
    const Pair codes = load_shared_pair(dot_bytes(word, pick_, table_));
    return halves(mul_rn(codes.x, scale), mul_rn(codes.y, scale));
  }
  // The left operands of a stage's four products.
  QB_DEVICE void decode(int stage, uint32_t (&to)[4][4]) {
    wait_for_copies<kAhead - 1>();
    sync_warp();
    const SharedAddress at = shared_address(codes_at(stage)) + static_cast<SharedAddress>(lane_index() / 4 * kCodes);
    Bytes16 words[2][2];  // of output g, both matrices
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < 2; ++i)
        words[h][i] = load_shared16(at + static_cast<SharedAddress>(h * kWarpOutputs * kCodes + i * 16));
    }
    const float low = scale_of(0, scales_[0]), high = scale_of(1, scales_[1]);
    sync_warp();  // it is read
    copy(stage + kAhead);
    if (stage + 1 < args_.stages) {
      for (int h = 0; h < 2; ++h) scales_[h] = ask_scale(h, stage + 1);
    }
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        to[s][2 * i] = pair_of(words[0][s / 2].word[s % 2 * 2 + i], low);
        to[s][2 * i + 1] = pair_of(words[1][s / 2].word[s % 2 * 2 + i], high);
      }
    }
  }

  QB_DEVICE void release(int slot) const {
    if (thread_index() % kWarpgroup == 0) barrier_arrive(barriers_.empty(slot));
  }
  // now: the stage's left operands, next: those of the one behind it.
  QB_DEVICE void multiply_stage(uint32_t (&sums)[2][kColumns / 2], Turn& turn, int& before, int stage,
                                const uint32_t (&now)[4][4], uint32_t (&next)[4][4]) {
    const SharedAddress x = ring_ + static_cast<SharedAddress>(turn.slot * P::kSlot);
    const SharedAddress w = x + static_cast<SharedAddress>(P::kX + thread_index() / kWarpgroup * kWeights / 2);
    wait_for(barriers_.full(turn.slot), turn.parity);
    open_products();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const SharedAddress right = x + static_cast<SharedAddress>(half * P::kX / 2 + s * 32);
        if constexpr (kDecodes) {
          warpgroup_product_of_registers<kColumns>(sums[half], now[s], right, stage > 0 || s > 0);
        } else {
          warpgroup_product_of<kColumns>(sums[half], w + static_cast<SharedAddress>(s * 32), right, stage > 0 || s > 0);
        }
      }
    }
    close_products();
    if (before >= 0) {
      wait_for_products<1>();  // those that read `next`
      release(before);
    }
    before = turn.slot;
    turn.next();
    if constexpr (kDecodes) {
      if (stage + 1 < args_.stages) decode(stage + 1, next);
    }
  }
  QB_DEVICE void multiply(uint32_t (&sums)[2][kColumns / 2], Turn& turn) {
    uint32_t even[4][4], odd[4][4];
    int before = -1;
    if constexpr (kDecodes) decode(0, even);
#pragma unroll 1
    for (int stage = 0; stage < args_.stages; stage += 2) {
      multiply_stage(sums, turn, before, stage, even, odd);
      if (stage + 1 < args_.stages) multiply_stage(sums, turn, before, stage + 1, odd, even);
    }
    wait_for_products<0>();
    release(before);
  }

  QB_DEVICE void finish_tile(const uint32_t (&sums)[2][kColumns / 2], int first_row, int first_output) const {
    switch (a_.act) {  // each with code of its own, which is short
      case Activation::none: return put_tile<Activation::none>(sums, first_row, first_output);
      case Activation::relu: return put_tile<Activation::relu>(sums, first_row, first_output);
      case Activation::silu: return put_tile<Activation::silu>(sums, first_row, first_output);
      case Activation::gelu_tanh: return put_tile<Activation::gelu_tanh>(sums, first_row, first_output);
    }
  }
  template <Activation kAct>
  QB_DEVICE void put_tile(const uint32_t (&sums)[2][kColumns / 2], int first_row, int first_output) const {
    const int n = first_output + lane_index() / 4, end = weight(0).n;
    const auto bias_of = [&](const Job& job) { return job.bias && n < end ? job.bias[n] : 0.0f; };
    const float gate_bias = bias_of(a_.jobs[0]), other_bias = bias_of(a_.jobs[1]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
        float y[2];
        for (int i = 0; i < 2; ++i) {
          y[i] = activated<kAct>(float_of_bits(sums[half][4 * j + i]) + gate_bias) *
                 (float_of_bits(sums[half][4 * j + 2 + i]) + other_bias);
        }
        put(y[0], y[1], first_row + half * kColumns + 8 * j + lane_index() % 4 * 2, n, end);
      }
    }
  }
  // Output n of this row and the next, by the lanes of output n ± 1 together: two outputs of one row each.
  QB_DEVICE void put(float of_row, float of_next, int row, int n, int end) const {
    const bool odd = n % 2 == 1;
    const float other = from_lane_xor(odd ? of_row : of_next, 4);
    const Pair y = odd ? Pair{other, of_next} : Pair{of_row, other};
    row += odd;
    n -= odd;
    if (row >= a_.rows || n >= end) return;
    *reinterpret_cast<Pair*>(a_.jobs[1].y + static_cast<size_t>(row) * a_.stride[1] + n) = y;
    if (a_.ready.x16)
      *reinterpret_cast<Half2*>(a_.ready.x16 + static_cast<size_t>(row) * a_.ready.stride + n) = halves(y.x, y.y);
  }

  const TurnedArgs& args_;
  const FinishArgs& a_;
  std::byte* shared_;
  SharedAddress ring_;
  Barriers barriers_;
  uint32_t pick_;  // a word's byte t times the size of an entry, by dot_bytes()
  SharedAddress table_;
  int first_row_ = 0, own_ = 0;  // of the tile that was begun: row of x, the warp's first output
  const std::byte* from_ = nullptr;
  Scale scales_[2]{};  // of the next stage
};

#endif

template <bool kDecodes, int kColumns>
__global__ void __launch_bounds__(kThreads, 1) turned_kernel(const __grid_constant__ TurnedArgs a) {
#if defined(QB_WARPGROUPS)
  std::byte* const shared = aligned_shared();
  const SharedAddress ring = shared_address(shared);
  const Barriers barriers{ring + Places<kDecodes, kColumns>::kBarriersAt};
  if (thread_index() == 0) open_ring(barriers, kConsumers / kWarpgroup);
  sync_block();
  let_next_start();
  if (thread_index() >= kConsumers) {
    leave_registers<40>();
    if (warp_index() == kWarps && is_elected()) {
      produce<kDecodes, kColumns>(a, ring, barriers);
    } else {
      wait_for_previous();
    }
    return;
  }
  take_registers<232>();
  Consumer<kDecodes, kColumns> consumer(a, shared);
  if constexpr (kDecodes) consumer.make_table();
  consumer.begin(block_x());  // weights do not wait for the kernel before
  wait_for_previous();
  consumer.run();
#endif
}

constexpr int padded(int rows, int of_tile) { return (rows + of_tile - 1) / of_tile * of_tile; }

template <bool kDecodes, int kColumns>
void launch_turned(TurnedArgs& args, const uint16_t* x16, int x_stride, int multiprocessors, const Stream& stream) {
  const FinishArgs& f = args.finish;
  const Weight& w = f.jobs[0].w;
  constexpr size_t kNumber = sizeof(uint16_t);
  args.x = make_rows_map({x16, true, f.rows, w.k, static_cast<size_t>(x_stride) * kNumber, kColumns});
  for (int i = 0; i < 2 && !kDecodes; ++i)
    args.w[i] = make_rows_map({f.jobs[i].w.w, true, w.n, w.k, static_cast<size_t>(w.k) * kNumber, kWarpOutputs});
  args.of_rows = padded(f.rows, 2 * kColumns) / (2 * kColumns);
  args.tiles = args.of_rows * ((w.n + kOutputs - 1) / kOutputs);
  launch_clusters(turned_kernel<kDecodes, kColumns>, args.tiles < multiprocessors ? args.tiles : multiprocessors, 1,
                  kThreads, stream, args, Places<kDecodes, kColumns>::kBytes);
}
template <bool kDecodes>
void launch_format(TurnedArgs& args, const uint16_t* x16, int x_stride, int multiprocessors, const Stream& stream) {
  const int rows = args.finish.rows;
  if (padded(rows, 256) <= padded(rows, 272)) {
    launch_turned<kDecodes, 128>(args, x16, x_stride, multiprocessors, stream);
  } else {
    launch_turned<kDecodes, 136>(args, x16, x_stride, multiprocessors, stream);
  }
}

}  // namespace

int turned_rows(int rows) {
  const int of_256 = padded(rows, 256), of_272 = padded(rows, 272);
  return of_256 <= of_272 ? of_256 : of_272;
}
int unturned_rows(int rows) { return padded(rows, 128); }

bool can_multiply_turned(WeightFormat format, int n, int k) {
  return n % 8 == 0 && k % kStage == 0 && (format == WeightFormat::f16 || format == WeightFormat::nf4);
}

void multiply_turned(const FinishArgs& finish, const uint16_t* x16, int x_stride, const float* code,
                     const float* nested_code, int multiprocessors, const Stream& stream) {
  TurnedArgs args;
  args.finish = finish;
  args.stages = finish.jobs[0].w.k / kStage;
  for (int i = 0; i < 16; ++i) args.code[i] = code[i];
  args.nested_code = nested_code;
  if (finish.jobs[0].w.format == WeightFormat::nf4)
    return launch_format<true>(args, x16, x_stride, multiprocessors, stream);
  launch_format<false>(args, x16, x_stride, multiprocessors, stream);
}

}  // namespace quantbench::QB_CUDA
