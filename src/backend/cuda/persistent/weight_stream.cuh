// A block's stream of weights: which units are its own, in which order their slots come, and the thread that copies
// them into the ring.
#pragma once

#include "backend/cuda/persistent/waits.cuh"

#if defined(QB_HOPPER)
namespace quantbench::QB_CUDA::persistent {

// The place in the ring.
struct Ring {
  int slot = 0;
  uint32_t parity = 0;
  QB_DEVICE void next(int slots) {
    if (++slot == slots) slot = 0, parity ^= 1;
  }
  QB_DEVICE void skip(int count, int slots) {
    for (slot += count; slot >= slots; slot -= slots) parity ^= 1;
  }
};

struct Tile {
  int low, high;
  bool rotates;
};
QB_DEVICE Tile tile_of(const Step& s, int segment, int unit) {
  if (s.finish == Finish::gate || s.halved) return {unit * 8, unit * 8, false};
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
QB_DEVICE int rows_of_unit(const Step& s) {  // of a matrix
  return s.finish == Finish::gate || s.halved ? kUnitRows / 2 : kUnitRows;
}
QB_DEVICE int first_unit(const Step& s) {
  return block_x() >= s.turn ? block_x() - s.turn : block_x() - s.turn + blocks_x();
}
QB_DEVICE int own_unit_count(const Step& s, int first) { return s.rounds + (first < s.rest ? 1 : 0); }
QB_DEVICE int find_segment(const Step& s, int* unit) {
  int segment = 0;
  while (segment + 1 < s.segment_count && s.finish != Finish::gate && *unit >= s.segments[segment].units) {
    *unit -= s.segments[segment++].units;
  }
  return segment;
}

// Copies a step to where a warp reads it, beside the one that it is at.
QB_DEVICE void fetch_step(const PersistentArgs& a, Step* to, int step) {
  constexpr int kPiece = 16;
  if (step >= a.step_count) return;
  for (int i = lane_index() * kPiece; i < static_cast<int>(sizeof(Step)); i += kWarpSize * kPiece) {
    copy16_async(shared_address(to) + static_cast<SharedAddress>(i),
                 reinterpret_cast<const std::byte*>(a.steps + step) + i);
  }
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

// What the producer leaves at the start of a unit's scales, of its low and of its high rows: the first row's first
// block, counted from the first block of the first nested scale that is there, and the offset.
struct alignas(kScaleHeadBytes) ScaleHead {
  uint32_t low_block;
  float low_offset;
  uint32_t high_block;
  float high_offset;
};
static_assert(sizeof(ScaleHead) == kScaleHeadBytes);

// --- the producer -----------------------------------------------------------------------------------
// What the slots of a unit are copied from.
struct UnitSource {
  const TensorMap* map;
  int segment;
  int low, high;  // weight rows
};
QB_DEVICE UnitSource find_source(const PersistentArgs& a, const Step& s, int unit) {
  const int segment = find_segment(s, &unit);
  const Tile tile = tile_of(s, segment, unit);
  const Segment& own = s.segments[segment];
  return {a.maps + (tile.rotates ? own.rotated_map : own.map), segment, tile.low, tile.high};
}

// Asks for the scales of a unit of nf4, which come with its first slot if that is its only one; and says how many bytes
// that slot's barrier has to wait for, slot_bytes of weights among them.
QB_DEVICE void produce_scales(const PersistentArgs& a, const Shared& m, const Step& s, const UnitSource& from, int area,
                              SharedAddress full, int slot_bytes) {
  const int row_blocks = s.k / 64, piece = 8 * row_blocks;
  const Weight &low = s.segments[from.segment].w, &high = s.segments[s.finish == Finish::gate ? 1 : from.segment].w;
  const bool halved = s.halved;
  const int low_block = from.low * row_blocks, high_block = from.high * row_blocks + (halved ? row_blocks / 2 : 0);
  const int low_nested = nested_bytes(low_block, piece), high_nested = nested_bytes(high_block, piece);
  *reinterpret_cast<ScaleHead*>(m.base + m.at.scales + area * a.scale_bytes) = {
      static_cast<uint32_t>(nested_offset(low_block)), low.offset,
      static_cast<uint32_t>(high_block - nested_start(halved ? low_block : high_block) * kNestedBlock), high.offset};
  const SharedAddress scales =
      shared_address(m.base + m.at.scales) + static_cast<SharedAddress>(area * a.scale_bytes) + kScaleHeadBytes;
  const SharedAddress nested = scales + 2 * static_cast<SharedAddress>(piece);
  const int bytes = halved ? piece + low_nested : 2 * piece + low_nested + high_nested;
  const bool own = s.slots > 1;
  const SharedAddress own_barrier = m.scale_barriers() + static_cast<SharedAddress>(area) * 8;
  const SharedAddress there = own ? own_barrier : full;
  barrier_expect(own_barrier, own ? bytes : 0);
  barrier_expect(full, slot_bytes + (own ? 0 : bytes));
  copy_bytes(scales, low.absmax8 + low_block, piece, there);
  copy_bytes(nested, low.nested_absmax + nested_start(low_block), low_nested, there);
  if (halved) return;
  copy_bytes(scales + piece, high.absmax8 + high_block, piece, there);
  copy_bytes(nested + kNestedBytes, high.nested_absmax + nested_start(high_block), high_nested, there);
}

// Where the stream stands.
struct SlotStream {
  Ring ring, oldest;  // oldest: of the slots that are on the way
  int on_the_way = 0, scale_area = 0;
};
// A step's slots. They must follow one another faster than memory gives them, so little is looked up for each.
QB_DEVICE void produce_step(const PersistentArgs& a, const Shared& m, const Step& s, SlotStream& stream) {
  const Wait wait{a.stuck, a.epoch, &s.index};
  const int ring_slots = a.slots, slot_bytes = a.slot_bytes, most_on_the_way = a.slots_on_the_way;
  const SharedAddress barriers = m.barriers(), data = shared_address(m.base + m.at.ring);
  const int units = s.units, slots = s.slots, slot_chunks = s.slot_chunks, box_bytes = kRowsChunkBytes * slot_chunks;
  const bool is_nf4 = s.format == WeightFormat::nf4, are_alike = s.finish != Finish::qkv;
  const int rows_on = blocks_x() * rows_of_unit(s);
  int unit = first_unit(s);
  if (unit >= units) return;
  UnitSource from = find_source(a, s, unit);
  while (true) {
    for (int slot = 0, chunk = 0; slot < slots; ++slot, chunk += slot_chunks) {
      // What is asked for queues up in front of the words that blocks exchange: so not too much at once.
      if (stream.on_the_way == most_on_the_way) {
        wait_barrier(wait, barriers + static_cast<SharedAddress>(stream.oldest.slot) * kTwoBarriers,
                     stream.oldest.parity);
        stream.oldest.next(ring_slots);
        --stream.on_the_way;
      }
      ++stream.on_the_way;
      const SharedAddress full = barriers + static_cast<SharedAddress>(stream.ring.slot) * kTwoBarriers;
      wait_barrier(wait, full + kEmpty, stream.ring.parity ^ 1);
      const SharedAddress to = data + static_cast<SharedAddress>(stream.ring.slot * slot_bytes);
      if (is_nf4 && slot == 0) {
        produce_scales(a, m, s, from, stream.scale_area, full, box_bytes);
        if (++stream.scale_area > ring_slots) stream.scale_area = 0;
      } else {
        barrier_expect(full, box_bytes);
      }
      copy_box(to, from.map, from.low, chunk, full);
      stream.ring.next(ring_slots);
    }
    unit += blocks_x();
    if (unit >= units) return;
    if (are_alike)
      from.low += rows_on, from.high += rows_on;
    else
      from = find_source(a, s, unit);
  }
}

// By one warp, of which one lane copies, always the same.
QB_DEVICE void produce(const PersistentArgs& a, const Shared& m) {
  Step* const steps = m.pointer<Step>(m.at.producer_steps);
  SlotStream stream;
  fetch_step(a, steps, 0);
  for (int i = 0; i < a.step_count; ++i) {
    wait_for_copies();
    sync_warp();  // the step is there, and the one before it is used up
    fetch_step(a, steps + (i + 1) % 2, i + 1);
    const Step& s = steps[i % 2];
    if (s.kind == StepKind::product && is_elected()) produce_step(a, m, s, stream);
  }
}

}  // namespace quantbench::QB_CUDA::persistent
#endif
