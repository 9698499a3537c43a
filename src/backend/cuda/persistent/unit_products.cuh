// The products of a step by the consumer warps: what arrives in the ring times the row, summed up unit by unit for
// those that finish them (finish_units.cuh).
#pragma once

#include <type_traits>

#include "backend/cuda/finish.cuh"
#include "backend/cuda/persistent/input_row.cuh"
#include "backend/cuda/persistent/weight_stream.cuh"

#if defined(QB_HOPPER)
namespace quantbench::QB_CUDA::persistent {

// A block's stream is pieces, one after the other: a chunk of each of a unit's sixteen rows. Piece i of a step is warp
// i mod 16's, so that all warps have a part in a unit whatever its shape; and a warp's sums of one unit are a part.
template <WeightFormat kFormat>
using SumOf = std::conditional_t<kFormat == WeightFormat::int8, int32_t, float>;
QB_DEVICE int parts_of_unit(int chunks) { return chunks < kConsumerWarps ? chunks : kConsumerWarps; }
constexpr int kArrivals = kConsumerWarps;  // at a barrier for which as many or fewer warps come; one comes for the rest

// A unit's place among those whose sums wait for being finished, and the phase of its barrier.
struct PartPlace {
  int buffer;
  uint32_t parity;
};
QB_DEVICE PartPlace part_place(uint32_t unit) {
  return {static_cast<int>(unit % kPartBuffers), unit / kPartBuffers % 2};
}
QB_DEVICE SharedAddress part_barrier(const Shared& m, const PartPlace& place) {
  return m.part_barriers() + static_cast<SharedAddress>(place.buffer) * sizeof(uint64_t);
}
// A unit's parts: [16 parts][16 rows], of nf4 [16][16][2 lanes].
template <WeightFormat kFormat>
constexpr int kLanesOfSum = kFormat == WeightFormat::nf4 ? static_cast<int>(kLanesOfNf4Sum) : 1;
template <WeightFormat kFormat>
QB_DEVICE SumOf<kFormat>* parts_at(const Shared& m, const PartPlace& place) {
  return m.pointer<SumOf<kFormat>>(m.at.parts) + place.buffer * (kConsumerWarps * kUnitRows * kLanesOfSum<kFormat>);
}
QB_DEVICE float* outlier_parts_at(const Shared& m, const PartPlace& place) {
  return m.pointer<float>(m.at.outlier_parts) + place.buffer * (kConsumerWarps * kUnitRows);
}

// Where the block's stream stands at a step's start. Between products it lies in shared memory, where it takes no
// registers.
struct Place {
  Ring ring;
  uint32_t units = 0;      // of the steps before
  Ring areas;              // nf4: the scales of the step's first unit
  uint32_t row_there = 0;  // whether the product before this one left its row
};
static_assert(sizeof(Place) <= kPlaceBytes);

// A lane's share of a warp's sums of rows lane / 4 and lane / 4 + 8. fp16, int8: lanes 0, 4, 8 … have all of it.
template <WeightFormat kFormat>
struct PieceSums {
  SumOf<kFormat> acc[2][4] = {};  // so that no product waits for the one before
  QB_DEVICE SumOf<kFormat> low() const { return acc[0][0] + acc[1][0]; }
  QB_DEVICE SumOf<kFormat> high() const { return acc[0][3] + acc[1][3]; }
};
template <>
struct PieceSums<WeightFormat::nf4> {
  float low_sum = 0, high_sum = 0;
  QB_DEVICE float low() const { return low_sum + from_lane_xor(low_sum, 1); }
  QB_DEVICE float high() const { return high_sum + from_lane_xor(high_sum, 1); }
};

// from: this lane's row of the piece's first 32 bytes of each row; x: the row at the piece's chunk, this lane's part.
template <WeightFormat kFormat>
QB_DEVICE void multiply_piece(PieceSums<kFormat>& sums, SharedAddress from, const std::byte* x) {
  constexpr int kSteps = kChunkBytes / 32;
  uint32_t w[kSteps][4];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) load_fragments(w[i], from ^ static_cast<SharedAddress>(i * 32));
  const auto* const own = reinterpret_cast<const Bytes16*>(x);
#pragma unroll
  for (int i = 0; i < kSteps; i += 2) {
    const Bytes16 b = own[i * 2];
    if constexpr (kFormat == WeightFormat::int8) {
      mma_s8(sums.acc[0], w[i], {b.word[0], b.word[1]});
      mma_s8(sums.acc[1], w[i + 1], {b.word[2], b.word[3]});
    } else {
      mma_f16(sums.acc[0], w[i], {b.word[0], b.word[1]});
      mma_f16(sums.acc[1], w[i + 1], {b.word[2], b.word[3]});
    }
  }
}

// The scales of block `own` of the first eight rows, row by row, and what belongs to the second half of the unit.
struct TwoScales {
  float low, high;
};
QB_DEVICE TwoScales unit_scales(const Shared& m, const SharedAddress area, int row_blocks, bool halved, uint32_t own) {
  const SharedAddress codes = shared_address(m.base + m.at.code);
  const SharedAddress bytes = area + kScaleHeadBytes + own;
  const SharedAddress nested = area + kScaleHeadBytes + static_cast<uint32_t>(kUnitRows * row_blocks);
  const uint32_t low = load_shared_byte(bytes);
  const uint32_t high = load_shared_byte(bytes + static_cast<uint32_t>(halved ? row_blocks / 2 : 8 * row_blocks));
  const Bytes16 head = load_shared16(area);
  const auto nested_of = [&](SharedAddress from, uint32_t place) {
    return as_float(load_shared(from + place / kNestedBlock * 4));
  };
  const float low_nested = nested_of(nested, head.word[0] + own);
  const float high_nested = nested_of(halved ? nested : nested + kNestedBytes, head.word[2] + own);
  const auto code_of_scale = [&](uint32_t byte) { return as_float(load_shared(codes + byte * 4)); };
  return {add_rn(mul_rn(code_of_scale(low), low_nested), float_of_bits(head.word[1])),
          add_rn(mul_rn(code_of_scale(high), high_nested), float_of_bits(head.word[3]))};
}
// 32 weights of each of a unit's rows as fp16, from two bytes each of their codes in `w`.
struct Operands {
  uint32_t a[2][4];
};
QB_DEVICE Operands look_up(const uint32_t (&w)[4], int first_byte, SharedAddress pairs) {
  Operands found;
#pragma unroll
  for (int byte = 0; byte < 2; ++byte) {
    const uint32_t pick =
        0x80u << (8 * (first_byte + byte));  // that byte times 128, the size of an entry in all copies
#pragma unroll
    for (int i = 0; i < 4; ++i) found.a[byte][i] = load_shared(dot_bytes(w[i], pick, pairs));
  }
  return found;
}
// The four blocks of a piece times a row each of their own: column 2b and 2b + 1 of the right operand are the row's
// block b (the latter that of the second half of k, if there is one), whatever block of weights meets it, so of the
// sums of weight block b those of these columns count, and lane t keeps block t's. What is looked up is on the way
// while what was looked up before is multiplied; `scales` are asked for then, too.
template <typename Scales>
QB_DEVICE void multiply_piece_nf4(PieceSums<WeightFormat::nf4>& sums, SharedAddress from, const Bytes16 (&b)[2], int t,
                                  const Scales& scales, SharedAddress pairs) {
  constexpr int kHalfBlocks = 2 * kChunkBytes / 32;
  uint32_t w[2][4];
  load_fragments(w[0], from);
  load_fragments(w[1], from ^ 32);
  Operands now = look_up(w[0], 0, pairs), next;
  TwoScales own_scales;
  float low = 0, high = 0, acc[4];
#pragma unroll
  for (int i = 0; i < kHalfBlocks; ++i) {
    const int block = i / 2, half = i % 2;
    if (i + 1 < kHalfBlocks) next = look_up(w[(i + 1) / 2 % 2], half == 0 ? 2 : 0, pairs);
    if (half == 0 && block > 0 && block + 1 < kHalfBlocks / 2)
      load_fragments(w[(block + 1) % 2], from ^ static_cast<SharedAddress>((block + 1) * 32));
    if (i == 2) own_scales = scales();
    if (half == 0) acc[0] = acc[1] = acc[2] = acc[3] = 0;
#pragma unroll
    for (int byte = 0; byte < 2; ++byte)
      mma_f16(acc, now.a[byte], {b[half].word[2 * byte], b[half].word[2 * byte + 1]});
    if (half == 1) {
      low = t == block ? acc[0] : low;
      high = t == block ? acc[3] : high;
    }
    now = next;
  }
  sums.low_sum = fmaf(low, own_scales.low, sums.low_sum);
  sums.high_sum = fmaf(high, own_scales.high, sums.high_sum);
}

// LLM.int8: what the row's outliers in this piece give for row lane % 16, half of the columns by each half of the warp.
QB_DEVICE float add_outliers(const Shared& m, float sum, SharedAddress piece, int box_bytes, int chunk, float absmax) {
  const int lane = lane_index(), r = lane % kUnitRows, half = lane / kUnitRows;
  const SharedAddress row_at = piece + static_cast<SharedAddress>(r / 8 * box_bytes + r % 8 * kChunkBytes);
  const auto* const masks = m.pointer<uint32_t>(m.at.outliers) + chunk * 4;
  const auto* const x = m.pointer<uint16_t>(m.at.x) + chunk * kChunkBytes;
#pragma unroll 1
  for (int i = 2 * half; i < 2 * half + 2; ++i) {
    for (uint32_t mask = masks[i]; mask != 0; mask &= mask - 1) {
      const int bit = lowest_bit(mask), column = (2 * i + bit / 16) ^ r % 8;
      const int code = load_shared_code(row_at + static_cast<SharedAddress>(column * 16 + bit % 16));
      sum = fmaf(float_of_half(x[i * 32 + bit]), outlier_weight(code, absmax), sum);
    }
  }
  return sum;
}
// Where that of weight row lane % 16 of a unit is.
QB_DEVICE const float* unit_absmax(const Step& s, int unit) {
  const int r = lane_index() % kUnitRows, segment = find_segment(s, &unit);
  const Tile tile = tile_of(s, segment, unit);
  return s.segments[s.finish == Finish::gate && r >= 8 ? 1 : segment].w.absmax +
         (r < 8 ? tile.low + r : tile.high + r - 8);
}

// A warp's place among the pieces of a step.
struct PieceCursor {
  int unit, chunk, in_slot;
  Ring ring, areas;  // of the slot; nf4: of the unit's scales
};
// Its first piece. `at`: where the block's stream stands at the step's start.
QB_DEVICE PieceCursor first_piece(const PersistentArgs& a, const Step& s, const Place& at, bool has_areas) {
  const WarpStart start = s.starts[warp_index()];
  PieceCursor first{start.unit, start.chunk, start.in_slot, at.ring, at.areas};
  first.ring.skip(start.slots, a.slots);
  if (has_areas) first.areas.skip(start.unit, a.slots + 1);
  return first;
}
// This warp's pieces of a step, after the row is there. first_number: of the step's first unit in the block's stream.
template <WeightFormat kFormat>
QB_DEVICE void multiply_pieces(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait,
                               const PieceCursor& first, uint32_t first_number, int own_units, const Int8Row& row) {
  using Sum = SumOf<kFormat>;
  constexpr bool kInt8 = kFormat == WeightFormat::int8, kNf4 = kFormat == WeightFormat::nf4;
  const int thread = thread_index(), lane = thread % kWarpSize, g = lane / 4, t = lane % 4;
  const Stride stride = s.stride;
  const int chunks = s.chunks, slot_chunks = s.slot_chunks, row_blocks = s.k / 64;
  const bool own_areas = kNf4 && s.slots > 1;  // else the scales come with the unit's slot
  int unit = first.unit, chunk = first.chunk, part = chunk, in_slot = first.in_slot;
  Ring ring = first.ring, areas = first.areas;
  const int box_bytes = 8 * kChunkBytes * slot_chunks;
  const SharedAddress slots = shared_address(m.base + m.at.ring), barriers = m.barriers();
  // Where this lane's row of a piece's first 32 bytes lies, from the piece on.
  const auto fragment =
      static_cast<SharedAddress>(lane / 8 % 2 * box_bytes + lane % 8 * kChunkBytes + (lane / 16 ^ lane % 8) * 16);
  // Of x, this lane's column: that of the second half of k is the odd ones, where there is one.
  constexpr int kRowBytes = kNf4 ? 4 * kChunkBytes : kChunkBytes;  // of x, beside a chunk
  const bool halved = s.halved;
  const std::byte* const x = m.base + (kInt8 ? m.at.codes : m.at.x) + (halved && g % 2 == 1 ? chunks * kRowBytes : 0);
  const SharedAddress pairs = shared_address(m.base + m.at.table) + static_cast<SharedAddress>(lane) * 4;
  Bytes16 b[2] = {};  // nf4: the row at chunk `loaded`, this lane's part
  int loaded = -1;
  PieceSums<kFormat> sums;
  float outliers = 0, absmax = 0, next_absmax = 0;
  const float* absmax_at = nullptr;
  if constexpr (kInt8) {
    if (row.has_outliers && unit < own_units) {
      absmax_at = unit_absmax(s, first_unit(s) + unit * blocks_x());
      absmax = *absmax_at;
    }
  }
  while (unit < own_units) {
    int next_unit = unit + stride.units, next_chunk = chunk + stride.chunks;
    if (next_chunk >= chunks) next_chunk -= chunks, ++next_unit;
    const bool unit_ends = next_unit != unit;
    if constexpr (kInt8) {
      if (row.has_outliers && unit_ends && next_unit < own_units) {
        absmax_at = s.finish == Finish::qkv ? unit_absmax(s, first_unit(s) + next_unit * blocks_x())
                                            : absmax_at + (next_unit - unit) * blocks_x() * rows_of_unit(s);
        next_absmax = *absmax_at;
      }
    }
    const SharedAddress full = barriers + static_cast<SharedAddress>(ring.slot) * kSlotBarriers;
    const SharedAddress piece =
        slots + static_cast<SharedAddress>(ring.slot * a.slot_bytes + in_slot * (kPieceBytes / 2));
    wait_barrier(wait, full, ring.parity);
    if constexpr (kNf4) {
      if (chunk != loaded) {
        const auto* const own = reinterpret_cast<const Bytes16*>(x + chunk * kRowBytes + g / 2 * 128 + t * 32);
        b[0] = own[0];
        b[1] = own[1];
        loaded = chunk;
      }
      const auto scales = [&] {
        if (own_areas)
          wait_barrier(wait, m.scale_barriers() + static_cast<SharedAddress>(areas.slot) * 8, areas.parity);
        return unit_scales(
            m, shared_address(m.base + m.at.scales) + static_cast<SharedAddress>(areas.slot * a.scale_bytes),
            row_blocks, halved, static_cast<uint32_t>(g * row_blocks + chunk * 4 + t));
      };
      multiply_piece_nf4(sums, piece + fragment, b, t, scales, pairs);
    } else {
      multiply_piece<kFormat>(sums, piece + fragment, x + chunk * kRowBytes + t * 16);
      if constexpr (kInt8) {
        if (row.has_outliers)
          outliers = add_outliers(m, outliers, piece, box_bytes,
                                  halved && lane % kUnitRows >= 8 ? chunk + chunks : chunk, absmax);
      }
    }
    const uint32_t number = first_number + static_cast<uint32_t>(unit);
    const PartPlace place = part_place(number);
    const SharedAddress written = part_barrier(m, place);
    if (unit_ends) {
      const Sum low = sums.low(), high = sums.high();
      sums = {};
      wait_progress(wait, m, number - kPartBuffers + 1);
      if (kNf4 ? t % 2 == 0 : t == 0) {
        Sum* const to = parts_at<kFormat>(m, place) + (part * kUnitRows + g) * kLanesOfSum<kFormat> + t / 2;
        to[0] = low;
        to[8 * kLanesOfSum<kFormat>] = high;
      }
      if constexpr (kInt8) {
        if (row.has_outliers) {
          outliers += from_lane_xor(outliers, kUnitRows);
          if (lane < kUnitRows) outlier_parts_at(m, place)[part * kUnitRows + lane] = outliers;
          outliers = 0;
          absmax = next_absmax;
        }
      }
    }
    sync_warp();
    if (lane == 0) {
      barrier_arrive(full + kEmpty, in_slot == 0 ? kArrivals - slot_chunks + 1 : 1);
      if (unit_ends) barrier_arrive(written, part == 0 ? kArrivals - parts_of_unit(chunks) + 1 : 1);
    }
    in_slot += stride.in_slot;
    ring.slot += stride.slots;
    ring.parity ^= stride.slots_flip ? 1u : 0u;
    if (in_slot >= slot_chunks) in_slot -= slot_chunks, ++ring.slot;
    if (ring.slot >= a.slots) ring.slot -= a.slots, ring.parity ^= 1;
    if constexpr (kNf4) {
      areas.slot += stride.areas + (next_unit - unit - stride.units);
      areas.parity ^= stride.areas_flip ? 1u : 0u;
      if (areas.slot > a.slots) areas.slot -= a.slots + 1, areas.parity ^= 1;
    }
    if (unit_ends) part = next_chunk;
    unit = next_unit;
    chunk = next_chunk;
  }
}

template <WeightFormat kFormat>
QB_DEVICE void product(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  Place* const own_place = m.pointer<Place>(m.at.places) + warp_index();
  const Place place = *own_place;
  const int own_units = own_unit_count(s, first_unit(s));
  if (own_units == 0) {
    sync_warp();
    if (lane_index() == 0) own_place->row_there = 0;
    return;
  }
  const bool row_there = s.same_row && place.row_there;
  // The row's words are asked for first; what does not depend on them comes while they are on the way.
  RowWords words;
  if (!row_there && s.in.source != Source::table) ask_row(s.in.words, thread_index(), row_word_count(s), words);
  prefetch_norm(s.next_norm, s.next_norm_count);
  const PieceCursor first = first_piece(a, s, place, kFormat == WeightFormat::nf4);
  Int8Row row{};
  if (row_there)
    row = *m.row(wait.step - 1);
  else
    row = make_row<kFormat>(m, s, wait, words);
  if constexpr (kFormat == WeightFormat::int8) {
    if (lane_index() == 0) *m.row(wait.step) = row;  // the same by each warp, before its sums
  }
  multiply_pieces<kFormat>(a, m, s, wait, first, place.units, own_units, row);
  Place next = *own_place;
  next.ring.skip(own_units * s.slots, a.slots);
  if (kFormat == WeightFormat::nf4) next.areas.skip(own_units, a.slots + 1);
  next.units += static_cast<uint32_t>(own_units);
  next.row_there = 1;
  sync_warp();  // all lanes have read it
  if (lane_index() == 0) *own_place = next;
}

}  // namespace quantbench::QB_CUDA::persistent
#endif
