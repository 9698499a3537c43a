// The products of a step, unit by unit, and what becomes of their sums.
#pragma once

#include <cmath>
#include <type_traits>

#include "backend/cuda/finish.cuh"
#include "backend/cuda/persistent/input_row.cuh"
#include "backend/cuda/persistent/weight_stream.cuh"
#include "backend/sampling.h"

#if defined(QB_HOPPER)
namespace quantbench::QB_CUDA::persistent {

struct Best {
  float score = -INFINITY;
  int32_t id = 0;
};
QB_DEVICE Best better(Best a, Best b) { return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a; }

// Four warps, on four schedulers, share a slot; four teams take turns at the slots, so that what a slot takes beside
// its products is done by four warps and not by sixteen.
constexpr int kTeams = 4, kTeamWarps = kConsumerWarps / kTeams;

// A warp's place in the block's stream. Between products it lies in shared memory, where it takes no registers.
struct Consumer {
  Ring ring;                      // this team's next slot
  uint32_t next_slot = 0;         // its number in the block's stream
  uint32_t slots = 0, units = 0;  // of the steps before
  Ring scales;                    // nf4: the area of the step's first unit
};
static_assert(sizeof(Consumer) <= kConsumerBytes);

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

QB_DEVICE_CALL float noisy_score(float logit, float temperature, uint64_t seed, int position, int id) {
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
    value = int8_output(sum, row.absmax, ahead.absmax, ahead.bias);
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
      const float next = from_lane_down(value, 1);
      if (active && i % 2 == 0) put_word(s.out + n / 2, tagged(halves(value, next), a.epoch));
      return;
    }
    case Finish::add:
      if (active) put_word(s.out + n, tagged(bits_of_float(ahead.first + value), a.epoch));
      return;
    case Finish::gate: {
      const float up = from_lane_down(value, 8);
      value = activate(value, s.act) * up;
      const float next = from_lane_down(value, 1);
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
      put_word(out + n, tagged(bits_of_float(value), a.epoch));
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

constexpr int kItemsOfChunk = 4;  // 32 bytes of each of 16 rows, of each warp of a team one
constexpr SharedAddress kChunkOfRows = 8 * kChunkBytes;

// A warp's items of kItems chunks. x: the row, where this lane has its part of the first item.
template <WeightFormat kFormat, int kItems, typename Sum>
QB_DEVICE void multiply_plain(Sum (&acc)[4], SharedAddress from, const std::byte* x) {
  uint32_t w[kItems][4];
  Bytes8 b[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    load_fragments(w[i], from + static_cast<SharedAddress>(i) * kChunkOfRows);
    b[i] = *reinterpret_cast<const Bytes8*>(x + i * kItemsOfChunk * 32);
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
  float sum[kItems][4] = {};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    uint32_t w[4];
    load_fragments(w, from + static_cast<SharedAddress>(i) * kChunkOfRows);
    const auto* const at = reinterpret_cast<const Bytes16*>(x + i * kItemsOfChunk * 128);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Bytes16 b = at[half];
#pragma unroll
      for (int byte = 2 * half; byte < 2 * half + 2; ++byte) {
        const uint32_t pick = 0x80u << (8 * byte);  // that byte times 128, the size of an entry in all its copies
        mma_f16(
            sum[i],
            {load_shared_constant(dot_bytes(w[0], pick, pairs)), load_shared_constant(dot_bytes(w[1], pick, pairs)),
             load_shared_constant(dot_bytes(w[2], pick, pairs)), load_shared_constant(dot_bytes(w[3], pick, pairs))},
            {b.word[byte % 2 * 2], b.word[byte % 2 * 2 + 1]});
      }
    }
  }
  const int g = lane_index() / 4;
  const float scale = scale_of_lane();
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    acc[0] = fmaf(sum[i][0], from_lane(scale, g + kUnitRows * i), acc[0]);
    acc[2] = fmaf(sum[i][2], from_lane(scale, g + 8 + kUnitRows * i), acc[2]);
  }
}

template <WeightFormat kFormat>
QB_DEVICE void product(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  using Sum = std::conditional_t<kFormat == WeightFormat::int8, int32_t, float>;
  const int first = first_unit(s), units = s.units;
  if (first >= units) return;
  const Int8Row row = s.in.source == Source::halves ? make_row_of_halves<kFormat>(a, m, s, wait)
                                                    : make_row_of_floats<kFormat>(a, m, s, wait);
  Consumer c = m.pointer<Consumer>(m.at.consumers)[warp_index()];
  const int lane = lane_index(), t = lane % 4, quarter = warp_index() % kTeamWarps;
  const int r = lane % kUnitRows;  // whose scales this lane finds
  const int ring_slots = a.slots, slots = s.slots;
  const int own_units = (units - first - 1) / blocks_x() + 1;
  const int box_bytes = 8 * kChunkBytes * s.slot_chunks;
  const SharedAddress ring = shared_address(m.base + m.at.ring);
  // Where this lane's row of this warp's item of a chunk lies in a slot.
  const auto fragment = static_cast<SharedAddress>(lane / 8 % 2 * box_bytes + lane % 8 * kChunkBytes +
                                                   ((2 * quarter + lane / 16) ^ lane % 8) * 16);
  const SharedAddress barriers = m.barriers(), part_barriers = m.part_barriers();
  const std::byte* const x = m.base + (kFormat == WeightFormat::int8 ? m.at.codes : m.at.x);
  const SharedAddress pairs = shared_address(m.base + m.at.table) + static_cast<SharedAddress>(lane) * 4;
  const SharedAddress codes = shared_address(m.base + m.at.code);
  // The teams that have a slot of a unit leave their warps' sums in the order of their slots.
  const auto unit_parts = [&] { return (slots < kTeams ? slots : kTeams) * kTeamWarps; };
  const auto outlier_parts_of = [&](uint32_t unit) {
    return m.pointer<float>(m.at.outlier_parts) + unit % kPartBuffers * (kConsumerWarps * kUnitRows);
  };
  const auto parts_of = [&](uint32_t unit) {
    return m.pointer<Sum>(m.at.parts) + unit % kPartBuffers * (kConsumerWarps * kUnitRows);
  };
  Ahead ahead;
  uint32_t waiting = 0;  // the unit that `ahead` is of
  const auto finish = [&] {
    const SharedAddress written = part_barriers + waiting % kPartBuffers * kSlotBarriers;
    wait_barrier(wait, written, waiting / kPartBuffers % 2);
    // Half of the sums by each half of the warp; then both halves, in a fixed order.
    Sum sum = 0;
    const int half = unit_parts() / 2 * kUnitRows, first_part = lane / kUnitRows * half + r;
    const Sum* const own = parts_of(waiting) + first_part;
    for (int i = 0; i < half; i += 2 * kUnitRows) sum += own[i] + own[i + kUnitRows];
    float outliers = 0;
    if constexpr (kFormat == WeightFormat::int8) {
      if (row.has_outliers) {
        const float* const own_outliers = outlier_parts_of(waiting) + first_part;
        for (int i = 0; i < half; i += kUnitRows) outliers += own_outliers[i];
        outliers += from_lane_xor(outliers, kUnitRows);
      }
    }
    sync_warp();
    if (lane == 0) barrier_arrive(written + kEmpty);
    finish_unit<kFormat, Sum>(a, m, s, ahead, sum + from_lane_xor(sum, kUnitRows), outliers, row);
    ahead.segment = -1;
  };
  int j = static_cast<int>(c.next_slot - c.slots), unit = 0;
  while (true) {
    for (; j >= slots; j -= slots, ++unit) {
      if (kFormat == WeightFormat::nf4 && unit < own_units) c.scales.next(ring_slots + 1);
    }
    if (unit < own_units) {
      const uint32_t number = c.units + static_cast<uint32_t>(unit);
      // A warp of the team that has the unit's last slot finishes it, and that after its own part of its next one, so
      // that none waits for it. Of two such units after one another it is never the same warp.
      const bool own =
          (slots - 1 - j) % kTeams == 0 && (number + number / kTeams) % kTeamWarps == static_cast<uint32_t>(quarter);
      float outliers = 0, row_absmax = 0;
      if (own || (kFormat == WeightFormat::int8 && row.has_outliers)) {
        int unit_of_segment = first + unit * blocks_x();
        const int segment = find_segment(s, &unit_of_segment);
        const Tile tile = tile_of(s, segment, unit_of_segment);
        if (own) {
          ahead = look_ahead<kFormat>(m, s, wait, segment, tile);
          waiting = number;
        }
        if constexpr (kFormat == WeightFormat::int8) {
          const Segment& own_segment = s.segments[s.finish == Finish::gate && r >= 8 ? 1 : segment];
          if (row.has_outliers) row_absmax = own_segment.w.absmax[r < 8 ? tile.low + r : tile.high + r - 8];
        }
      }
      ScalesOfRows scales{};  // nf4: of row r
      if constexpr (kFormat == WeightFormat::nf4) {
        wait_barrier(wait, m.scale_barriers() + static_cast<SharedAddress>(c.scales.slot) * 8, c.scales.parity);
        const SharedAddress head = shared_address(m.base + m.at.scales) +
                                   static_cast<SharedAddress>(c.scales.slot * a.scale_bytes) +
                                   static_cast<SharedAddress>(r / 8 * sizeof(ScalesOfRows));
        const Bytes16 found = load_shared16(head);
        const auto rows_before = static_cast<uint32_t>(r % 8 * (s.k / 64));
        scales = {found.word[0] + rows_before, found.word[1], found.word[2] + rows_before,
                  float_of_bits(found.word[3])};
      }
      Sum acc[4] = {};
      const int unit_first = j;
      for (; j < slots; j += kTeams) {
        // Looked up here, so that they take no registers elsewhere.
        const int slot_chunks = load_shared_int(&s.slot_chunks), chunks = load_shared_int(&s.chunks);
        const SharedAddress full = barriers + static_cast<SharedAddress>(c.ring.slot) * kSlotBarriers;
        wait_barrier(wait, full, c.ring.parity);
        const int left = chunks - j * slot_chunks, here = left < slot_chunks ? left : slot_chunks;
        const SharedAddress slot = ring + static_cast<SharedAddress>(c.ring.slot) * kSlotBytes;
        const int item = j * slot_chunks * kItemsOfChunk + quarter;
        int chunk = 0;
        if constexpr (kFormat == WeightFormat::nf4) {
          const std::byte* at = x + item * 128 + t * 32;
          SharedAddress from = slot + fragment;
          // Lane 16i + r: of row r in the i-th of two chunks.
          uint32_t block = static_cast<uint32_t>(item + lane / kUnitRows * kItemsOfChunk);
          const auto scale = [&] {
            const float code = as_float(load_shared_constant(codes + load_shared_byte(scales.bytes + block) * 4));
            const float nested =
                as_float(load_shared_constant(scales.nested + (scales.block + block) / kNestedBlock * 4));
            return add_rn(mul_rn(code, nested), scales.offset);
          };
          for (; chunk + 2 <= here; chunk += 2) {
            multiply_nf4<2>(acc, from, at, scale, pairs);
            at += 2 * kItemsOfChunk * 128;
            from += 2 * kChunkOfRows;
            block += 2 * kItemsOfChunk;
          }
          // The lanes of the chunk that is not there find a scale of another row, which is not used.
          if (chunk < here) multiply_nf4<1>(acc, from, at, scale, pairs);
        } else {
          const std::byte* at = x + item * 32 + t * 8;
          SharedAddress from = slot + fragment;
          constexpr int kAtOnce = 4;
          for (; chunk + kAtOnce <= here; chunk += kAtOnce) {
            multiply_plain<kFormat, kAtOnce>(acc, from, at);
            at += kAtOnce * kItemsOfChunk * 32;
            from += kAtOnce * kChunkOfRows;
          }
          for (; chunk < here; ++chunk) {
            multiply_plain<kFormat, 1>(acc, from, at);
            at += kItemsOfChunk * 32;
            from += kChunkOfRows;
          }
          if constexpr (kFormat == WeightFormat::int8) {
            if (row.has_outliers) {
              const SharedAddress row_at = slot + static_cast<SharedAddress>(r / 8 * box_bytes + r % 8 * kChunkBytes);
              for (int i = 0; i < here; ++i) {
                const int own_item = item + i * kItemsOfChunk;
                for (uint32_t mask = m.pointer<uint32_t>(m.at.outliers)[own_item]; mask != 0; mask &= mask - 1) {
                  const int bit = lowest_bit(mask), column = (2 * quarter + bit / 16) ^ r % 8;
                  const int code = load_shared_code(
                      row_at + static_cast<SharedAddress>(i * (8 * kChunkBytes) + column * 16 + bit % 16));
                  const float weight = outlier_weight(code, row_absmax);
                  outliers = fmaf(float_of_half(m.pointer<uint16_t>(m.at.x)[own_item * 32 + bit]), weight, outliers);
                }
              }
            }
          }
        }
        sync_warp();
        if (lane == 0) barrier_arrive(full + kEmpty);
        c.ring.skip(kTeams, ring_slots);
      }
      const SharedAddress written = part_barriers + number % kPartBuffers * kSlotBarriers;
      wait_barrier(wait, written + kEmpty, number / kPartBuffers % 2 ^ 1);
      const int part = unit_first * kTeamWarps + quarter;
      if (t == 0) {
        Sum* const to = parts_of(number) + part * kUnitRows + lane / 4;
        to[0] = acc[0];
        to[8] = acc[2];
      }
      if constexpr (kFormat == WeightFormat::int8) {
        if (row.has_outliers && lane < kUnitRows) outlier_parts_of(number)[part * kUnitRows + lane] = outliers;
      }
      sync_warp();
      if (lane == 0) barrier_arrive(written, kPartArrivals / unit_parts());
      if (own) continue;
    }
    if (ahead.segment >= 0) finish();
    if (unit >= own_units) break;
  }
  c.next_slot = c.slots + static_cast<uint32_t>(unit * slots + j);
  c.slots += static_cast<uint32_t>(own_units * slots);
  c.units += static_cast<uint32_t>(own_units);
  sync_warp();  // all lanes have read it
  if (lane == 0) m.pointer<Consumer>(m.at.consumers)[warp_index()] = c;
}

}  // namespace quantbench::QB_CUDA::persistent
#endif
