// One token in one launch. Each multiprocessor has one block: a producer that streams its share of all weights of the
// model through a ring in shared memory, as fast as memory gives them and without looking at the ops; and sixteen warps
// that multiply what arrives. Blocks meet only in the words of the exchange buffers (step.h).
#include <cmath>

#include "backend/cuda/finish.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/persistent/hopper.cuh"
#include "backend/cuda/row.cuh"
#include "backend/sampling.h"

namespace quantbench::cuda {
namespace {

constexpr int kConsumers = kConsumerWarps * kWarpSize;
constexpr int kThreads = kConsumers + kWarpSize;
constexpr uint32_t kMostPolls = 1u << 24;  // seconds: a word that has not come by then never will

#if __CUDA_ARCH__ >= 900

struct Shared {
  SharedLayout at;
  std::byte* base;
  template <typename T>
  QB_DEVICE T* pointer(size_t offset) const {
    return reinterpret_cast<T*>(base + offset);
  }
  QB_DEVICE SharedAddress full(int slot) const {
    return shared_address(base + at.barriers) + static_cast<SharedAddress>(slot) * 16;
  }
  QB_DEVICE SharedAddress empty(int slot) const { return full(slot) + 8; }
  QB_DEVICE int* token() const { return pointer<int>(at.places); }
  QB_DEVICE int* position() const { return token() + 1; }
};

// A wait that never ends is a fault of this kernel; it says where and ends the launch with an error.
__device__ __noinline__ void give_up(const PersistentArgs& a, int what, int step) {
  if (atomicCAS(a.stuck, 0u, static_cast<uint32_t>(what)) == 0u) {
    a.stuck[1] = static_cast<uint32_t>(step);
    a.stuck[2] = blockIdx.x;
    a.stuck[3] = threadIdx.x;
    __threadfence_system();
  }
  __trap();
}

QB_DEVICE void wait_barrier(const PersistentArgs& a, SharedAddress barrier, uint32_t parity, int step) {
  for (uint32_t i = 0; !barrier_passed(barrier, parity); ++i) {
    if (i > kMostPolls) give_up(a, 1, step);
  }
}
QB_DEVICE uint32_t wait_word(const PersistentArgs& a, const Tagged* from, int step) {
  for (uint32_t i = 0;; ++i) {
    const Tagged word = get_word(from);
    if (static_cast<uint32_t>(word >> 32) == a.epoch) return static_cast<uint32_t>(word);
    if (i > kMostPolls) give_up(a, 2, step);
  }
}
// Until both words, which were read once, are of this launch.
QB_DEVICE void wait_two(const PersistentArgs& a, const Tagged* from, int step, TwoWords* words) {
  for (uint32_t i = 0;
       static_cast<uint32_t>(words->first >> 32) != a.epoch || static_cast<uint32_t>(words->second >> 32) != a.epoch;
       ++i) {
    *words = get_two_words(from);
    if (i > kMostPolls) give_up(a, 3, step);
  }
}
struct TwoValues {
  uint32_t first, second;
};
QB_DEVICE TwoValues wait_two(const PersistentArgs& a, const Tagged* from, int step) {
  TwoWords words = get_two_words(from);
  wait_two(a, from, step, &words);
  return {static_cast<uint32_t>(words.first), static_cast<uint32_t>(words.second)};
}
QB_DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }

// The place in the ring.
struct Ring {
  int slot = 0;
  uint32_t parity = 0;
  QB_DEVICE void next(int slots) {
    if (++slot == slots) slot = 0, parity ^= 1;
  }
};

struct Tile {
  int low, high;
  bool rotates;
};
QB_DEVICE Tile tile_of(const Step& s, int segment, int unit) {
  if (s.finish == Finish::gate) return {unit * 8, unit * 8, false};
  if (s.finish != Finish::qkv || segment == 2 || !s.rotation.cos)
    return {unit * kUnitRows, unit * kUnitRows + 8, false};
  const int head_dim = s.kv.head_dim, tiles_of_head = head_dim / kUnitRows, head = unit / tiles_of_head;
  const int own = unit % tiles_of_head, half = s.rotation.dims / 2, pairs = half / 8, start = head * head_dim;
  if (own < pairs) return {start + own * 8, start + own * 8 + half, true};
  const int low = start + s.rotation.dims + (own - pairs) * kUnitRows;
  return {low, low + 8, false};
}
QB_DEVICE int first_unit(const Step& s) {
  const int n = blocks_x(), turn = s.turn % n;
  return block_x() >= turn ? block_x() - turn : block_x() - turn + n;
}
QB_DEVICE int find_segment(const Step& s, int* unit) {
  int segment = 0;
  while (segment + 1 < s.segment_count && s.finish != Finish::gate && *unit >= s.segments[segment].units) {
    *unit -= s.segments[segment++].units;
  }
  return segment;
}

// --- the producer
// ------------------------------------------------------------------------------------------------------
QB_DEVICE void produce(const PersistentArgs& a, const Shared& m) {
  Ring ring;
  int scale_area = 0;
  for (int i = 0; i < a.step_count; ++i) {
    const Step& s = a.steps[i];
    if (s.kind != StepKind::product) continue;
    const int slots = s.slots, slot_chunks = s.slot_chunks, box_bytes = 8 * kChunkBytes * slot_chunks;
    for (int work = first_unit(s); work < s.units; work += blocks_x()) {
      int unit = work;
      const int segment = find_segment(s, &unit);
      const Tile tile = tile_of(s, segment, unit);
      const Segment& low = s.segments[segment];
      const Segment& high = s.segments[s.finish == Finish::gate ? 1 : segment];
      for (int j = 0; j < slots; ++j) {
        wait_barrier(a, m.empty(ring.slot), ring.parity ^ 1, i);
        const SharedAddress to =
            shared_address(m.base + m.at.ring) + static_cast<SharedAddress>(ring.slot) * kSlotBytes;
        const SharedAddress full = m.full(ring.slot);
        int bytes = 2 * box_bytes;
        if (s.format == WeightFormat::nf4 && j == 0) {
          const int row_blocks = s.k / 64, piece = 8 * row_blocks;
          barrier_expect(full, bytes + 2 * piece);
          const SharedAddress scales =
              shared_address(m.base + m.at.scales) + static_cast<SharedAddress>(scale_area) * a.scale_bytes;
          copy_bytes(scales, low.w.absmax8 + static_cast<size_t>(tile.low) * row_blocks, piece, full);
          copy_bytes(scales + piece, high.w.absmax8 + static_cast<size_t>(tile.high) * row_blocks, piece, full);
          if (++scale_area > a.slots) scale_area = 0;
        } else {
          barrier_expect(full, bytes);
        }
        copy_box(to, a.maps + low.map, tile.low, j * slot_chunks, full);
        copy_box(to + box_bytes, a.maps + high.map, tile.high, j * slot_chunks, full);
        ring.next(a.slots);
      }
    }
  }
}

// --- the row that is multiplied
// ------------------------------------------------------------------------------------------ Offset in bytes of number
// k (even) in the order in which a lane takes its part of a product: for 16 numbers of fp16, lane t has 2t, 2t + 1, 2t
// + 8, 2t + 9.
QB_DEVICE int place_f16(int k) { return (k / 16) * 32 + (k % 8) / 2 * 8 + (k % 16) / 8 * 4; }
// Codes, 32 of them: lane t has 4t … 4t + 3 and 4t + 16 … 4t + 19.
QB_DEVICE int place_s8(int k) { return (k / 32) * 32 + (k % 16) / 4 * 8 + (k % 32) / 16 * 4 + k % 4; }

// LLM.int8: what beside the codes belongs to the row.
struct Int8Row {
  float absmax;
  int outliers;
};

template <WeightFormat kFormat>
QB_DEVICE void put_pair(const Shared& m, int k, Half2 pair) {
  std::byte* const x = m.base + m.at.x;
  *reinterpret_cast<Half2*>(x + (kFormat == WeightFormat::f16 ? place_f16(k) : 2 * k)) = pair;
}

QB_DEVICE float half_low(Half2 pair) { return float_of_half(static_cast<uint16_t>(pair)); }
QB_DEVICE float half_high(Half2 pair) { return float_of_half(static_cast<uint16_t>(pair >> 16)); }

QB_DEVICE void look_for_outlier(float value, float* most, bool* found) {
  const float magnitude = fabsf(value);
  if (magnitude >= kThreshold)
    *found = true;
  else if (magnitude > *most)
    *most = magnitude;
}

// x16 lies in m.x, in order; most and found are this thread's.
QB_DEVICE Int8Row make_codes(const Shared& m, int k, float most, bool found) {
  float* const sums = m.pointer<float>(m.at.sums);
  most = warp_max(most);
  found = __any_sync(0xffffffffu, found);
  if (lane_index() == 0) {
    sums[2 * warp_index()] = most;
    sums[2 * warp_index() + 1] = found ? 1.0f : 0.0f;
  }
  sync_consumers();
  bool any = false;
  for (int w = 0; w < kConsumerWarps; ++w) {
    most = sums[2 * w] > most ? sums[2 * w] : most;
    any |= sums[2 * w + 1] != 0;
  }
  const float scale = code_scale(most);
  const auto* const x = m.pointer<Half2>(m.at.x);
  std::byte* const codes = m.base + m.at.codes;
  const auto code = [scale](float value) {
    return fabsf(value) >= kThreshold ? 0u : static_cast<uint32_t>(round_to_int(mul_rn(value, scale))) & 255u;
  };
  for (int i = thread_index(); i < k / 4; i += kConsumers) {
    const Half2 first = x[2 * i], second = x[2 * i + 1];
    *reinterpret_cast<uint32_t*>(codes + place_s8(4 * i)) = code(half_low(first)) | code(half_high(first)) << 8 |
                                                            code(half_low(second)) << 16 |
                                                            code(half_high(second)) << 24;
  }
  int count = 0;
  if (any) {  // in ascending order, as their products are added up
    auto* const list = m.pointer<uint16_t>(m.at.outliers);
    const auto* const x16 = m.pointer<uint16_t>(m.at.x);
    int* const counts = m.pointer<int>(m.at.sums) + 2 * kConsumerWarps;
    const int share = k / kConsumerWarps, first = warp_index() * share;
    int own = 0;
    for (int i = first + lane_index(); i < first + share; i += kWarpSize) {
      own += __popc(__ballot_sync(0xffffffffu, fabsf(float_of_half(x16[i])) >= kThreshold));
    }
    if (lane_index() == 0) counts[warp_index()] = own;
    sync_consumers();
    int at = 0;
    for (int w = 0; w < kConsumerWarps; ++w) {
      if (w == warp_index()) at = count;
      count += counts[w];
    }
    for (int i = first + lane_index(); i < first + share; i += kWarpSize) {
      const bool outlier = fabsf(float_of_half(x16[i])) >= kThreshold;
      const uint32_t ballot = __ballot_sync(0xffffffffu, outlier);
      if (outlier) list[at + __popc(ballot & ((1u << lane_index()) - 1))] = static_cast<uint16_t>(i);
      at += __popc(ballot);
    }
  }
  sync_consumers();
  return {most, count};
}

// A row of floats, through the norm.
template <WeightFormat kFormat>
QB_DEVICE Int8Row make_row_of_floats(const PersistentArgs& a, const Shared& m, const Step& s, int step) {
  constexpr int kMostPairs = 4;  // k ≤ 4096
  constexpr bool kInt8 = kFormat == WeightFormat::int8;
  float x[2 * kMostPairs], weight[2 * kMostPairs], bias[2 * kMostPairs];
  const bool has_norm = s.norm.weight != nullptr, has_bias = s.norm.bias != nullptr;
  const int pairs = s.k / 2;
#pragma unroll
  for (int j = 0; j < kMostPairs; ++j) {
    const int p = thread_index() + j * kConsumers;
    weight[2 * j] = weight[2 * j + 1] = bias[2 * j] = bias[2 * j + 1] = 0;
    if (p < pairs && has_norm) {
      const float2 w = *reinterpret_cast<const float2*>(s.norm.weight + 2 * p);
      weight[2 * j] = w.x, weight[2 * j + 1] = w.y;
    }
    if (p < pairs && has_bias) {
      const float2 b = *reinterpret_cast<const float2*>(s.norm.bias + 2 * p);
      bias[2 * j] = b.x, bias[2 * j + 1] = b.y;
    }
  }
  if (s.in.source == Source::table) {
    const auto* const from = reinterpret_cast<const Half2*>(s.in.table + static_cast<size_t>(*m.token()) * s.k);
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int p = thread_index() + j * kConsumers;
      const Half2 pair = p < pairs ? from[p] : 0;
      x[2 * j] = half_low(pair) * s.in.scale;
      x[2 * j + 1] = half_high(pair) * s.in.scale;
    }
  } else {
    const Tagged* const words = s.in.words;
    TwoWords v[kMostPairs] = {};
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int p = thread_index() + j * kConsumers;
      if (p < pairs) v[j] = get_two_words(words + 2 * p);
    }
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int p = thread_index() + j * kConsumers;
      if (p < pairs) wait_two(a, words + 2 * p, step, &v[j]);
      x[2 * j] = as_float(static_cast<uint32_t>(v[j].first));
      x[2 * j + 1] = as_float(static_cast<uint32_t>(v[j].second));
    }
  }
  double sum = 0, square = 0;
#pragma unroll
  for (int i = 0; i < 2 * kMostPairs; ++i) {
    sum += x[i];
    square += static_cast<double>(x[i]) * x[i];
  }
  NormFactors f;
  double* const sums = m.pointer<double>(m.at.sums);
  if (has_norm) {
    sum = warp_sum(sum);
    square = warp_sum(square);
    if (lane_index() == 0) {
      sums[2 * warp_index()] = sum;
      sums[2 * warp_index() + 1] = square;
    }
    sync_consumers();
    sum = square = 0;
    for (int w = 0; w < kConsumerWarps; ++w) {
      sum += sums[2 * w];
      square += sums[2 * w + 1];
    }
    f.mean = s.norm.centered ? sum / s.k : 0;
    f.factor = 1 / sqrt(square / s.k - f.mean * f.mean + static_cast<double>(s.norm.eps));
  }
  if (kInt8 || !has_norm) sync_consumers();  // the row before is used up; and `sums` is read
  float most = 0;
  bool found = false;
#pragma unroll
  for (int j = 0; j < kMostPairs; ++j) {
    const int p = thread_index() + j * kConsumers;
    if (p >= pairs) continue;
    float y[2];
    for (int i = 0; i < 2; ++i) {
      y[i] = x[2 * j + i];
      if (has_norm) {
        y[i] = static_cast<float>((y[i] - f.mean) * f.factor * weight[2 * j + i] + (has_bias ? bias[2 * j + i] : 0.0f));
      }
    }
    const Half2 pair = halves(y[0], y[1]);
    put_pair<kFormat>(m, 2 * p, pair);
    if (kInt8) {
      look_for_outlier(half_low(pair), &most, &found);
      look_for_outlier(half_high(pair), &most, &found);
    }
  }
  if constexpr (kInt8) return make_codes(m, s.k, most, found);
  sync_consumers();
  return {};
}

// A row that comes as fp16.
template <WeightFormat kFormat>
QB_DEVICE Int8Row make_row_of_halves(const PersistentArgs& a, const Shared& m, const Step& s, int step) {
  constexpr int kMost = 8;  // k ≤ 16384
  const int count = s.k / 4;
  const Tagged* const words = s.in.words;
  TwoWords v[kMost];
#pragma unroll
  for (int j = 0; j < kMost; ++j) {
    const int i = thread_index() + j * kConsumers;
    if (i < count) v[j] = get_two_words(words + 2 * i);
  }
#pragma unroll
  for (int j = 0; j < kMost; ++j) {
    const int i = thread_index() + j * kConsumers;
    if (i < count) wait_two(a, words + 2 * i, step, &v[j]);
  }
  float most = 0;
  bool found = false;
  if (kFormat == WeightFormat::int8) sync_consumers();  // the row before is used up
#pragma unroll
  for (int j = 0; j < kMost; ++j) {
    const int i = thread_index() + j * kConsumers;
    if (i >= count) continue;
    const auto first = static_cast<Half2>(v[j].first), second = static_cast<Half2>(v[j].second);
    put_pair<kFormat>(m, 4 * i, first);
    put_pair<kFormat>(m, 4 * i + 2, second);
    if (kFormat == WeightFormat::int8) {
      look_for_outlier(half_low(first), &most, &found);
      look_for_outlier(half_high(first), &most, &found);
      look_for_outlier(half_low(second), &most, &found);
      look_for_outlier(half_high(second), &most, &found);
    }
  }
  if constexpr (kFormat == WeightFormat::int8) return make_codes(m, s.k, most, found);
  sync_consumers();
  return {};
}

// --- products
// --------------------------------------------------------------------------------------------------------------
struct Best {
  float score = -INFINITY;
  int32_t id = 0;
};
QB_DEVICE Best better(Best a, Best b) { return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a; }

struct Consumer {
  Ring ring;
  int scale_area = 0;
  int units = 0;  // done so far
  Best best;
};

QB_DEVICE float old_value(const PersistentArgs& a, const Shared& m, const StepInput& old, int k, int n, int step) {
  if (old.source == Source::table) {
    return float_of_half(old.table[static_cast<size_t>(*m.token()) * k + n]) * old.scale;
  }
  return as_float(wait_word(a, old.words + n, step));
}

// Output of lane i < 16: row low + i, or high + i - 8. All lanes of the warp take part.
template <WeightFormat kFormat, typename Sum>
QB_DEVICE void finish_unit(const PersistentArgs& a, const Shared& m, const Step& s, int step, int segment,
                           const Tile& tile, const Sum* parts, const Int8Row& row, Best* best) {
  const int i = lane_index() % kUnitRows;
  const bool active = lane_index() < kUnitRows;
  const Segment& own = s.segments[s.finish == Finish::gate && i >= 8 ? 1 : segment];
  const int n = i < 8 ? tile.low + i : tile.high + i - 8;
  const bool real = n < own.w.n;
  float old = 0;
  if (s.finish == Finish::add && active && real) old = old_value(a, m, s.old, own.w.n, n, step);
  // Half of the warps' sums each; then both halves, in a fixed order.
  Sum sum = 0;
  const int first = lane_index() / kUnitRows * (kConsumerWarps / 2);
  for (int w = first; w < first + kConsumerWarps / 2; ++w) sum += parts[w * kUnitRows + i];
  const Sum other = from_lane_xor(sum, kUnitRows);
  sum = lane_index() < kUnitRows ? sum + other : other + sum;
  float value = 0;
  const float bias = own.bias && real ? own.bias[n] : 0.0f;
  if constexpr (kFormat == WeightFormat::int8) {
    const float absmax = real ? own.w.absmax[n] : 0.0f;
    const float scaled = mul_rn(mul_rn(static_cast<float>(sum), row.absmax), absmax);
    value = float_of_half(half_of_float(fmaf(scaled, kOutputScale, bias)));
    if (row.outliers != 0 && real && active) {
      const int8_t* const codes = static_cast<const int8_t*>(own.w.w) + static_cast<size_t>(n) * s.k;
      const auto* const list = m.pointer<uint16_t>(m.at.outliers);
      const auto* const x = m.pointer<uint16_t>(m.at.x);
      float outliers = 0;
#pragma unroll 8
      for (int o = 0; o < row.outliers; ++o) {
        const int column = list[o];
        const float weight = float_of_half(half_of_float(mul_rn(mul_rn(codes[column], absmax), kInverse127)));
        outliers = fmaf(float_of_half(x[column]), weight, outliers);
      }
      value = float_of_half(half_of_float(add_rn(value, outliers)));
    }
    __syncwarp();
  } else {
    value = sum + bias;
  }
  switch (s.finish) {
    case Finish::store: {
      value = activate(value, s.act);
      if (s.logits) {
        if (active && real) {
          s.logits[n] = value;
          *best = better(*best, {sampling_score(value, a.temperature, a.seed, *m.position(), n), n});
        }
        return;
      }
      const float next = __shfl_down_sync(0xffffffffu, value, 1);
      if (active && real && i % 2 == 0) put_word(s.out + n / 2, tagged(halves(value, next), a.epoch));
      return;
    }
    case Finish::add:
      if (active && real) put_word(s.out + n, tagged(__float_as_uint(old + value), a.epoch));
      return;
    case Finish::gate: {
      const float up = __shfl_down_sync(0xffffffffu, value, 8);
      value = activate(value, s.act) * up;
      const float next = __shfl_down_sync(0xffffffffu, value, 1);
      if (i < 8 && active && i % 2 == 0 && real) put_word(s.out + n / 2, tagged(halves(value, next), a.epoch));
      return;
    }
    case Finish::qkv: {
      const int head_dim = s.kv.head_dim;
      if (tile.rotates) {
        const float other_value = from_lane_xor(value, 8);
        const int half = s.rotation.dims / 2, pair = tile.low % head_dim + i % 8;
        const size_t angle = static_cast<size_t>(*m.position()) * half + pair;
        const float cos = s.rotation.cos[angle], sin = s.rotation.sin[angle];
        value = i < 8 ? value * cos - other_value * sin : value * cos + other_value * sin;
      }
      if (!active || !real) return;
      Tagged* out = s.out;
      for (int j = 0; j < segment; ++j) out += s.segments[j].w.n;
      put_word(out + n, tagged(__float_as_uint(value), a.epoch));
      if (segment == 0) return;
      const Cache& kv = s.kv;
      const size_t head = static_cast<size_t>(a.sequence[0]) * kv.heads + n / head_dim;
      (segment == 1 ? kv.k : kv.v)[(head * kv.positions + *m.position()) * head_dim + n % head_dim] =
          half_of_float(value);
      return;
    }
  }
}

template <WeightFormat kFormat>
__device__ __noinline__ void product(const PersistentArgs& a, const Shared& m, const Step& s, int step, Consumer* c) {
  using Sum = std::conditional_t<kFormat == WeightFormat::int8, int32_t, float>;
  constexpr int kLanesOfChunk = 4;  // items of a chunk: 32 bytes of each of 16 rows
  const int first = first_unit(s);
  if (first >= s.units) return;
  const Int8Row row = s.in.source == Source::halves ? make_row_of_halves<kFormat>(a, m, s, step)
                                                    : make_row_of_floats<kFormat>(a, m, s, step);
  const int lane = lane_index(), warp = warp_index(), g = lane / 4, t = lane % 4;
  const int quarter = warp % kLanesOfChunk;  // of a chunk: this warp's item
  const int box_bytes = 8 * kChunkBytes * s.slot_chunks;
  const SharedAddress fragment = static_cast<SharedAddress>(lane / 8 % 2 * box_bytes + lane % 8 * kChunkBytes +
                                                            ((2 * quarter + lane / 16) ^ lane % 8) * 16);
  const SharedAddress ring = shared_address(m.base + m.at.ring);
  const std::byte* const x = m.base + (kFormat == WeightFormat::int8 ? m.at.codes : m.at.x);
  const int row_blocks = s.k / 64, slots = s.slots, slot_chunks = s.slot_chunks, chunks = s.chunks, units = s.units;
  const SharedAddress pairs = shared_address(m.base + m.at.table) + static_cast<SharedAddress>(lane) * 4;
  const float* const code = m.pointer<float>(m.at.code);
  for (int work = first; work < units; work += blocks_x()) {
    int unit = work;
    const int segment = find_segment(s, &unit);
    const Tile tile = tile_of(s, segment, unit);
    Sum acc[4] = {};
    // nf4: at most two nested scales a row.
    float nested_low[2], nested_high[2], offset_low = 0, offset_high = 0;
    int blocks_low = 0, blocks_high = 0;  // of the row, before the second scale
    const uint8_t* scales = nullptr;
    if constexpr (kFormat == WeightFormat::nf4) {
      constexpr int kNestedBlock = 256;
      const Segment& low = s.segments[segment];
      const Segment& high = s.segments[s.finish == Finish::gate ? 1 : segment];
      const int at_low = (tile.low + g) * row_blocks, at_high = (tile.high + g) * row_blocks;
      const int last_low = (at_low + row_blocks - 1) / kNestedBlock,
                last_high = (at_high + row_blocks - 1) / kNestedBlock;
      nested_low[0] = low.w.nested_absmax[at_low / kNestedBlock];
      nested_low[1] = low.w.nested_absmax[last_low];
      nested_high[0] = high.w.nested_absmax[at_high / kNestedBlock];
      nested_high[1] = high.w.nested_absmax[last_high];
      blocks_low = kNestedBlock - at_low % kNestedBlock;
      blocks_high = kNestedBlock - at_high % kNestedBlock;
      offset_low = low.w.offset;
      offset_high = high.w.offset;
      scales = m.pointer<uint8_t>(m.at.scales) + static_cast<size_t>(c->scale_area) * a.scale_bytes + g * row_blocks;
      if (++c->scale_area > a.slots) c->scale_area = 0;
    }
    int chunk = warp / kLanesOfChunk;
    for (int j = 0; j < slots; ++j) {
      wait_barrier(a, m.full(c->ring.slot), c->ring.parity, step);
      const int begin = j * slot_chunks, end = begin + slot_chunks < chunks ? begin + slot_chunks : chunks;
      SharedAddress from = ring + static_cast<SharedAddress>(c->ring.slot) * kSlotBytes + fragment;
      for (; chunk < end; chunk += kConsumerWarps / kLanesOfChunk) {
        uint32_t w[4];
        load_fragments(w, from + static_cast<SharedAddress>(chunk - begin) * (8 * kChunkBytes));
        const int item = chunk * kLanesOfChunk + quarter;
        if constexpr (kFormat == WeightFormat::nf4) {
          const auto* const at = reinterpret_cast<const Bytes16*>(x + item * 128 + t * 16);
          const Bytes16 b0 = at[0], b1 = at[4];
          const float scale_low =
              add_rn(mul_rn(code[scales[item]], item < blocks_low ? nested_low[0] : nested_low[1]), offset_low);
          const float scale_high =
              add_rn(mul_rn(code[scales[8 * row_blocks + item]], item < blocks_high ? nested_high[0] : nested_high[1]),
                     offset_high);
          float sum[4] = {};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const uint32_t pick = 0x80u << (8 * i);  // byte i times 128, the size of an entry in all its copies
            mma_f16(sum,
                    {load_shared(__dp4a(w[0], pick, pairs)), load_shared(__dp4a(w[1], pick, pairs)),
                     load_shared(__dp4a(w[2], pick, pairs)), load_shared(__dp4a(w[3], pick, pairs))},
                    {b0.word[i], b1.word[i]});
          }
          acc[0] = fmaf(sum[0], scale_low, acc[0]);
          acc[2] = fmaf(sum[2], scale_high, acc[2]);
        } else {
          const auto* const at = reinterpret_cast<const Bytes8*>(x + item * 32 + t * 8);
          const Bytes8 b = *at;
          if constexpr (kFormat == WeightFormat::int8)
            mma_s8(acc, w, {b.word[0], b.word[1]});
          else
            mma_f16(acc, w, {b.word[0], b.word[1]});
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(m.empty(c->ring.slot));
      c->ring.next(a.slots);
    }
    Sum* const parts =
        m.pointer<Sum>(m.at.parts) + static_cast<size_t>(c->units % kPartBuffers) * kConsumerWarps * kUnitRows;
    if (t == 0) {
      parts[warp * kUnitRows + g] = acc[0];
      parts[warp * kUnitRows + g + 8] = acc[2];
    }
    sync_consumers();
    if (warp == c->units % kConsumerWarps) {
      finish_unit<kFormat, Sum>(a, m, s, step, segment, tile, parts, row, &c->best);
    }
    ++c->units;
  }
}

// --- attention
// ------------------------------------------------------------------------------------------------------------- One q
// head by the whole block: four lanes a position, each with every fourth piece of four numbers; 128 positions at a
// time. A lane keeps its own softmax, and all are brought together at the end.
template <int kPieces>
__device__ __noinline__ void attend_head(const PersistentArgs& a, const Shared& m, const Step& s, int step, int head) {
  constexpr int kLanes = 4, kAtOnce = kConsumers / kLanes, kHeadDim = kPieces * 16;
  const int group = s.q_heads / s.kv.heads, kv_head = head / group, position = *m.position();
  const int t = thread_index() % kLanes, own = thread_index() / kLanes;
  const size_t cache = (static_cast<size_t>(a.sequence[0]) * s.kv.heads + kv_head) * s.kv.positions * kHeadDim;
  const uint16_t* const keys = s.kv.k + cache;
  const uint16_t* const values = s.kv.v + cache;
  const auto load = [t](const uint16_t* from, int p, Bytes8(&to)[kPieces]) {
    const uint16_t* const at = from + static_cast<size_t>(p) * kHeadDim;
    for (int i = 0; i < kPieces; ++i) {
      const uint2 v = *reinterpret_cast<const uint2*>(at + (i * kLanes + t) * 4);
      to[i] = {{v.x, v.y}};
    }
  };
  Bytes8 key[kPieces], value[kPieces];
  int p = own;
  if (p < position) {  // does not depend on this step
    load(keys, p, key);
    load(values, p, value);
  }
  // q, and this token's key and value, rounded as in the cache: each word is waited for by one thread.
  float* const scratch = m.pointer<float>(m.at.x);
  float* const q = scratch;
  auto* const new_key = reinterpret_cast<Half2*>(q + kHeadDim);
  Half2* const new_value = new_key + kHeadDim / 2;
  const int part = thread_index() / (kHeadDim / 2), pair = thread_index() % (kHeadDim / 2);
  TwoValues own_words{};
  if (part < 3) {
    const Tagged* const from = part == 0   ? s.in.words + head * kHeadDim
                               : part == 1 ? s.new_k + kv_head * kHeadDim
                                           : s.new_v + kv_head * kHeadDim;
    own_words = wait_two(a, from + 2 * pair, step);
  }
  sync_consumers();  // the row before is used up
  if (part == 0) {
    q[2 * pair] = as_float(own_words.first) * s.scale;
    q[2 * pair + 1] = as_float(own_words.second) * s.scale;
  } else if (part < 3) {
    (part == 1 ? new_key : new_value)[pair] = halves(as_float(own_words.first), as_float(own_words.second));
  }
  sync_consumers();
  float most = -INFINITY, total = 0, sum[kPieces * 4] = {};
  for (int begin = 0; begin <= position; begin += kAtOnce, p += kAtOnce) {
    if (begin > 0 && p < position) {
      load(keys, p, key);
      load(values, p, value);
    }
    if (p == position) {
      for (int i = 0; i < kPieces; ++i) {
        const int at = (i * kLanes + t) * 2;
        key[i] = {{new_key[at], new_key[at + 1]}};
        value[i] = {{new_value[at], new_value[at + 1]}};
      }
    }
    float score = 0;
    if (p <= position) {
      for (int i = 0; i < kPieces; ++i) {
        const float4 four = *reinterpret_cast<const float4*>(q + (i * kLanes + t) * 4);
        score = fmaf(four.x, half_low(key[i].word[0]), score);
        score = fmaf(four.y, half_high(key[i].word[0]), score);
        score = fmaf(four.z, half_low(key[i].word[1]), score);
        score = fmaf(four.w, half_high(key[i].word[1]), score);
      }
    }
    score += from_lane_xor(score, 1);
    score += from_lane_xor(score, 2);
    if (p <= position) {
      const float now = score > most ? score : most, keep = expf(most - now), weight = expf(score - now);
      total = fmaf(total, keep, weight);
      most = now;
      for (int i = 0; i < kPieces; ++i) {
        for (int j = 0; j < 2; ++j) {
          sum[4 * i + 2 * j] = fmaf(weight, half_low(value[i].word[j]), sum[4 * i + 2 * j] * keep);
          sum[4 * i + 2 * j + 1] = fmaf(weight, half_high(value[i].word[j]), sum[4 * i + 2 * j + 1] * keep);
        }
      }
    }
  }
  // Of the eight positions of a warp, then of the warps.
  float warp_most = most;
  for (int mask = kLanes; mask < kWarpSize; mask *= 2) {
    const float other = from_lane_xor(warp_most, mask);
    warp_most = other > warp_most ? other : warp_most;
  }
  const float keep = most == -INFINITY ? 0.0f : expf(most - warp_most);
  total *= keep;
  for (int mask = kLanes; mask < kWarpSize; mask *= 2) total += from_lane_xor(total, mask);
  constexpr int kStride = kHeadDim + 2;
  float* const parts = scratch + 2 * kHeadDim;
  float* const mine = parts + warp_index() * kStride;
  for (int i = 0; i < kPieces * 4; ++i) {
    float v = sum[i] * keep;
    for (int mask = kLanes; mask < kWarpSize; mask *= 2) v += from_lane_xor(v, mask);
    if (lane_index() < kLanes) mine[2 + (i / 4 * kLanes + t) * 4 + i % 4] = v;
  }
  if (lane_index() == 0) {
    mine[0] = warp_most;
    mine[1] = total;
  }
  sync_consumers();
  if (thread_index() < kHeadDim / 2) {
    float all_most = -INFINITY;
    for (int w = 0; w < kConsumerWarps; ++w) all_most = parts[w * kStride] > all_most ? parts[w * kStride] : all_most;
    float all = 0, first = 0, second = 0;
    for (int w = 0; w < kConsumerWarps; ++w) {
      const float* const of_warp = parts + w * kStride;
      const float factor = of_warp[0] == -INFINITY ? 0.0f : expf(of_warp[0] - all_most);
      all = fmaf(of_warp[1], factor, all);
      first = fmaf(of_warp[2 + 2 * thread_index()], factor, first);
      second = fmaf(of_warp[3 + 2 * thread_index()], factor, second);
    }
    put_word(s.out + head * (kHeadDim / 2) + thread_index(), tagged(halves(first / all, second / all), a.epoch));
  }
  sync_consumers();  // the scratch is used up
}

QB_DEVICE void attend(const PersistentArgs& a, const Shared& m, const Step& s, int step) {
  for (int head = first_unit(s); head < s.units; head += blocks_x()) {
    switch (s.kv.head_dim) {
      case 16: attend_head<1>(a, m, s, step, head); break;
      case 32: attend_head<2>(a, m, s, step, head); break;
      case 64: attend_head<4>(a, m, s, step, head); break;
      case 80: attend_head<5>(a, m, s, step, head); break;
      case 96: attend_head<6>(a, m, s, step, head); break;
      case 128: attend_head<8>(a, m, s, step, head); break;
      default: break;
    }
  }
}

// --- the next token
// ----------------------------------------------------------------------------------------------------------
QB_DEVICE Best best_of_block(const Shared& m, Best best) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    best = better(best, {from_lane_xor(best.score, mask), from_lane_xor(best.id, mask)});
  }
  Best* const all = m.pointer<Best>(m.at.sums);
  sync_consumers();
  if (lane_index() == 0) all[warp_index()] = best;
  sync_consumers();
  best = all[0];
  for (int w = 1; w < kConsumerWarps; ++w) best = better(best, all[w]);
  return best;
}

QB_DEVICE void choose_token(const PersistentArgs& a, const Shared& m, Best best) {
  best = best_of_block(m, best);
  if (thread_index() == 0) {
    put_word(a.best + 2 * block_x(), tagged(__float_as_uint(best.score), a.epoch));
    put_word(a.best + 2 * block_x() + 1, tagged(static_cast<uint32_t>(best.id), a.epoch));
  }
  if (block_x() != 0) return;
  best = {};
  for (int i = thread_index(); i < blocks_x(); i += kConsumers) {
    const TwoValues v = wait_two(a, a.best + 2 * i, a.step_count);
    best = better(best, {as_float(v.first), static_cast<int32_t>(v.second)});
  }
  best = best_of_block(m, best);
  if (thread_index() != 0) return;
  const int next = *m.position() + 1;
  a.token[0] = best.id;
  a.position[0] = next;
  if (a.history && next < a.history_positions) {
    a.history[static_cast<size_t>(a.sequence[0]) * a.history_positions + next] = best.id;
  }
}

QB_DEVICE void consume(const PersistentArgs& a, const Shared& m) {
  if (a.nf4) {
    auto* const table = m.pointer<uint32_t>(m.at.table);
    for (int i = thread_index(); i < 256 * kWarpSize; i += kConsumers) table[i] = a.code_pairs[i / kWarpSize];
    float* const code = m.pointer<float>(m.at.code);
    for (int i = thread_index(); i < 256; i += kConsumers) code[i] = a.nested_code[i];
    sync_consumers();
  }
  Consumer c;
  for (int i = 0; i < a.step_count; ++i) {
    const Step& s = a.steps[i];
    if (thread_index() < static_cast<int>(sizeof(Step) / 128) && i + 1 < a.step_count) {
      asm volatile(
          "prefetch.global.L1 [%0];" ::"l"(reinterpret_cast<const std::byte*>(a.steps + i + 1) + thread_index() * 128));
    }
    if (s.kind == StepKind::attend) {
      attend(a, m, s, i);
    } else {
      switch (s.format) {
        case WeightFormat::f16: product<WeightFormat::f16>(a, m, s, i, &c); break;
        case WeightFormat::int8: product<WeightFormat::int8>(a, m, s, i, &c); break;
        case WeightFormat::nf4: product<WeightFormat::nf4>(a, m, s, i, &c); break;
        case WeightFormat::f32: break;
      }
    }
  }
  choose_token(a, m, c.best);
}
#endif

__global__ void __launch_bounds__(kThreads, 1) persistent_kernel(const __grid_constant__ PersistentArgs a) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(1024) std::byte shared_bytes[];
  const Shared m{shared_layout(a.slots, a.most_k, a.int8, a.nf4, a.scale_bytes), shared_bytes};
  if (thread_index() == 0) {
    for (int i = 0; i < a.slots; ++i) {
      barrier_init(m.full(i), 1);
      barrier_init(m.empty(i), kConsumerWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    *m.position() = a.position[0];
    *m.token() = a.token[0];
    if (shared_address(shared_bytes) % 1024 != 0) give_up(a, 4, 0);
  }
  sync_block();
  if (warp_index() < kConsumerWarps)
    consume(a, m);
  else if (lane_index() == 0)
    produce(a, m);
#endif
}

}  // namespace

void launch_persistent(const PersistentArgs& args, size_t shared_bytes, int multiprocessors, const Stream& stream) {
  launch_cooperative(persistent_kernel, multiprocessors, kThreads, stream, args, shared_bytes);
}

}  // namespace quantbench::cuda
