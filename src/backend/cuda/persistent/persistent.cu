// One token in one launch. Each multiprocessor has one block: a producer that streams its share of all weights of the
// model through a ring in shared memory, as fast as memory gives them and without looking at the ops; and sixteen warps
// that multiply what arrives. Blocks meet only in the words of the exchange buffers (step.h).
#include <cmath>
#include <type_traits>

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

// Read where it is used, not once for the whole kernel: what follows from it would live in registers all along.
QB_DEVICE int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}
QB_DEVICE int lane_index() { return thread_index() % kWarpSize; }
QB_DEVICE int warp_index() { return thread_index() / kWarpSize; }

// A barrier for full and one for empty, a slot.
constexpr SharedAddress kSlotBarriers = 16, kEmpty = 8;
struct Shared {
  const SharedLayout& at;
  std::byte* base;
  template <typename T>
  QB_DEVICE T* pointer(uint32_t offset) const {
    return reinterpret_cast<T*>(base + offset);
  }
  QB_DEVICE SharedAddress barriers() const { return shared_address(base + at.barriers); }
  QB_DEVICE SharedAddress part_barriers() const { return shared_address(base + at.part_barriers); }
  QB_DEVICE int* token() const { return pointer<int>(at.places); }
  QB_DEVICE int* position() const { return token() + 1; }
};

struct Wait {
  uint32_t* stuck;
  uint32_t epoch;
  int step;
};
// A wait that never ends is a fault of this kernel; it says where and ends the launch with an error.
__device__ __noinline__ void give_up(uint32_t* stuck, int what, int step) {
  if (atomicCAS(stuck, 0u, static_cast<uint32_t>(what)) == 0u) {
    stuck[1] = static_cast<uint32_t>(step);
    stuck[2] = blockIdx.x;
    stuck[3] = threadIdx.x;
    __threadfence_system();
  }
  __trap();
}

QB_DEVICE void wait_barrier(const Wait& w, SharedAddress barrier, uint32_t parity) {
  for (uint32_t i = 0; !barrier_passed(barrier, parity); ++i) {
    if (i > kMostPolls) give_up(w.stuck, 1, w.step);
  }
}
QB_DEVICE uint32_t wait_word(const Wait& w, const Tagged* from) {
  for (uint32_t i = 0;; ++i) {
    const Tagged word = get_word(from);
    if (static_cast<uint32_t>(word >> 32) == w.epoch) return static_cast<uint32_t>(word);
    if (i > kMostPolls) give_up(w.stuck, 2, w.step);
  }
}
// Until both words, which were read once, are of this launch.
QB_DEVICE void wait_two(const Wait& w, const Tagged* from, TwoWords* words) {
  for (uint32_t i = 0;
       static_cast<uint32_t>(words->first >> 32) != w.epoch || static_cast<uint32_t>(words->second >> 32) != w.epoch;
       ++i) {
    *words = get_two_words(from);
    if (i > kMostPolls) give_up(w.stuck, 3, w.step);
  }
}
struct TwoValues {
  uint32_t first, second;
};
QB_DEVICE TwoValues wait_two(const Wait& w, const Tagged* from) {
  TwoWords words = get_two_words(from);
  wait_two(w, from, &words);
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
  const unsigned tiles_of_head = static_cast<unsigned>(s.kv.head_dim) / kUnitRows;
  const int head_dim = s.kv.head_dim, head = static_cast<int>(static_cast<unsigned>(unit) / tiles_of_head);
  const int own = unit - head * static_cast<int>(tiles_of_head), half = s.rotation.dims / 2, pairs = half / 8,
            start = head * head_dim;
  if (own < pairs) return {start + own * 8, start + own * 8 + half, true};
  const int low = start + s.rotation.dims + (own - pairs) * kUnitRows;
  return {low, low + 8, false};
}
QB_DEVICE int first_unit(const Step& s) {
  return block_x() >= s.turn ? block_x() - s.turn : block_x() - s.turn + blocks_x();
}
QB_DEVICE int find_segment(const Step& s, int* unit) {
  int segment = 0;
  while (segment + 1 < s.segment_count && s.finish != Finish::gate && *unit >= s.segments[segment].units) {
    *unit -= s.segments[segment++].units;
  }
  return segment;
}

// --- nf4's scales ------------------------------------------------------------------------------------
// Beside the bytes of eight rows lie the nested scales of their blocks, from a whole 16 bytes on to a whole 16 bytes.
constexpr int kNestedBlock = 256, kNestedOfCopy = 4;
QB_DEVICE int nested_start(int block) { return block / kNestedBlock / kNestedOfCopy * kNestedOfCopy; }
QB_DEVICE int nested_bytes(int block, int blocks) {
  const int end = (block + blocks - 1) / kNestedBlock / kNestedOfCopy * kNestedOfCopy + kNestedOfCopy;
  return (end - nested_start(block)) * static_cast<int>(sizeof(float));
}
// Of a block, counted from the first block of the first scale that is there.
QB_DEVICE int nested_offset(int block) { return block - nested_start(block) * kNestedBlock; }

// --- the producer -----------------------------------------------------------------------------------
// A place in this block's stream of slots: units of steps, in order.
struct Cursor {
  const Step* s;
  int step = -1, work = 0, units = 0, slot = 0, slots = 0;
  const TensorMap *low_map, *high_map;
  int low = 0, high = 0;  // weight rows
  int segment = 0;

  QB_DEVICE bool at_end(const PersistentArgs& a) const { return step >= a.step_count; }
  // To the first slot of the first unit from the next step on.
  QB_DEVICE void next_step(const PersistentArgs& a) {
    while (++step < a.step_count) {
      s = a.steps + step;
      if (s->kind != StepKind::product) continue;
      work = first_unit(*s);
      units = s->units;
      slots = s->slots;
      if (work < units) return find(a);
    }
  }
  QB_DEVICE void find(const PersistentArgs& a) {
    int unit = work;
    segment = find_segment(*s, &unit);
    const Tile tile = tile_of(*s, segment, unit);
    low = tile.low;
    high = tile.high;
    low_map = a.maps + s->segments[segment].map;
    high_map = a.maps + s->segments[s->finish == Finish::gate ? 1 : segment].map;
    slot = 0;
  }
  QB_DEVICE void next(const PersistentArgs& a) {
    if (++slot < slots) return;
    work += blocks_x();
    if (work < units)
      find(a);
    else
      next_step(a);
  }
};

QB_DEVICE void produce(const PersistentArgs& a, const Shared& m) {
  Ring ring;
  int scale_area = 0;
  const int ring_slots = a.slots;
  const SharedAddress barriers = m.barriers(), data = shared_address(m.base + m.at.ring);
  const SharedAddress scale_data = shared_address(m.base + m.at.scales);
  Cursor at;
  at.next_step(a);
  Ring oldest;  // of the slots that are on the way
  int on_the_way = 0;
  for (; !at.at_end(a); at.next(a)) {
    // What is asked for queues up in front of the words that blocks exchange: so not too much at once.
    if (on_the_way == a.slots_on_the_way) {
      wait_barrier({a.stuck, a.epoch, at.step}, barriers + static_cast<SharedAddress>(oldest.slot) * kSlotBarriers,
                   oldest.parity);
      oldest.next(ring_slots);
      --on_the_way;
    }
    ++on_the_way;
    const SharedAddress full = barriers + static_cast<SharedAddress>(ring.slot) * kSlotBarriers;
    wait_barrier({a.stuck, a.epoch, at.step}, full + kEmpty, ring.parity ^ 1);
    const Step& s = *at.s;
    const int box_bytes = 8 * kChunkBytes * s.slot_chunks, chunk = at.slot * s.slot_chunks;
    const SharedAddress to = data + static_cast<SharedAddress>(ring.slot) * kSlotBytes;
    if (s.format == WeightFormat::nf4 && at.slot == 0) {
      const int row_blocks = s.k / 64, piece = 8 * row_blocks;
      const Weight &low = s.segments[at.segment].w, &high = s.segments[s.finish == Finish::gate ? 1 : at.segment].w;
      const int low_block = at.low * row_blocks, high_block = at.high * row_blocks;
      const int low_nested = nested_bytes(low_block, piece), high_nested = nested_bytes(high_block, piece);
      const SharedAddress scales = scale_data + static_cast<SharedAddress>(scale_area * a.scale_bytes);
      barrier_expect(full, 2 * box_bytes + 2 * piece + low_nested + high_nested);
      copy_box(to, at.low_map, at.low, chunk, full);
      copy_box(to + box_bytes, at.high_map, at.high, chunk, full);
      copy_bytes(scales, low.absmax8 + low_block, piece, full);
      copy_bytes(scales + piece, high.absmax8 + high_block, piece, full);
      const SharedAddress nested = scales + 2 * piece;
      copy_bytes(nested, low.nested_absmax + nested_start(low_block), low_nested, full);
      copy_bytes(nested + kNestedBytes, high.nested_absmax + nested_start(high_block), high_nested, full);
      if (++scale_area > ring_slots) scale_area = 0;
    } else {
      barrier_expect(full, 2 * box_bytes);
      copy_box(to, at.low_map, at.low, chunk, full);
      copy_box(to + box_bytes, at.high_map, at.high, chunk, full);
    }
    ring.next(ring_slots);
  }
}

// --- the row that is multiplied -------------------------------------------------------------------
// Offset in bytes of number k (even) in the order in which a lane takes its part of a product: of 16 numbers of fp16,
// lane t has 2t, 2t + 1, 2t + 8, 2t + 9.
QB_DEVICE int place_f16(int k) { return (k / 16) * 32 + (k % 8) / 2 * 8 + (k % 16) / 8 * 4; }
// Codes, 32 of them: lane t has 4t … 4t + 3 and 4t + 16 … 4t + 19.
QB_DEVICE int place_s8(int k) { return (k / 32) * 32 + (k % 16) / 4 * 8 + (k % 32) / 16 * 4 + k % 4; }

// LLM.int8: what beside the codes belongs to the row.
struct Int8Row {
  float absmax;
  bool has_outliers;  // their columns are the bits set in m.outliers
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
  const int thread = thread_index();
  float* const sums = m.pointer<float>(m.at.sums);
  most = warp_max(most);
  found = __any_sync(0xffffffffu, found);
  if ((thread % kWarpSize) == 0) {
    sums[2 * (thread / kWarpSize)] = most;
    sums[2 * (thread / kWarpSize) + 1] = found ? 1.0f : 0.0f;
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
  for (int i = thread; i < k / 4; i += kConsumers) {
    const Half2 first = x[2 * i], second = x[2 * i + 1];
    *reinterpret_cast<uint32_t*>(codes + place_s8(4 * i)) = code(half_low(first)) | code(half_high(first)) << 8 |
                                                            code(half_low(second)) << 16 |
                                                            code(half_high(second)) << 24;
  }
  if (any) {
    auto* const masks = m.pointer<uint32_t>(m.at.outliers);
    const auto* const x16 = m.pointer<uint16_t>(m.at.x);
    for (int i = thread / kWarpSize; i < k / kWarpSize; i += kConsumerWarps) {
      const bool outlier = fabsf(float_of_half(x16[i * kWarpSize + thread % kWarpSize])) >= kThreshold;
      const uint32_t mask = __ballot_sync(0xffffffffu, outlier);
      if (thread % kWarpSize == 0) masks[i] = mask;
    }
  }
  sync_consumers();
  return {most, any};
}

// Of all consumers, the same in each.
template <typename... T>
QB_DEVICE void sum_of_block(const Shared& m, int thread, T*... values) {
  using Number = std::common_type_t<T...>;
  constexpr int kCount = sizeof...(T);
  Number* const sums = m.pointer<Number>(m.at.sums);
  int i = 0;
  ((*values = warp_sum(*values)), ...);
  if (thread % kWarpSize == 0) ((sums[kCount * (thread / kWarpSize) + i++] = *values), ...);
  sync_consumers();
  i = 0;
  ((*values = sums[kCount * (thread % kConsumerWarps) + i++]), ...);
  for (int mask = kConsumerWarps / 2; mask > 0; mask /= 2) ((*values += from_lane_xor(*values, mask)), ...);
}

// A row of floats, through the norm.
template <WeightFormat kFormat>
QB_DEVICE Int8Row make_row_of_floats(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  const int thread = thread_index();
  constexpr int kMostPairs = 4;  // k ≤ 4096
  constexpr bool kInt8 = kFormat == WeightFormat::int8;
  float x[2 * kMostPairs];
  const bool has_norm = s.norm.weight != nullptr, has_bias = s.norm.bias != nullptr;
  const int pairs = s.k / 2;
  float2 weight[kMostPairs];
#pragma unroll
  for (int j = 0; j < kMostPairs; ++j) {
    const int p = thread + j * kConsumers;
    if (has_norm && p < pairs) weight[j] = *reinterpret_cast<const float2*>(s.norm.weight + 2 * p);
  }
  constexpr int kLine = 32;  // floats
  if (has_bias && thread * kLine < s.k) prefetch_to_l1(s.norm.bias + thread * kLine);
  if (s.in.source == Source::table) {
    const auto* const from = reinterpret_cast<const Half2*>(s.in.table + static_cast<size_t>(*m.token()) * s.k);
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int p = thread + j * kConsumers;
      const Half2 pair = p < pairs ? from[p] : 0;
      x[2 * j] = half_low(pair) * s.in.scale;
      x[2 * j + 1] = half_high(pair) * s.in.scale;
    }
  } else {
    const Tagged* const words = s.in.words;
    if (a.one_waits) {
      const int last = thread + kWarpSize <= pairs ? thread + kWarpSize - 1 : pairs - 1;
      if (thread % kWarpSize == 0 && thread < pairs) wait_word(wait, words + (2 * last + 1));
      __syncwarp();
    }
    TwoWords v[kMostPairs] = {};
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int p = thread + j * kConsumers;
      if (p < pairs) v[j] = get_two_words(words + 2 * p);
    }
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int p = thread + j * kConsumers;
      if (p < pairs) wait_two(wait, words + 2 * p, &v[j]);
      x[2 * j] = as_float(static_cast<uint32_t>(v[j].first));
      x[2 * j + 1] = as_float(static_cast<uint32_t>(v[j].second));
    }
  }
  // LLM.int8 finds the reference's codes only if its norm is summed in double and rounded once; a mean that is taken
  // off needs the digits, too.
  double mean = 0, factor = 1;
  if (has_norm) {
    if (kInt8 || s.norm.centered) {
      double sum = 0, square = 0;
#pragma unroll
      for (int i = 0; i < 2 * kMostPairs; ++i) {
        sum += x[i];
        square += static_cast<double>(x[i]) * x[i];
      }
      sum_of_block(m, thread, &sum, &square);
      mean = s.norm.centered ? sum * s.inverse_k : 0;
      factor = rsqrt(square * s.inverse_k - mean * mean + static_cast<double>(s.norm.eps));
    } else {
      float square = 0;
#pragma unroll
      for (int i = 0; i < 2 * kMostPairs; ++i) square = fmaf(x[i], x[i], square);
      sum_of_block(m, thread, &square);
      factor = rsqrtf(square / static_cast<float>(s.k) + s.norm.eps);
    }
  }
  if (kInt8 && has_norm) sync_consumers();  // `sums` is read
  float most = 0;
  bool found = false;
#pragma unroll
  for (int j = 0; j < kMostPairs; ++j) {
    const int p = thread + j * kConsumers;
    if (p >= pairs) continue;
    float y[2] = {x[2 * j], x[2 * j + 1]};
    if (has_norm) {
      const float2 bias = has_bias ? *reinterpret_cast<const float2*>(s.norm.bias + 2 * p) : float2{};
      if (kInt8) {
        y[0] = static_cast<float>((y[0] - mean) * factor * weight[j].x + bias.x);
        y[1] = static_cast<float>((y[1] - mean) * factor * weight[j].y + bias.y);
      } else {
        const auto mean32 = static_cast<float>(mean), factor32 = static_cast<float>(factor);
        y[0] = fmaf((y[0] - mean32) * factor32, weight[j].x, bias.x);
        y[1] = fmaf((y[1] - mean32) * factor32, weight[j].y, bias.y);
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
QB_DEVICE Int8Row make_row_of_halves(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  const int thread = thread_index();
  constexpr int kAtOnce = 4;
  const int count = s.k / 4;
  const Tagged* const words = s.in.words;
  float most = 0;
  bool found = false;
  for (int begin = thread; begin - thread < count; begin += kAtOnce * kConsumers) {
    if (a.one_waits) {
      const int last = begin + (kAtOnce - 1) * kConsumers < count ? begin + (kAtOnce - 1) * kConsumers : begin;
      if (thread % kWarpSize == 0 && last < count) wait_word(wait, words + 2 * last);
      __syncwarp();
    }
    TwoWords v[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = begin + j * kConsumers;
      if (i < count) v[j] = get_two_words(words + 2 * i);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = begin + j * kConsumers;
      if (i < count) wait_two(wait, words + 2 * i, &v[j]);
    }

#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = begin + j * kConsumers;
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
  }
  if constexpr (kFormat == WeightFormat::int8) return make_codes(m, s.k, most, found);
  sync_consumers();
  return {};
}

// --- products -------------------------------------------------------------------------------------
struct Best {
  float score = -INFINITY;
  int32_t id = 0;
};
QB_DEVICE Best better(Best a, Best b) { return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a; }

struct Consumer {
  Ring ring;
  int scale_area = 0;
  uint32_t units = 0;  // done so far
};

// What a unit's outputs need beside their sums, asked for while the sums are made. Of lane i < 16: row low + i, or
// high + i - 8; lanes from 16 on do the same as those.
struct Ahead {
  int n = 0;
  int segment = -1;  // -1: no unit waits for being finished
  bool rotates = false;
  float bias = 0, absmax = 0;
  float first = 0, second = 0;  // add: what is added to; where it rotates: cos and sin
};
template <WeightFormat kFormat>
QB_DEVICE Ahead look_ahead(const Shared& m, const Step& s, const Wait& wait, int segment, const Tile& tile) {
  const int thread = thread_index();
  const int i = (thread % kWarpSize) % kUnitRows;
  const Segment& own = s.segments[s.finish == Finish::gate && i >= 8 ? 1 : segment];
  Ahead ahead;
  ahead.segment = segment;
  ahead.rotates = tile.rotates;
  const int n = ahead.n = i < 8 ? tile.low + i : tile.high + i - 8;
  if (own.bias) ahead.bias = own.bias[n];
  if constexpr (kFormat == WeightFormat::int8) ahead.absmax = own.w.absmax[n];
  if (s.finish == Finish::add) {
    ahead.first = s.old.source == Source::table
                      ? float_of_half(s.old.table[static_cast<size_t>(*m.token()) * own.w.n + n]) * s.old.scale
                      : as_float(wait_word(wait, s.old.words + n));
  }
  if (tile.rotates) {
    const int half = s.rotation.dims / 2;
    const size_t angle = static_cast<size_t>(*m.position()) * half + tile.low % s.kv.head_dim + i % 8;
    ahead.first = s.rotation.cos[angle];
    ahead.second = s.rotation.sin[angle];
  }
  return ahead;
}

__device__ __noinline__ float noisy_score(float logit, float temperature, uint64_t seed, int position, int id) {
  return sampling_score(logit, temperature, seed, position, id);
}

// By one warp.
template <WeightFormat kFormat, typename Sum>
QB_DEVICE void finish_unit(const PersistentArgs& a, const Shared& m, const Step& s, const Ahead& ahead, Sum sum,
                           float outliers, const Int8Row& row) {
  const int thread = thread_index();
  const int i = (thread % kWarpSize) % kUnitRows, n = ahead.n;
  const bool active = (thread % kWarpSize) < kUnitRows;
  float value = 0;
  if constexpr (kFormat == WeightFormat::int8) {
    const float scaled = mul_rn(mul_rn(static_cast<float>(sum), row.absmax), ahead.absmax);
    value = float_of_half(half_of_float(fmaf(scaled, kOutputScale, ahead.bias)));
    if (row.has_outliers) value = float_of_half(half_of_float(add_rn(value, outliers)));
  } else {
    value = sum + ahead.bias;
  }
  switch (s.finish) {
    case Finish::store: {
      value = activate(value, s.act);
      if (s.logits) {
        if (!active) return;
        s.logits[n] = value;
        Best* const best = m.pointer<Best>(m.at.best) + (thread / kWarpSize) * kUnitRows + i;
        const float score = a.temperature > 0 ? noisy_score(value, a.temperature, a.seed, *m.position(), n) : value;
        *best = better(*best, {score, n});
        return;
      }
      const float next = __shfl_down_sync(0xffffffffu, value, 1);
      if (active && i % 2 == 0) put_word(s.out + n / 2, tagged(halves(value, next), a.epoch));
      return;
    }
    case Finish::add:
      if (active) put_word(s.out + n, tagged(__float_as_uint(ahead.first + value), a.epoch));
      return;
    case Finish::gate: {
      const float up = __shfl_down_sync(0xffffffffu, value, 8);
      value = activate(value, s.act) * up;
      const float next = __shfl_down_sync(0xffffffffu, value, 1);
      if ((thread % kWarpSize) < 8 && i % 2 == 0) put_word(s.out + n / 2, tagged(halves(value, next), a.epoch));
      return;
    }
    case Finish::qkv: {
      if (ahead.rotates) {
        const float other = from_lane_xor(value, 8);
        value = i < 8 ? value * ahead.first - other * ahead.second : value * ahead.first + other * ahead.second;
      }
      if (!active) return;
      Tagged* out = s.out;
      for (int j = 0; j < ahead.segment; ++j) out += s.segments[j].w.n;
      put_word(out + n, tagged(__float_as_uint(value), a.epoch));
      if (ahead.segment == 0) return;
      const Cache& kv = s.kv;
      const unsigned head_dim = static_cast<unsigned>(kv.head_dim), own_head = static_cast<unsigned>(n) / head_dim;
      const size_t head = static_cast<size_t>(a.sequence[0]) * kv.heads + own_head;
      (ahead.segment == 1 ? kv.k : kv.v)[(head * kv.positions + *m.position()) * head_dim + n - own_head * head_dim] =
          half_of_float(value);
      return;
    }
  }
}

constexpr int kLanesOfChunk = 4;  // items of a chunk: 32 bytes of each of 16 rows
constexpr int kChunkStep = kConsumerWarps / kLanesOfChunk;
constexpr SharedAddress kItemStep = kChunkStep * 8 * kChunkBytes;  // from a warp's item of a slot to its next

// A warp's items of a slot. x: the row, where this lane has its part of the first item.
template <WeightFormat kFormat, int kItems, typename Sum>
QB_DEVICE void multiply_plain(Sum (&acc)[4], SharedAddress from, const std::byte* x) {
  uint32_t w[kItems][4];
  Bytes8 b[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    load_fragments(w[i], from + static_cast<SharedAddress>(i) * kItemStep);
    b[i] = *reinterpret_cast<const Bytes8*>(x + i * kConsumerWarps * 32);
  }
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if constexpr (kFormat == WeightFormat::int8)
      mma_s8(acc, w[i], {b[i].word[0], b[i].word[1]});
    else
      mma_f16(acc, w[i], {b[i].word[0], b[i].word[1]});
  }
}
// scale_of_lane: for lane 16i + r, of row r of item i; asked for when the products are on their way.
template <int kItems, typename Scale>
QB_DEVICE void multiply_nf4(float (&acc)[4], SharedAddress from, const std::byte* x, const Scale& scale_of_lane,
                            SharedAddress pairs) {
  uint32_t w[kItems][4];
  Bytes16 b0[kItems], b1[kItems];
  float sum[kItems][4] = {};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    load_fragments(w[i], from + static_cast<SharedAddress>(i) * kItemStep);
    const auto* const at = reinterpret_cast<const Bytes16*>(x + i * kConsumerWarps * 128);
    b0[i] = at[0];
    b1[i] = at[4];
  }
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    const uint32_t pick = 0x80u << (8 * b);  // byte b times 128, the size of an entry in all its copies
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      mma_f16(sum[i],
              {load_shared_constant(__dp4a(w[i][0], pick, pairs)), load_shared_constant(__dp4a(w[i][1], pick, pairs)),
               load_shared_constant(__dp4a(w[i][2], pick, pairs)), load_shared_constant(__dp4a(w[i][3], pick, pairs))},
              {b0[i].word[b], b1[i].word[b]});
    }
  }
  const int g = lane_index() / 4;
  const float scale = scale_of_lane();
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    acc[0] = fmaf(sum[i][0], __shfl_sync(0xffffffffu, scale, g + kUnitRows * i), acc[0]);
    acc[2] = fmaf(sum[i][2], __shfl_sync(0xffffffffu, scale, g + 8 + kUnitRows * i), acc[2]);
  }
}

template <WeightFormat kFormat>
QB_DEVICE void product(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait, Consumer& c) {
  using Sum = std::conditional_t<kFormat == WeightFormat::int8, int32_t, float>;
  const int first = first_unit(s), units = s.units;
  if (first >= units) return;
  const Int8Row row = s.in.source == Source::halves ? make_row_of_halves<kFormat>(a, m, s, wait)
                                                    : make_row_of_floats<kFormat>(a, m, s, wait);
  const int lane = lane_index(), warp = warp_index(), t = lane % 4;
  const int quarter = warp % kLanesOfChunk;  // of a chunk: this warp's item
  const int ring_slots = a.slots, slots = s.slots, slot_chunks = s.slot_chunks, chunks = s.chunks,
            row_blocks = s.k / 64;
  const int box_bytes = 8 * kChunkBytes * slot_chunks;
  const SharedAddress ring = shared_address(m.base + m.at.ring);
  // Where this lane's row of this warp's first item lies in a slot.
  const auto fragment = static_cast<SharedAddress>(lane / 8 % 2 * box_bytes + lane % 8 * kChunkBytes +
                                                   ((2 * quarter + lane / 16) ^ lane % 8) * 16 +
                                                   warp / kLanesOfChunk * (8 * kChunkBytes));
  const SharedAddress barriers = m.barriers(), part_barriers = m.part_barriers();
  const std::byte* const x = m.base + (kFormat == WeightFormat::int8 ? m.at.codes : m.at.x);
  const SharedAddress pairs = shared_address(m.base + m.at.table) + static_cast<SharedAddress>(lane) * 4;
  const auto outlier_parts_of = [&](uint32_t unit) {
    return m.pointer<float>(m.at.outlier_parts) + unit % kPartBuffers * (kConsumerWarps * kUnitRows);
  };
  const auto parts_of = [&](uint32_t unit) {
    return m.pointer<Sum>(m.at.parts) + unit % kPartBuffers * (kConsumerWarps * kUnitRows);
  };
  Ahead ahead;
  const auto finish = [&](uint32_t unit) {
    const SharedAddress written = part_barriers + unit % kPartBuffers * kSlotBarriers;
    wait_barrier(wait, written, unit / kPartBuffers % 2);
    // Half of the warps' sums each; then both halves, in a fixed order.
    Sum sum = 0;
    const int first_part = lane / kUnitRows * (kConsumerWarps / 2 * kUnitRows) + lane % kUnitRows;
    const Sum* const own = parts_of(unit) + first_part;
#pragma unroll
    for (int w = 0; w < kConsumerWarps / 2; ++w) sum += own[w * kUnitRows];
    float outliers = 0;
    if constexpr (kFormat == WeightFormat::int8) {
      if (row.has_outliers) {
#pragma unroll
        for (int w = 0; w < kConsumerWarps / 2; ++w) outliers += outlier_parts_of(unit)[first_part + w * kUnitRows];
        outliers += from_lane_xor(outliers, kUnitRows);
      }
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(written + kEmpty);
    finish_unit<kFormat, Sum>(a, m, s, ahead, sum + from_lane_xor(sum, kUnitRows), outliers, row);
    ahead.segment = -1;
  };
  for (int work = first; work < units; work += blocks_x()) {
    int unit = work;
    const int segment = find_segment(s, &unit);
    const Tile tile = tile_of(s, segment, unit);
    // A warp finishes every sixteenth unit, and that after its own part of the next one, so that none waits for it.
    const bool own = warp == static_cast<int>(c.units % kConsumerWarps);
    if (own) ahead = look_ahead<kFormat>(m, s, wait, segment, tile);
    // nf4: of row lane % 16, its bytes, its first block as counted from the first nested scale, and those scales.
    const uint8_t* scale_bytes = nullptr;
    const float* nested = nullptr;
    int first_block = 0;
    float offset = 0;
    if constexpr (kFormat == WeightFormat::nf4) {
      const int r = lane % kUnitRows;
      const uint8_t* const area = m.pointer<uint8_t>(m.at.scales) + c.scale_area * a.scale_bytes;
      scale_bytes = area + r * row_blocks;
      first_block = nested_offset((r < 8 ? tile.low : tile.high) * row_blocks) + r % 8 * row_blocks;
      nested = reinterpret_cast<const float*>(area + kUnitRows * row_blocks + r / 8 * kNestedBytes);
      offset = s.segments[s.finish == Finish::gate && r >= 8 ? 1 : segment].w.offset;
      if (++c.scale_area > ring_slots) c.scale_area = 0;
    }
    // int8: of row lane % 16.
    float outliers = 0, row_absmax = 0;
    if constexpr (kFormat == WeightFormat::int8) {
      if (row.has_outliers) {
        const int r = lane % kUnitRows;
        const Segment& own_segment = s.segments[s.finish == Finish::gate && r >= 8 ? 1 : segment];
        row_absmax = own_segment.w.absmax[r < 8 ? tile.low + r : tile.high + r - 8];
      }
    }
    Sum acc[4] = {};
    for (int j = 0; j < slots; ++j) {
      const SharedAddress full = barriers + static_cast<SharedAddress>(c.ring.slot) * kSlotBarriers;
      wait_barrier(wait, full, c.ring.parity);
      const int here = chunks - j * slot_chunks;  // chunks from this slot on
      const SharedAddress slot = ring + static_cast<SharedAddress>(c.ring.slot) * kSlotBytes;
      const SharedAddress from = slot + fragment;
      const int item = j * slot_chunks * kLanesOfChunk + warp;
      if constexpr (kFormat == WeightFormat::nf4) {
        const auto scale = [&] {
          if (warp / kLanesOfChunk + lane / kUnitRows * kChunkStep >= here) return 0.0f;
          const int own_item = item + lane / kUnitRows * kConsumerWarps;
          const float code = m.pointer<float>(m.at.code)[scale_bytes[own_item]];
          return add_rn(mul_rn(code, nested[(first_block + own_item) / kNestedBlock]), offset);
        };
        const std::byte* const at = x + item * 128 + t * 16;
        if (warp / kLanesOfChunk + kChunkStep < here)
          multiply_nf4<2>(acc, from, at, scale, pairs);
        else if (warp / kLanesOfChunk < here)
          multiply_nf4<1>(acc, from, at, scale, pairs);
      } else {
        const std::byte* const at = x + item * 32 + t * 8;
        if (warp / kLanesOfChunk + kChunkStep < here)
          multiply_plain<kFormat, 2>(acc, from, at);
        else if (warp / kLanesOfChunk < here)
          multiply_plain<kFormat, 1>(acc, from, at);
        if constexpr (kFormat == WeightFormat::int8) {
          if (row.has_outliers) {
            const int r = lane % kUnitRows;
            const SharedAddress row_at = slot + static_cast<SharedAddress>(r / 8 * box_bytes + r % 8 * kChunkBytes);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const int chunk = warp / kLanesOfChunk + i * kChunkStep;
              if (chunk >= here) break;
              const int own_item = item + i * kConsumerWarps;
              for (uint32_t mask = m.pointer<uint32_t>(m.at.outliers)[own_item]; mask != 0; mask &= mask - 1) {
                const int bit = __ffs(static_cast<int>(mask)) - 1, column = (2 * quarter + bit / 16) ^ r % 8;
                const int code = load_shared_code(
                    row_at + static_cast<SharedAddress>(chunk * (8 * kChunkBytes) + column * 16 + bit % 16));
                const float weight =
                    float_of_half(half_of_float(mul_rn(mul_rn(static_cast<float>(code), row_absmax), kInverse127)));
                outliers = fmaf(float_of_half(m.pointer<uint16_t>(m.at.x)[own_item * 32 + bit]), weight, outliers);
              }
            }
          }
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(full + kEmpty);
      c.ring.next(ring_slots);
    }
    Sum* const parts = parts_of(c.units);
    const SharedAddress written = part_barriers + c.units % kPartBuffers * kSlotBarriers;
    wait_barrier(wait, written + kEmpty, c.units / kPartBuffers % 2 ^ 1);
    if (t == 0) {
      parts[warp * kUnitRows + lane / 4] = acc[0];
      parts[warp * kUnitRows + lane / 4 + 8] = acc[2];
    }
    if constexpr (kFormat == WeightFormat::int8) {
      if (row.has_outliers && lane < kUnitRows) outlier_parts_of(c.units)[warp * kUnitRows + lane] = outliers;
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(written);
    if (ahead.segment >= 0 && !own) finish(c.units - 1);
    ++c.units;
  }
  if (ahead.segment >= 0) finish(c.units - 1);
}

// --- attention ------------------------------------------------------------------------------------
// One q head by the whole block: four lanes a position, each with every fourth piece of four numbers; 128 positions at
// a time. A lane keeps its own softmax, and all are brought together at the end.
template <int kPieces>
QB_DEVICE void attend_head(const Step& s, float* scratch, int position, int sequence, Wait wait, int head) {
  const int thread = thread_index();
  constexpr int kLanes = 4, kAtOnce = kConsumers / kLanes, kHeadDim = kPieces * 16;
  const int group = s.q_heads / s.kv.heads, kv_head = head / group;
  const int t = thread % kLanes, own = thread / kLanes;
  const size_t cache = (static_cast<size_t>(sequence) * s.kv.heads + kv_head) * s.kv.positions * kHeadDim;
  const uint16_t* const keys = s.kv.k + cache;
  const uint16_t* const values = s.kv.v + cache;
  int p = own;
  // The cache was streamed out of the second-level cache since the last token; it does not depend on this step.
  constexpr int kRowBytes = kHeadDim * 2, kLine = 128, kLines = (kRowBytes + kLine - 1) / kLine;
  if (p < position && t < 2 * kLines) {
    const auto* const row = reinterpret_cast<const std::byte*>(t % 2 == 0 ? keys : values);
    prefetch_to_l1(row + static_cast<size_t>(p) * kRowBytes + t / 2 * kLine);
  }
  // q, and this token's key and value, rounded as in the cache: each word is waited for by one thread.
  float* const q = scratch;
  auto* const new_key = reinterpret_cast<Half2*>(q + kHeadDim);
  Half2* const new_value = new_key + kHeadDim / 2;
  const int part = thread / (kHeadDim / 2), pair = thread % (kHeadDim / 2);
  TwoValues own_words{};
  if (part < 3) {
    const Tagged* const from = part == 0   ? s.in.words + head * kHeadDim
                               : part == 1 ? s.new_k + kv_head * kHeadDim
                                           : s.new_v + kv_head * kHeadDim;
    own_words = wait_two(wait, from + 2 * pair);
  }
  if (part == 0) {
    q[2 * pair] = as_float(own_words.first) * s.scale;
    q[2 * pair + 1] = as_float(own_words.second) * s.scale;
  } else if (part < 3) {
    (part == 1 ? new_key : new_value)[pair] = halves(as_float(own_words.first), as_float(own_words.second));
  }
  sync_consumers();
  const auto load = [&](const uint16_t* rows, const Half2* own_row, int at, Bytes8(&to)[kPieces]) {
    if (at > position) return;
    const auto* const row =
        at == position ? own_row : reinterpret_cast<const Half2*>(rows + static_cast<size_t>(at) * kHeadDim);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) to[i] = *reinterpret_cast<const Bytes8*>(row + (i * kLanes + t) * 2);
  };
  float most = -INFINITY, total = 0, sum[kPieces * 4] = {};
#pragma unroll 1
  for (int begin = 0; begin <= position; begin += kAtOnce, p += kAtOnce) {
    Bytes8 key[kPieces], value[kPieces];
    load(keys, new_key, p, key);
    load(values, new_value, p, value);
    float score = 0;
    if (p <= position) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const float4 four = load_shared_floats(shared_address(q + (i * kLanes + t) * 4));
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
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
#pragma unroll
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
  float* const mine = parts + (thread / kWarpSize) * kStride;
#pragma unroll
  for (int i = 0; i < kPieces * 4; ++i) {
    float v = sum[i] * keep;
    for (int mask = kLanes; mask < kWarpSize; mask *= 2) v += from_lane_xor(v, mask);
    if ((thread % kWarpSize) < kLanes) mine[2 + (i / 4 * kLanes + t) * 4 + i % 4] = v;
  }
  if ((thread % kWarpSize) == 0) {
    mine[0] = warp_most;
    mine[1] = total;
  }
  sync_consumers();
  // Sixteen lanes a pair of dimensions, each with the sums of one warp.
  for (int own_pair = thread / kConsumerWarps; own_pair < kHeadDim / 2; own_pair += kConsumers / kConsumerWarps) {
    const float* const of_warp = parts + thread % kConsumerWarps * kStride;
    float all_most = of_warp[0];
    for (int mask = kConsumerWarps / 2; mask > 0; mask /= 2) {
      const float other = from_lane_xor(all_most, mask);
      all_most = other > all_most ? other : all_most;
    }
    const float factor = of_warp[0] == -INFINITY ? 0.0f : expf(of_warp[0] - all_most);
    float all = of_warp[1] * factor, first = of_warp[2 + 2 * own_pair] * factor,
          second = of_warp[3 + 2 * own_pair] * factor;
    for (int mask = kConsumerWarps / 2; mask > 0; mask /= 2) {
      all += from_lane_xor(all, mask);
      first += from_lane_xor(first, mask);
      second += from_lane_xor(second, mask);
    }
    if (thread % kConsumerWarps == 0) {
      put_word(s.out + head * (kHeadDim / 2) + own_pair, tagged(halves(first / all, second / all), wait.epoch));
    }
  }
  sync_consumers();  // the scratch is used up
}

template <int kPieces>
QB_DEVICE void attend(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  const int position = *m.position(), sequence = a.sequence[0];
  for (int head = first_unit(s); head < s.units; head += blocks_x()) {
    attend_head<kPieces>(s, m.pointer<float>(m.at.x), position, sequence, wait, head);
  }
}

// --- the next token -------------------------------------------------------------------------------
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

QB_DEVICE void choose_token(const PersistentArgs& a, const Shared& m) {
  sync_consumers();  // all outputs are finished
  constexpr int kEntries = kConsumerWarps * kUnitRows;
  Best best = thread_index() < kEntries ? m.pointer<Best>(m.at.best)[thread_index()] : Best{};
  best = best_of_block(m, best);
  if (thread_index() == 0) {
    put_word(a.best + 2 * block_x(), tagged(__float_as_uint(best.score), a.epoch));
    put_word(a.best + 2 * block_x() + 1, tagged(static_cast<uint32_t>(best.id), a.epoch));
  }
  if (block_x() != 0) return;
  best = {};
  for (int i = thread_index(); i < blocks_x(); i += kConsumers) {
    const TwoValues v = wait_two({a.stuck, a.epoch, a.step_count}, a.best + 2 * i);
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

// Copies a step to where the consumers read it, beside the one that they are at.
QB_DEVICE void fetch_step(const PersistentArgs& a, const Shared& m, int step) {
  constexpr int kPiece = 16;
  const int thread = thread_index();
  if (thread >= static_cast<int>(sizeof(Step) / kPiece) || step >= a.step_count) return;
  const SharedAddress to = shared_address(m.base + m.at.steps) + static_cast<SharedAddress>(step % 2) * sizeof(Step);
  copy16_async(to + static_cast<SharedAddress>(thread * kPiece),
               reinterpret_cast<const std::byte*>(a.steps + step) + thread * kPiece);
}
QB_DEVICE void step_arrived() { wait_for_copies(); }

template <WeightFormat kFormat, int kPieces>
QB_DEVICE void consume(const PersistentArgs& a, const Shared& m) {
  if (a.nf4) {
    auto* const table = m.pointer<uint32_t>(m.at.table);
    for (int i = thread_index(); i < 256 * kWarpSize; i += kConsumers) table[i] = a.code_pairs[i / kWarpSize];
    float* const code = m.pointer<float>(m.at.code);
    for (int i = thread_index(); i < 256; i += kConsumers) code[i] = a.nested_code[i];
  }
  if (thread_index() < kConsumerWarps * kUnitRows) m.pointer<Best>(m.at.best)[thread_index()] = {};
  fetch_step(a, m, 0);
  step_arrived();
  sync_consumers();
  Consumer c;
  for (int i = 0; i < a.step_count; ++i) {
    const Step& s = m.pointer<Step>(m.at.steps)[i % 2];
    const Wait wait{a.stuck, a.epoch, i};
    fetch_step(a, m, i + 1);
    if (s.kind == StepKind::attend) {
      attend<kPieces>(a, m, s, wait);
    } else if (kFormat == WeightFormat::f16 || s.format == WeightFormat::f16) {
      product<WeightFormat::f16>(a, m, s, wait, c);
    } else {
      product<kFormat>(a, m, s, wait, c);
    }
    step_arrived();
    sync_consumers();  // the next step is there, and the row of this one is used up
  }
  choose_token(a, m);
}
#endif

// kFormat: of all products but the head's, or that one's too. kPieces: sixteenths of a head's dimensions.
template <WeightFormat kFormat, int kPieces>
__global__ void __launch_bounds__(kThreads, 1) persistent_kernel(const __grid_constant__ PersistentArgs a) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(1024) std::byte shared_bytes[];
  const Shared m{a.at, shared_bytes};
  if (thread_index() == 0) {
    for (int i = 0; i < a.slots; ++i) {
      barrier_init(m.barriers() + static_cast<SharedAddress>(i) * kSlotBarriers, 1);
      barrier_init(m.barriers() + static_cast<SharedAddress>(i) * kSlotBarriers + kEmpty, kConsumerWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    for (int i = 0; i < kPartBuffers; ++i) {
      barrier_init(m.part_barriers() + static_cast<SharedAddress>(i) * kSlotBarriers, kConsumerWarps);
      barrier_init(m.part_barriers() + static_cast<SharedAddress>(i) * kSlotBarriers + kEmpty, 1);
    }
    *m.position() = a.position[0];
    *m.token() = a.token[0];
    if (shared_address(shared_bytes) % 1024 != 0) give_up(a.stuck, 4, 0);
  }
  sync_block();
  if (warp_index() < kConsumerWarps)
    consume<kFormat, kPieces>(a, m);
  else if (lane_index() == 0)
    produce(a, m);
#endif
}

}  // namespace

void launch_persistent(const PersistentArgs& args, WeightFormat format, int head_dim, size_t shared_bytes,
                       int multiprocessors, const Stream& stream) {
  const auto with = [&](auto kernel) {
    launch_cooperative(kernel, multiprocessors, kThreads, stream, args, shared_bytes);
  };
  const auto with_format = [&](auto pieces) {
    constexpr int kPieces = decltype(pieces)::value;
    switch (format) {
      case WeightFormat::int8: return with(persistent_kernel<WeightFormat::int8, kPieces>);
      case WeightFormat::nf4: return with(persistent_kernel<WeightFormat::nf4, kPieces>);
      default: return with(persistent_kernel<WeightFormat::f16, kPieces>);
    }
  };
  switch (head_dim) {
    case 32: return with_format(std::integral_constant<int, 2>{});
    case 64: return with_format(std::integral_constant<int, 4>{});
    case 80: return with_format(std::integral_constant<int, 5>{});
    case 128: return with_format(std::integral_constant<int, 8>{});
    default: return;
  }
}

}  // namespace quantbench::cuda
