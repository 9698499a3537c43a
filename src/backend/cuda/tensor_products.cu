// Products of many rows on Hopper's tensor cores. A block has tiles of 128 rows by 256 weight rows: one warp asks for
// boxes of both, 128 bytes of k at a time, into a ring; two warpgroups multiply 64 rows each, and finish their sums
// where they are, in registers. Few tiles with a long k are shared by a cluster, whose blocks take parts of k and hand
// each other the sums of a part of the columns.
#include "backend/cuda/tensor_products.h"

#include "backend/cuda/box_ring.cuh"
#include "backend/cuda/finish.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/warpgroup.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kRows = 128, kColumns = kProductColumns, kLine = 128;
constexpr int kConsumers = 2 * kWarpgroup, kThreads = kConsumers + kWarpgroup;
constexpr int kXBytes = kRows * kLine, kWBytes = kColumns * kLine, kSlotBytes = kXBytes + kWBytes;
constexpr int kOutliers = 64;  // columns that are multiplied at a time, of which weights lie in shared memory
constexpr int kOutliersAt = kSlots * kSlotBytes, kBarriersAt = kOutliersAt + kColumns * kOutliers * 2;
constexpr int kSharedBytes = kBarriersAt + 2 * kSlots * 8;
static_assert(kOutliers == kGathered);

// Of `finish`, how many outputs a tile has.
__host__ __device__ constexpr int outputs_of_tile(Finish finish) {
  return finish == Finish::gate ? kColumns / 2 : kColumns;
}
__host__ __device__ inline int tiles_of_rows(int rows) { return (rows + kRows - 1) / kRows; }

#if defined(QB_WARPGROUPS)

struct Place {
  int row, job, n;  // the first of each; n: of the job's outputs
};
// Neighbouring tiles share weights, which are read once for them.
template <Finish kFinish>
QB_DEVICE Place place_of(const FinishArgs& a, int tile) {
  const int of_rows = tiles_of_rows(a.rows), row = tile % of_rows;
  int column = tile / of_rows, job = 0;
  if constexpr (kFinish == Finish::qkv) {
    while (column >= (a.jobs[job].w.n + kColumns - 1) / kColumns)
      column -= (a.jobs[job++].w.n + kColumns - 1) / kColumns;
  }
  return {row * kRows, job, column * outputs_of_tile(kFinish)};
}

template <bool kInt8, Finish kFinish>
QB_DEVICE void ask_for_weights(const TensorArgs& a, const Place& place, int stage, SharedAddress to,
                               SharedAddress barrier) {
  const int column = stage * (kInt8 ? kLine : kLine / 2);
  copy_rows(to, &a.w[place.job], place.n, column, barrier);
  if constexpr (kFinish == Finish::gate) copy_rows(to + kWBytes / 2, &a.w[1], place.n, column, barrier);
}

template <bool kInt8, Finish kFinish, int kSplits>
QB_DEVICE void produce(const TensorArgs& a, SharedAddress ring, const Barriers& barriers) {
  const int rank = block_x() % kSplits, first = a.stages * rank / kSplits, last = a.stages * (rank + 1) / kSplits;
  const auto slot_at = [&](int slot) { return ring + static_cast<SharedAddress>(slot * kSlotBytes); };
  constexpr int kStageColumns = kInt8 ? kLine : kLine / 2;
  // Weights of the first tile do not wait for the kernel before.
  const int ahead = a.awaits_weights ? 0 : last - first < kSlots ? last - first : kSlots;
  int tile = block_x() / kSplits;
  Place place = place_of<kFinish>(a.finish, tile);
  for (int i = 0; i < ahead; ++i) {
    barrier_expect(barriers.full(i), kSlotBytes);
    ask_for_weights<kInt8, kFinish>(a, place, first + i, slot_at(i) + kXBytes, barriers.full(i));
  }
  wait_for_previous();
  Turn turn;
  for (int skipped = ahead; tile < a.tiles; tile += blocks_x() / kSplits) {
    place = place_of<kFinish>(a.finish, tile);
    for (int stage = first; stage < last; ++stage) {
      const SharedAddress full = barriers.full(turn.slot), to = slot_at(turn.slot);
      if (skipped > 0) {
        --skipped;
      } else {
        wait_for(barriers.empty(turn.slot), turn.parity ^ 1);
        barrier_expect(full, kSlotBytes);
        ask_for_weights<kInt8, kFinish>(a, place, stage, to + kXBytes, full);
      }
      copy_rows(to, &a.x, place.row, stage * kStageColumns, full);
      turn.next();
    }
  }
}

// A thread's sums of a tile. Columns 8j + 2t and the next, of rows g and g + 8 of its warp's sixteen.
template <bool kInt8, Finish kFinish, int kSplits>
class Consumer {
 public:
  static constexpr int kOwn = kColumns / 8 / kSplits;  // eights of columns that are finished here

  QB_DEVICE Consumer(const TensorArgs& args, std::byte* shared)
      : args_(args), a_(args.finish), shared_(shared), ring_(shared_address(shared)), barriers_{ring_ + kBarriersAt} {}

  QB_DEVICE void run() {
    Turn turn;
    for (int tile = block_x() / kSplits; tile < args_.tiles; tile += blocks_x() / kSplits) {
      uint32_t sums[kProductSums] = {};
      multiply(sums, turn);
      const Place place = place_of<kFinish>(a_, tile);
      if constexpr (kSplits > 1) {
        uint32_t own[4 * kOwn];
        share(sums, own);
        finish_tile(own, place);
      } else {
        finish_tile(sums, place);
      }
    }
  }

 private:
  QB_DEVICE static int group() { return thread_index() / kWarpgroup; }
  QB_DEVICE static int rank() { return block_x() % kSplits; }
  QB_DEVICE void release(int slot) const {
    if (thread_index() % kWarpgroup == 0) barrier_arrive(barriers_.empty(slot));
  }

  QB_DEVICE void multiply(uint32_t (&sums)[kProductSums], Turn& turn) const {
    const int first = args_.stages * rank() / kSplits, last = args_.stages * (rank() + 1) / kSplits;
    int before = -1;
    for (int stage = first; stage < last; ++stage) {
      const SharedAddress slot = ring_ + static_cast<SharedAddress>(turn.slot * kSlotBytes);
      const SharedAddress x = slot + static_cast<SharedAddress>(group() * kXBytes / 2), w = slot + kXBytes;
      wait_for(barriers_.full(turn.slot), turn.parity);
      open_products();
#pragma unroll
      for (SharedAddress at = 0; at < kLine; at += 32) {
        warpgroup_product<kInt8>(sums, x + at, w + at, stage > first || at > 0);
      }
      close_products();
      wait_for_products<1>();
      if (before >= 0) release(before);
      before = turn.slot;
      turn.next();
    }
    wait_for_products<0>();
    release(before);
  }

  // The sums of this block's part of the columns, over all parts of k, always in the same order.
  template <int kCount>
  QB_DEVICE void share(const uint32_t (&sums)[kProductSums], uint32_t (&own)[kCount]) const {
    sync_cluster<kSplits, kConsumers>();  // rings are read
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      const int from = (rank() * kOwn + j % kOwn) * kConsumers + thread_index();
      put16_in_cluster<kSplits>(j / kOwn, ring_ + static_cast<SharedAddress>(from) * 16,
                                {{sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]}});
    }
    sync_cluster<kSplits, kConsumers>();
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
#pragma unroll
      for (int part = 0; part < kSplits; ++part) {
        const Bytes16 sum = load16(shared_ + static_cast<size_t>((part * kOwn + j) * kConsumers + thread_index()) * 16);
        for (int i = 0; i < 4; ++i) {
          uint32_t& to = own[4 * j + i];
          if (part == 0) {
            to = sum.word[i];
          } else {
            to = kInt8 ? to + sum.word[i] : bits_of_float(add_rn(float_of_bits(to), float_of_bits(sum.word[i])));
          }
        }
      }
    }
  }

  // Eight columns j of the block's part: which job's, and from which of its outputs on.
  QB_DEVICE int job_of(const Place& place, int j) const { return kFinish == Finish::gate ? j / (kOwn / 2) : place.job; }
  QB_DEVICE int column_of(const Place& place, int j) const {
    if constexpr (kFinish == Finish::gate) return place.n + j % (kOwn / 2) * 8;
    return place.n + (rank() * kOwn + j) * 8;
  }
  QB_DEVICE int row_of(const Place& place) const {  // and eight further
    return place.row + warp_index() * 16 + lane_index() / 4;
  }

  template <int kCount>
  QB_DEVICE void finish_tile(uint32_t (&sums)[kCount], const Place& place) const {
    static_assert(kCount == 4 * kOwn);
    if constexpr (kFinish == Finish::qkv) return put_sums(sums, place);
    if constexpr (kInt8) {
      finish_codes(sums, place);
    } else {
      add_biases(sums, place);
    }
    // Each with code of its own, which is short.
    if constexpr (kFinish == Finish::add) return put_tile<Activation::none>(sums, place);
    switch (a_.act) {
      case Activation::none: return put_tile<Activation::none>(sums, place);
      case Activation::relu: return put_tile<Activation::relu>(sums, place);
      case Activation::silu: return put_tile<Activation::silu>(sums, place);
      case Activation::gelu_tanh: return put_tile<Activation::gelu_tanh>(sums, place);
    }
  }
  template <int kCount>
  QB_DEVICE void add_biases(uint32_t (&sums)[kCount], const Place& place) const {
    if (!a_.jobs[0].bias && !a_.jobs[kFinish == Finish::gate ? 1 : 0].bias) return;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const Job& job = a_.jobs[job_of(place, j)];
      const Pair bias = pair_at(job.bias, column_of(place, j) + lane_index() % 4 * 2, job.w.n);
      for (int i = 0; i < 4; ++i) {
        sums[4 * j + i] = bits_of_float(float_of_bits(sums[4 * j + i]) + (i % 2 == 0 ? bias.x : bias.y));
      }
    }
  }
  QB_DEVICE static Pair pair_at(const float* from, int n, int end) {
    return from && n < end ? *reinterpret_cast<const Pair*>(from + n) : Pair{0, 0};
  }

  template <int kCount>
  QB_DEVICE void put_sums(const uint32_t (&sums)[kCount], const Place& place) const {
    auto* const to = static_cast<uint32_t*>(a_.sums[place.job]);
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int n = column_of(place, j) + lane_index() % 4 * 2;
      for (int h = 0; h < 2; ++h) {
        const int row = row_of(place) + 8 * h;
        if (row >= a_.rows || n >= a_.jobs[place.job].w.n) continue;
        store8(to + static_cast<size_t>(row) * a_.stride[place.job] + n,
               {{sums[4 * j + 2 * h], sums[4 * j + 2 * h + 1]}});
      }
    }
  }

  // LLM.int8's outputs in fp16, then the outlier columns' part.
  template <int kCount>
  QB_DEVICE void finish_codes(uint32_t (&sums)[kCount], const Place& place) const {
    float absmax[2];
    for (int h = 0; h < 2; ++h) {
      const int row = row_of(place) + 8 * h;
      absmax[h] = row < a_.rows ? a_.x.absmax[row] : 0.0f;
    }
    const int count = a_.x.outliers[0];
    Half2 outputs[kOwn][2];
#pragma unroll
    for (int half = 0; half < (kFinish == Finish::gate ? 2 : 1); ++half) {
      constexpr int kOfJob = kFinish == Finish::gate ? kOwn / 2 : kOwn;
      const Job& job = a_.jobs[job_of(place, half * kOfJob)];
      const float* const scales = job.w.absmax;
      const float* const biases = job.bias;
      const int end = job.w.n;
#pragma unroll
      for (int i = 0; i < kOfJob; ++i) {
        const int j = half * kOfJob + i, n = column_of(place, j) + lane_index() % 4 * 2;
        const Pair scale = pair_at(scales, n, end), bias = pair_at(biases, n, end);
        for (int h = 0; h < 2; ++h) {
          outputs[j][h] = halves(int8_sum(sums[4 * j + 2 * h], absmax[h], scale.x, bias.x),
                                 int8_sum(sums[4 * j + 2 * h + 1], absmax[h], scale.y, bias.y));
        }
      }
    }
    if (count == 0) {
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        for (int i = 0; i < 4; ++i) {
          sums[4 * j + i] = bits_of_float(float_of_half(static_cast<uint16_t>(outputs[j][i / 2] >> (i % 2 * 16))));
        }
      }
      return;
    }
    float outliers[kOwn][4] = {};
    for (int first = 0; first < count; first += kOutliers) add_outliers(place, first, count, outliers);
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      for (int i = 0; i < 4; ++i) {
        const float output = float_of_half(static_cast<uint16_t>(outputs[j][i / 2] >> (i % 2 * 16)));
        sums[4 * j + i] = bits_of_float(float_of_half(half_of_float(add_rn(output, outliers[j][i]))));
      }
    }
  }
  // Not rounded to fp16 yet.
  QB_DEVICE static float int8_sum(uint32_t sum, float row_absmax, float absmax, float bias) {
    const float scaled = mul_rn(mul_rn(static_cast<float>(static_cast<int32_t>(sum)), row_absmax), absmax);
    return fmaf(scaled, kOutputScale, bias);
  }

  // Of up to kOutliers columns from `first` on.
  QB_DEVICE void add_outliers(const Place& place, int first, int count, float (&to)[kOwn][4]) const {
    constexpr int kSharers = kConsumers / (kOwn * 8), kEach = kOutliers / kSharers;  // threads of a weight row
    const int steps = (count - first < kOutliers ? count - first + 15 : kOutliers) / 16;
    auto* const weights = reinterpret_cast<uint16_t*>(shared_ + kOutliersAt);  // [kOwn · 8][kOutliers]
    const int own_row = thread_index() / kSharers, own_first = thread_index() % kSharers * kEach;
    {
      const Weight& w = a_.jobs[job_of(place, own_row / 8)].w;
      const int n = column_of(place, own_row / 8) + own_row % 8;
      const bool real = n < w.n;
      const int8_t* const codes = static_cast<const int8_t*>(w.w) + (real ? static_cast<size_t>(n) * w.k : 0);
      const float absmax = real ? w.absmax[n] : 0.0f;
      sync_first<kConsumers>();  // what lies there may still be read
#pragma unroll 1
      for (int eight = own_first; eight < own_first + kEach && eight < 16 * steps; eight += 8) {
        int8_t code[8];
        for (int i = 0; i < 8; ++i) {
          const int outlier = first + eight + i;
          code[i] = codes[a_.x.outliers[1 + (outlier < count ? outlier : 0)]];  // one too many meets zeros of x
        }
        Bytes16 halves8;
        for (int i = 0; i < 4; ++i) {
          halves8.word[i] = halves(outlier_weight(code[2 * i], absmax), outlier_weight(code[2 * i + 1], absmax));
        }
        store16(weights + own_row * kOutliers + ((eight / 8 ^ own_row % 8) * 8), halves8);
      }
      sync_first<kConsumers>();
    }
    const int t = lane_index() % 4, matrix = lane_index() / 8, matrix_row = lane_index() % 8;
#pragma unroll 1
    for (int s = 0; s < steps; ++s) {
      uint32_t x[4];  // rows g and g + 8 at k = 2t, then at k + 8
      for (int i = 0; i < 4; ++i) {
        const int row = row_of(place) + i % 2 * 8;
        const uint16_t* const from =
            a_.x.x16 + static_cast<size_t>(row) * a_.x.stride + first + s * 16 + i / 2 * 8 + 2 * t;
        x[i] = row < a_.rows ? *reinterpret_cast<const uint32_t*>(from) : 0;
      }
#pragma unroll
      for (int j = 0; j < kOwn; j += 2) {
        uint32_t b[4];
        const int row = (j + matrix / 2) * 8 + matrix_row, eight = 2 * s + matrix % 2;
        load_matrices(b, weights + row * kOutliers + ((eight ^ matrix_row) * 8));
        mma_f16(to[j], x, {b[0], b[1]});
        mma_f16(to[j + 1], x, {b[2], b[3]});
      }
    }
  }

  // Finished sums to where they go.
  template <Activation kAct, int kCount>
  QB_DEVICE void put_tile(const uint32_t (&sums)[kCount], const Place& place) const {
    constexpr bool kGate = kFinish == Finish::gate;
    constexpr int kOutputs = kGate ? kOwn / 2 : kOwn;
    const Job& job = a_.jobs[kGate ? 1 : place.job];
    const int end = job.w.n, first = column_of(place, 0) + lane_index() % 4 * 2;
    const ReadyRows ready = a_.ready;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = row_of(place) + 8 * h;
      if (row >= a_.rows) continue;
      float* const to = job.y + static_cast<size_t>(row) * a_.stride[kGate ? 1 : place.job] + first;
      uint16_t* const x16 = ready.x16 ? ready.x16 + static_cast<size_t>(row) * ready.stride + first : nullptr;
      if constexpr (kFinish == Finish::add) {
        constexpr int kAtOnce = kOutputs < 8 ? kOutputs : 8;  // loads before the first store
#pragma unroll
        for (int start = 0; start < kOutputs; start += kAtOnce) {
          Pair before[kAtOnce];
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) {
            const int at = 8 * (start + i);
            before[i] = first + at < end ? *reinterpret_cast<const Pair*>(to + at) : Pair{0, 0};
          }
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) {
            const int at = 8 * (start + i), j = start + i;
            if (first + at >= end) continue;
            *reinterpret_cast<Pair*>(to + at) = {before[i].x + float_of_bits(sums[4 * j + 2 * h]),
                                                 before[i].y + float_of_bits(sums[4 * j + 2 * h + 1])};
          }
        }
      } else {
#pragma unroll
        for (int j = 0; j < kOutputs; ++j) {
          if (first + 8 * j >= end) continue;
          Pair y = {activated<kAct>(float_of_bits(sums[4 * j + 2 * h])),
                    activated<kAct>(float_of_bits(sums[4 * j + 2 * h + 1]))};
          if constexpr (kGate) {
            y.x *= float_of_bits(sums[4 * (j + kOutputs) + 2 * h]);
            y.y *= float_of_bits(sums[4 * (j + kOutputs) + 2 * h + 1]);
          }
          *reinterpret_cast<Pair*>(to + 8 * j) = y;
          if (!x16) continue;
          const Half2 both = halves(y.x, y.y);
          *reinterpret_cast<Half2*>(x16 + 8 * j) = both;
          if (!kInt8 || !ready.marks) continue;
          // Whether either may be an outlier: bit 15 of its magnitude plus 2^15 less the bits of 6.
          constexpr uint32_t kMagnitudes = 0x7fff7fff, kBeyond = 0x3a003a00, kSigns = 0x80008000;
          if ((((both & kMagnitudes) + kBeyond) & kSigns) == 0) continue;
          mark(ready.marks + first + 8 * j, static_cast<uint16_t>(both));
          mark(ready.marks + first + 8 * j + 1, static_cast<uint16_t>(both >> 16));
        }
      }
    }
  }
  const TensorArgs& args_;
  const FinishArgs& a_;
  std::byte* shared_;
  SharedAddress ring_;
  Barriers barriers_;
};

#endif

template <bool kInt8, Finish kFinish, int kSplits>
__global__ void __launch_bounds__(kThreads, 1) tensor_kernel(const __grid_constant__ TensorArgs a) {
#if defined(QB_WARPGROUPS)
  std::byte* const shared = aligned_shared();
  const SharedAddress ring = shared_address(shared);
  const Barriers barriers{ring + kBarriersAt};
  if (thread_index() == 0) open_ring(barriers, kConsumers / kWarpgroup);
  sync_block();
  let_next_start();
  if (thread_index() >= kConsumers) {
    leave_registers<40>();
    if (warp_index() == kConsumers / kWarpSize && is_elected()) {
      produce<kInt8, kFinish, kSplits>(a, ring, barriers);
    } else {
      wait_for_previous();
    }
    return;
  }
  take_registers<232>();
  wait_for_previous();
  if (a.finish.used) {
    for (int i = block_x() * kConsumers + thread_index(); i < a.finish.used_count; i += blocks_x() * kConsumers) {
      a.finish.used[i] = 0;
    }
  }
  Consumer<kInt8, kFinish, kSplits>(a, shared).run();
#endif
}

template <bool kInt8, Finish kFinish, int kSplits>
void launch_tensor(const TensorArgs& args, int multiprocessors, const Stream& stream) {
  const int blocks = kSplits > 1 || args.tiles < multiprocessors ? args.tiles * kSplits : multiprocessors;
  launch_clusters(tensor_kernel<kInt8, kFinish, kSplits>, blocks, kSplits, kThreads, stream, args, kSharedBytes);
}

template <bool kInt8, int kSplits>
bool shares(const TensorArgs& args, int multiprocessors) {
  static const int most =
      clusters_at_once(tensor_kernel<kInt8, Finish::add, kSplits>, kSplits, kThreads, kSharedBytes, multiprocessors);
  return args.tiles <= most && args.stages >= 2 * kSplits;
}

template <bool kInt8>
void launch_format(const TensorArgs& args, int multiprocessors, const Stream& stream) {
  switch (args.finish.finish) {
    case Finish::store: return launch_tensor<kInt8, Finish::store, 1>(args, multiprocessors, stream);
    case Finish::gate: return launch_tensor<kInt8, Finish::gate, 1>(args, multiprocessors, stream);
    case Finish::qkv: return launch_tensor<kInt8, Finish::qkv, 1>(args, multiprocessors, stream);
    case Finish::add: break;
  }
  // As many parts of k as leave no cluster without multiprocessors, and each at least two stages.
  if (shares<kInt8, 4>(args, multiprocessors))
    return launch_tensor<kInt8, Finish::add, 4>(args, multiprocessors, stream);
  if (shares<kInt8, 2>(args, multiprocessors))
    return launch_tensor<kInt8, Finish::add, 2>(args, multiprocessors, stream);
  launch_tensor<kInt8, Finish::add, 1>(args, multiprocessors, stream);
}

}  // namespace

bool can_multiply_tensor(WeightFormat format, int n, int k) {
  if (n % 8 != 0) return false;
  return format == WeightFormat::int8 ? k % 16 == 0 : format == WeightFormat::f16 && k % 8 == 0;
}

void multiply_tensor(const FinishArgs& finish, const void* x, int x_stride, bool awaits_weights, int multiprocessors,
                     const Stream& stream) {
  const Weight& first = finish.jobs[0].w;
  const bool int8 = first.format == WeightFormat::int8;
  const size_t number = int8 ? sizeof(int8_t) : sizeof(uint16_t);
  TensorArgs args{.finish = finish, .awaits_weights = awaits_weights};
  args.x = make_rows_map({x, !int8, finish.rows, first.k, static_cast<size_t>(x_stride) * number, kRows});
  const int outputs = outputs_of_tile(finish.finish);
  int columns = 0;  // of tiles
  for (int i = 0; i < finish.job_count; ++i) {
    const Weight& w = finish.jobs[i].w;
    args.w[i] = make_rows_map({w.w, !int8, w.n, w.k, static_cast<size_t>(w.k) * number, outputs});
    if (finish.finish != Finish::gate || i == 0) columns += (w.n + outputs - 1) / outputs;
  }
  const int stage = static_cast<int>(kLine / number);
  args.stages = (first.k + stage - 1) / stage;
  args.tiles = columns * tiles_of_rows(finish.rows);
  if (int8) return launch_format<true>(args, multiprocessors, stream);
  launch_format<false>(args, multiprocessors, stream);
}

}  // namespace quantbench::QB_CUDA
