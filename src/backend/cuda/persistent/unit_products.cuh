// The products of a step by the consumer warps: what arrives in the ring times the row, summed up unit by unit for
// those that finish them (finish_units.cuh).
#pragma once

#include <type_traits>

#include "backend/cuda/finish.cuh"
#include "backend/cuda/persistent/input_row.cuh"
#include "backend/cuda/persistent/weight_stream.cuh"

#if defined(QB_HOPPER)
namespace quantbench::QB_CUDA::persistent {

// A block's stream is pieces, one after the other: some chunks of each of a unit's sixteen rows. Piece i of a step is
// warp i mod 16's, so that all warps have a part in a unit whatever its shape; and a warp's sums of one unit are a
// part.
template <WeightFormat kFormat>
using SumOf = std::conditional_t<kFormat == WeightFormat::int8, int32_t, float>;
constexpr int kArrivals = kConsumerWarps;  // at a barrier for which as many or fewer warps come; one comes for the rest

// Of x, beside a chunk of weights.
template <WeightFormat kFormat>
constexpr int kRowBytes = kFormat == WeightFormat::nf4 ? 4 * kChunkBytes : kChunkBytes;

// A unit's place among those whose sums wait for being finished, and which of the buffer's units it is.
struct PartPlace {
  int buffer;
  uint32_t turn;
};
QB_DEVICE PartPlace part_place(uint32_t unit) { return {static_cast<int>(unit % kPartBuffers), unit / kPartBuffers}; }
QB_DEVICE SharedAddress part_barrier(const Shared& m, const PartPlace& place) {
  return m.part_barriers() + static_cast<SharedAddress>(place.buffer) * kTwoBarriers;
}
// How many units of the buffer are finished. A count, no barrier: a warp has no part in some units, and one bit does
// not tell whether a buffer is behind by two turns or free.
QB_DEVICE SharedAddress finished_count(SharedAddress part_barrier) { return part_barrier + kEmpty; }
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

template <>
struct PieceSums<WeightFormat::f32> {
  float low_sums[2] = {}, high_sums[2] = {};  // so that no product waits for the one before
  QB_DEVICE float low() const { return of_lanes(low_sums[0] + low_sums[1]); }
  QB_DEVICE float high() const { return of_lanes(high_sums[0] + high_sums[1]); }
  QB_DEVICE static float of_lanes(float sum) {
    sum += from_lane_xor(sum, 1);
    return sum + from_lane_xor(sum, 2);
  }
};

// from: this lane's row of the first 32 bytes of each row of a chunk; x: the row there, this lane's part.
template <WeightFormat kFormat>
QB_DEVICE void multiply_chunk(PieceSums<kFormat>& sums, SharedAddress from, SharedAddress x) {
  constexpr int kSteps = kChunkBytes / 32;
  uint32_t w[kSteps][4];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) load_fragments(w[i], from ^ static_cast<SharedAddress>(i * 32));
#pragma unroll
  for (int i = 0; i < kSteps; i += 2) {
    const Bytes16 b = load_shared16(x + static_cast<SharedAddress>(i * 32));
    if constexpr (kFormat == WeightFormat::int8) {
      mma_s8(sums.acc[0], w[i], {b.word[0], b.word[1]});
      mma_s8(sums.acc[1], w[i + 1], {b.word[2], b.word[3]});
    } else {
      mma_f16(sums.acc[0], w[i], {b.word[0], b.word[1]});
      mma_f16(sums.acc[1], w[i + 1], {b.word[2], b.word[3]});
    }
  }
}

// Numbers in fp32: lane t of a row has eight of a chunk's, in two pieces of four. from: its first piece of the low row;
// x: of the row there, and high_x further on of what the high row is multiplied with.
QB_DEVICE void multiply_chunk_f32(PieceSums<WeightFormat::f32>& sums, SharedAddress from, int box_bytes,
                                  SharedAddress x, int high_x) {
  constexpr SharedAddress kOther = 64;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const SharedAddress piece = from ^ static_cast<SharedAddress>(i) * kOther;
    const SharedAddress x_piece = x ^ static_cast<SharedAddress>(i) * kOther;
    const Quad low = load_shared_floats(piece);
    const Quad high = load_shared_floats(piece + static_cast<SharedAddress>(box_bytes));
    const Quad of_low = load_shared_floats(x_piece);
    const Quad of_high = load_shared_floats(x_piece + static_cast<SharedAddress>(high_x));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sums.low_sums[j % 2] = fmaf(low.at[j], of_low.at[j], sums.low_sums[j % 2]);
      sums.high_sums[j % 2] = fmaf(high.at[j], of_high.at[j], sums.high_sums[j % 2]);
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
// The four blocks of a chunk times a row each of their own: column 2b and 2b + 1 of the right operand are the row's
// block b (the latter that of the second half of k, if there is one), whatever block of weights meets it, so of the
// sums of weight block b those of these columns count, and lane t keeps block t's. What is looked up is on the way
// while what was looked up before is multiplied; `scales` are asked for then, too.
template <typename Scales>
QB_DEVICE void multiply_chunk_nf4(PieceSums<WeightFormat::nf4>& sums, SharedAddress from, const Bytes16 (&b)[2], int t,
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

// LLM.int8: what the row's outliers in this chunk give for row lane % 16, half of the columns by each half of the warp.
QB_DEVICE float add_outliers(const Shared& m, float sum, SharedAddress from, int box_bytes, int chunk, float absmax) {
  const int lane = lane_index(), r = lane % kUnitRows, half = lane / kUnitRows;
  const SharedAddress row_at = from + static_cast<SharedAddress>(r / 8 * box_bytes + r % 8 * kChunkBytes);
  const Bytes16 masks = load_shared16(shared_address(m.base + m.at.outliers) + static_cast<SharedAddress>(chunk * 16));
  const auto* const x = m.pointer<uint16_t>(m.at.x) + chunk * kChunkBytes + half * 64;
  uint32_t low = half == 0 ? masks.word[0] : masks.word[2], high = half == 0 ? masks.word[1] : masks.word[3];
#pragma unroll 1
  while ((low | high) != 0) {
    const bool in_low = low != 0;
    const int bit = in_low ? lowest_bit(low) : 32 + lowest_bit(high);
    const int column = (4 * half + bit / 16) ^ r % 8;
    const int code = load_shared_code(row_at + static_cast<SharedAddress>(column * 16 + bit % 16));
    sum = fmaf(float_of_half(x[bit]), outlier_weight(code, absmax), sum);
    high = in_low ? high : high & (high - 1);
    low = in_low ? low & (low - 1) : 0;
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

// A warp's place among the pieces of a step, and where this lane finds its part of a piece.
struct PieceCursor {
  int unit, piece, in_slot;
  Ring ring, areas;        // of the slot; nf4: of the unit's scales
  SharedAddress fragment;  // of this lane's row of a chunk's first 32 bytes, from the chunk on
  SharedAddress x;         // of this lane's column of the row
};
// Its first piece. `at`: where the block's stream stands at the step's start.
template <WeightFormat kFormat>
QB_DEVICE PieceCursor first_piece(const PersistentArgs& a, const Shared& m, const Step& s, const Place& at) {
  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  const WarpStart start = s.starts[warp_index()];
  const int box_bytes = 8 * kChunkBytes * s.slot_chunks;
  constexpr int kNever = 1 << 30;  // more than a block has
  PieceCursor first{start.unit == kNoUnit ? kNever : start.unit, start.piece, start.in_slot, at.ring, at.areas, 0, 0};
  first.ring.skip(start.slots, a.slots);
  if (kFormat == WeightFormat::nf4) first.areas.skip(start.unit, a.slots + 1);
  if constexpr (kFormat == WeightFormat::f32) {
    // Rows take turns with the halves of a chunk, so that lanes that read at the same time meet no bank twice.
    const int column = t + g % 2 * 4;
    first.fragment = static_cast<SharedAddress>(g * kChunkBytes + (column ^ g) * 16);
    first.x = shared_address(m.base + m.at.x) + static_cast<SharedAddress>(column * 16);
    return first;
  }
  first.fragment =
      static_cast<SharedAddress>(lane / 8 % 2 * box_bytes + lane % 8 * kChunkBytes + (lane / 16 ^ lane % 8) * 16);
  // Its column: that of the second half of k is the odd ones, where there is one.
  const int second_half = s.halved && g % 2 == 1 ? s.chunks * kRowBytes<kFormat> : 0;
  const int in_row = kFormat == WeightFormat::nf4 ? g / 2 * 128 + t * 32 : t * 16;
  first.x = shared_address(m.base + (kFormat == WeightFormat::int8 ? m.at.codes : m.at.x)) +
            static_cast<SharedAddress>(second_half + in_row);
  return first;
}
QB_DEVICE Walk walk_of(const Step& s) { return __builtin_bit_cast(Walk, load_shared16(shared_address(&s.walk))); }
// This warp's pieces of a step, after the row is there. first_number: of the step's first unit in the block's stream.
template <WeightFormat kFormat>
QB_DEVICE void multiply_pieces(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait,
                               const PieceCursor& first, uint32_t first_number, int own_units, const Int8Row& row) {
  using Sum = SumOf<kFormat>;
  constexpr bool kInt8 = kFormat == WeightFormat::int8, kNf4 = kFormat == WeightFormat::nf4;
  const int thread = thread_index(), lane = thread % kWarpSize, g = lane / 4, t = lane % 4;
  const int row_blocks = s.k / 64;
  const bool own_areas = kNf4 && s.slots > 1;  // else the scales come with the unit's slot
  int unit = first.unit, piece = first.piece, part = piece, in_slot = first.in_slot;
  Ring ring = first.ring, areas = first.areas;
  const int box_bytes = 8 * kChunkBytes * s.slot_chunks;
  const SharedAddress slots = shared_address(m.base + m.at.ring), barriers = m.barriers();
  constexpr SharedAddress kHalfChunk = kRowsChunkBytes / 2;  // of one of a unit's two boxes
  const bool halved = s.halved;
  const SharedAddress pairs = shared_address(m.base + m.at.table) + static_cast<SharedAddress>(lane) * 4;
  Bytes16 b[2] = {};  // nf4: the row at piece `loaded`, this lane's part
  int loaded = -1;
  PieceSums<kFormat> sums;
  float outliers = 0;
  const float* absmax_at = nullptr;
  if constexpr (kInt8) {
    if (row.has_outliers && unit < own_units) absmax_at = unit_absmax(s, first_unit(s) + unit * blocks_x());
  }
  while (unit < own_units) {
    const Walk walk = walk_of(s);
    const SharedAddress full = barriers + static_cast<SharedAddress>(ring.slot) * kTwoBarriers;
    SharedAddress at = slots + static_cast<SharedAddress>(ring.slot * a.slot_bytes + in_slot * walk.piece_bytes);
    wait_barrier(wait, full, ring.parity);
    if constexpr (kNf4) {
      // One chunk a piece.
      if (piece != loaded) {
        const SharedAddress x = first.x + static_cast<SharedAddress>(piece * kRowBytes<kFormat>);
        b[0] = load_shared16(x);
        b[1] = load_shared16(x + 16);
        loaded = piece;
      }
      const auto scales = [&] {
        if (own_areas)
          wait_barrier(wait, m.scale_barriers() + static_cast<SharedAddress>(areas.slot) * 8, areas.parity);
        return unit_scales(
            m, shared_address(m.base + m.at.scales) + static_cast<SharedAddress>(areas.slot * a.scale_bytes),
            row_blocks, halved, static_cast<uint32_t>(g * row_blocks + piece * 4 + t));
      };
      multiply_chunk_nf4(sums, at + first.fragment, b, t, scales, pairs);
    } else if constexpr (kFormat == WeightFormat::f32) {
      const int first_chunk = piece * walk.piece_chunks;
      SharedAddress x = first.x + static_cast<SharedAddress>(first_chunk * kRowBytes<kFormat>);
      SharedAddress from = at + first.fragment;
      const int high_x = halved ? s.chunks * kRowBytes<kFormat> : 0;
#pragma unroll 1
      for (int i = 0; i < walk.piece_chunks; ++i, x += kRowBytes<kFormat>, from += kHalfChunk)
        multiply_chunk_f32(sums, from, box_bytes, x, high_x);
    } else {
      const int first_chunk = piece * walk.piece_chunks, end = first_chunk + walk.piece_chunks;
      SharedAddress x = first.x + static_cast<SharedAddress>(first_chunk * kRowBytes<kFormat>);
      SharedAddress from = at + first.fragment;
#pragma unroll 2
      for (int i = 0; i < walk.piece_chunks; ++i, x += kRowBytes<kFormat>, from += kHalfChunk)
        multiply_chunk<kFormat>(sums, from, x);
      if constexpr (kInt8) {
        if (row.has_outliers) {
          const float absmax = *absmax_at;
#pragma unroll 1
          for (int chunk = first_chunk; chunk < end; ++chunk, at += kHalfChunk) {
            outliers = add_outliers(m, outliers, at, box_bytes,
                                    halved && lane % kUnitRows >= 8 ? chunk + s.chunks : chunk, absmax);
          }
        }
      }
    }
    int next_unit = unit + walk.on_units, next_piece = piece + walk.on_pieces;
    if (next_piece >= walk.pieces) next_piece -= walk.pieces, ++next_unit;
    const bool unit_ends = next_unit != unit;
    const PartPlace place = part_place(first_number + static_cast<uint32_t>(unit));
    const SharedAddress written = part_barrier(m, place);
    if (unit_ends) {
      const Sum low = sums.low(), high = sums.high();
      sums = {};
      wait_count(wait, finished_count(written), place.turn);
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
          if (next_unit < own_units) {
            absmax_at = s.finish == Finish::qkv ? unit_absmax(s, first_unit(s) + next_unit * blocks_x())
                                                : absmax_at + (next_unit - unit) * blocks_x() * rows_of_unit(s);
            prefetch_to_l1(absmax_at);
          }
        }
      }
    }
    sync_warp();
    if (lane == 0) {
      barrier_arrive(full + kEmpty, in_slot == 0 ? kArrivals - walk.slot_pieces + 1 : 1);
      if (unit_ends) barrier_arrive(written, part == 0 ? kArrivals - walk.parts + 1 : 1);
    }
    in_slot += walk.on_in_slot;
    ring.slot += walk.on_slots;
    ring.parity ^= walk.slots_flip;
    if (in_slot >= walk.slot_pieces) in_slot -= walk.slot_pieces, ++ring.slot;
    if (ring.slot >= a.slots) ring.slot -= a.slots, ring.parity ^= 1;
    if constexpr (kNf4) {
      areas.slot += walk.on_areas + (next_unit - unit - walk.on_units);
      areas.parity ^= walk.areas_flip;
      if (areas.slot > a.slots) areas.slot -= a.slots + 1, areas.parity ^= 1;
    }
    if (unit_ends) part = next_piece;
    unit = next_unit;
    piece = next_piece;
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
  PieceCursor first = first_piece<kFormat>(a, m, s, place);
  stay_here(first.unit, first.piece, first.in_slot, first.ring.slot, first.ring.parity, first.fragment, first.x);
  Int8Row row{};
  if (row_there)
    row = *m.row(s.index - 1);
  else
    row = make_row<kFormat>(m, s, wait, words);
  if constexpr (kFormat == WeightFormat::int8) {
    if (lane_index() == 0) *m.row(s.index) = row;  // the same by each warp, before its sums
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
