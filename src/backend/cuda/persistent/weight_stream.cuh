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
// A place in this block's stream of slots: units of steps, in order. What a slot needs is looked up once a step or a
// unit: the copies of a slot must follow one another faster than memory gives them.
struct Cursor {
  const Step* s;
  int step = -1, work = 0, units = 0, slot = 0, slots = 0;
  const TensorMap *low_map, *high_map;
  int low = 0, high = 0;  // weight rows
  int segment = 0;
  int slot_chunks = 0, chunk = 0, high_chunk = 0;  // chunk 0 of the high rows is chunk `high_chunk`
  bool is_nf4 = false;

  QB_DEVICE bool at_end(const PersistentArgs& a) const { return step >= a.step_count; }
  // To the first slot of the first unit from the next step on.
  QB_DEVICE void next_step(const PersistentArgs& a) {
    while (++step < a.step_count) {
      s = a.steps + step;
      if (s->kind != StepKind::product) continue;
      work = first_unit(*s);
      units = s->units;
      slots = s->slots;
      slot_chunks = s->slot_chunks;
      high_chunk = s->halved ? s->chunks : 0;
      is_nf4 = s->format == WeightFormat::nf4;
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
    slot = chunk = 0;
  }
  QB_DEVICE void next(const PersistentArgs& a) {
    chunk += slot_chunks;
    if (++slot < slots) return;
    work += blocks_x();
    if (work < units)
      find(a);
    else
      next_step(a);
  }
};

// Asks for the scales of a unit of nf4, which come with its first slot if that is its only one; and says how many bytes
// that slot's barrier has to wait for, slot_bytes of weights among them.
QB_DEVICE void produce_scales(const PersistentArgs& a, const Shared& m, const Cursor& at, int area, SharedAddress full,
                              int slot_bytes) {
  const Step& s = *at.s;
  const int row_blocks = s.k / 64, piece = 8 * row_blocks;
  const Weight &low = s.segments[at.segment].w, &high = s.segments[s.finish == Finish::gate ? 1 : at.segment].w;
  const bool halved = s.halved;
  const int low_block = at.low * row_blocks, high_block = at.high * row_blocks + (halved ? row_blocks / 2 : 0);
  const int low_nested = nested_bytes(low_block, piece), high_nested = nested_bytes(high_block, piece);
  *reinterpret_cast<ScaleHead*>(m.base + m.at.scales + area * a.scale_bytes) = {
      static_cast<uint32_t>(nested_offset(low_block)), low.offset,
      static_cast<uint32_t>(high_block - nested_start(halved ? low_block : high_block) * kNestedBlock), high.offset};
  const SharedAddress scales =
      shared_address(m.base + m.at.scales) + static_cast<SharedAddress>(area * a.scale_bytes) + kScaleHeadBytes;
  const SharedAddress nested = scales + 2 * static_cast<SharedAddress>(piece);
  const int bytes = halved ? piece + low_nested : 2 * piece + low_nested + high_nested;
  const bool own = at.slots > 1;
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

QB_DEVICE void produce(const PersistentArgs& a, const Shared& m) {
  Ring ring;
  int scale_area = 0;
  const int ring_slots = a.slots;
  const SharedAddress barriers = m.barriers(), data = shared_address(m.base + m.at.ring);
  Cursor at;
  at.next_step(a);
  Ring oldest;  // of the slots that are on the way
  int on_the_way = 0;
  for (; !at.at_end(a); at.next(a)) {
    const Wait wait{a.stuck, a.epoch, at.step};
    // What is asked for queues up in front of the words that blocks exchange: so not too much at once.
    if (on_the_way == a.slots_on_the_way) {
      wait_barrier(wait, barriers + static_cast<SharedAddress>(oldest.slot) * kSlotBarriers, oldest.parity);
      oldest.next(ring_slots);
      --on_the_way;
    }
    ++on_the_way;
    const SharedAddress full = barriers + static_cast<SharedAddress>(ring.slot) * kSlotBarriers;
    wait_barrier(wait, full + kEmpty, ring.parity ^ 1);
    const int box_bytes = 8 * kChunkBytes * at.slot_chunks;
    const SharedAddress to = data + static_cast<SharedAddress>(ring.slot * a.slot_bytes);
    if (at.is_nf4 && at.slot == 0) {
      produce_scales(a, m, at, scale_area, full, 2 * box_bytes);
      if (++scale_area > ring_slots) scale_area = 0;
    } else {
      barrier_expect(full, 2 * box_bytes);
    }
    copy_box(to, at.low_map, at.low, at.chunk, full);
    copy_box(to + box_bytes, at.high_map, at.high, at.chunk + at.high_chunk, full);
    ring.next(ring_slots);
  }
}

}  // namespace quantbench::QB_CUDA::persistent
#endif
