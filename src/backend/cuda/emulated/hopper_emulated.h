// The vocabulary of hopper.cuh on the host. Included by hopper.cuh only. Every look at a word or a barrier lets other
// threads go on, and copies arrive some time after they were asked for.
#pragma once

#include <cstring>

#include "backend/cuda/device.cuh"
#include "backend/cuda/persistent/step.h"

namespace quantbench::cuda_emulated {

using SharedAddress = uint32_t;  // from the start of the block's shared memory
QB_DEVICE SharedAddress shared_address(const void* p) {
  return static_cast<SharedAddress>(static_cast<const std::byte*>(p) - dynamic_shared());
}
QB_DEVICE std::byte* shared_pointer(SharedAddress address) { return dynamic_shared() + address; }
QB_DEVICE std::byte* aligned_shared() { return dynamic_shared(); }
QB_DEVICE int own_thread() { return thread_index(); }

QB_DEVICE void stagger() { fall_behind(); }

// --- barriers -------------------------------------------------------------------------------------
struct SharedBarrier {
  int8_t arrivals, pending;
  uint16_t phase;
  int32_t bytes;  // expected and not there yet
};
static_assert(sizeof(SharedBarrier) == sizeof(uint64_t));
QB_DEVICE SharedBarrier* barrier_at(SharedAddress address) {
  return reinterpret_cast<SharedBarrier*>(shared_pointer(address));
}
inline void settle(SharedBarrier* barrier) {
  note_progress();
  if (barrier->pending > 0 || barrier->bytes != 0) return;
  barrier->pending = barrier->arrivals;
  ++barrier->phase;
}
QB_DEVICE void barrier_init(SharedAddress barrier, int arrivals) {
  *barrier_at(barrier) = {static_cast<int8_t>(arrivals), static_cast<int8_t>(arrivals), 0, 0};
}
QB_DEVICE void publish_barriers() {}
QB_DEVICE void barrier_arrive(SharedAddress barrier, int count = 1) {
  SharedBarrier* const b = barrier_at(barrier);
  b->pending = static_cast<int8_t>(b->pending - count);
  if (b->pending < 0) abandon("more threads arrive at a barrier than it was made for");
  settle(b);
}
QB_DEVICE void barrier_expect(SharedAddress barrier, int bytes) {
  barrier_at(barrier)->bytes += bytes;
  barrier_arrive(barrier);
}
QB_DEVICE bool barrier_passed(SharedAddress barrier, uint32_t parity) {
  if (barrier_at(barrier)->phase % 2 != parity) return true;
  pause();
  return barrier_at(barrier)->phase % 2 != parity;
}
QB_DEVICE void put_count(SharedAddress to, uint32_t count) {
  stagger();
  store_aligned(shared_pointer(to), count);
  note_progress();
}
QB_DEVICE uint32_t get_count(SharedAddress from) {
  pause();
  return load_aligned<uint32_t>(shared_pointer(from));
}
QB_DEVICE void sync_consumers() { group_barrier(kConsumerWarps * kWarpSize); }

// --- copies ---------------------------------------------------------------------------------------
QB_DEVICE void copy_box(SharedAddress to, const TensorMap* map, int row, int chunk, SharedAddress barrier) {
  constexpr size_t kBoxRows = kUnitRows / 2, kColumn = sizeof(Bytes16);
  if (to % kSharedAlignment != 0) abandon("a box is not aligned as its swizzle wants it");
  std::byte* const base = shared_pointer(to);
  SharedBarrier* const b = barrier_at(barrier);
  const TensorMap m = *map;
  do_later([=] {
    const auto* const w = reinterpret_cast<const std::byte*>(m.words[0]);
    const size_t rows = m.words[1], chunks = m.words[2], box_chunks = m.words[3], high_bytes = m.words[4];
    for (size_t i = 0; i < 2 * box_chunks * kBoxRows; ++i) {
      const size_t high = i / kBoxRows / box_chunks, c = i / kBoxRows % box_chunks, r = i % kBoxRows;
      const size_t from_row = static_cast<size_t>(row) + r, from_chunk = static_cast<size_t>(chunk) + c;
      if (from_row >= rows || from_chunk >= chunks) abandon("a box goes beyond its matrix");
      for (size_t column = 0; column < kChunkBytes / kColumn; ++column) {
        std::memcpy(base + i * kChunkBytes + (column ^ r) * kColumn,
                    w + high * high_bytes + (from_row * chunks + from_chunk) * kChunkBytes + column * kColumn, kColumn);
      }
    }
    b->bytes -= static_cast<int32_t>(2 * box_chunks * kBoxRows * kChunkBytes);
    settle(b);
  });
}
QB_DEVICE void copy_bytes(SharedAddress to, const void* from, int bytes, SharedAddress barrier) {
  constexpr int kUnit = 16;
  if (to % kUnit != 0 || bytes % kUnit != 0 || reinterpret_cast<uintptr_t>(from) % kUnit != 0)
    abandon("a copy is not of whole 16 bytes");
  std::byte* const at = shared_pointer(to);
  SharedBarrier* const b = barrier_at(barrier);
  do_later([=] {
    std::memcpy(at, from, static_cast<size_t>(bytes));
    b->bytes -= bytes;
    settle(b);
  });
}
QB_DEVICE void copy16_async(SharedAddress to, const void* from) { copy16_async(shared_pointer(to), from, true); }
QB_DEVICE void wait_for_copies() {}

template <int kCount>
QB_DEVICE void take_registers() {}
template <int kCount>
QB_DEVICE void leave_registers() {}

// --- shared memory by address ---------------------------------------------------------------------
QB_DEVICE void load_fragments(uint32_t (&a)[4], SharedAddress from) { load_matrices(a, shared_pointer(from)); }
QB_DEVICE uint32_t load_shared(SharedAddress from) { return load_aligned<uint32_t>(shared_pointer(from)); }
QB_DEVICE bool is_elected() { return own_thread() % kWarpSize == 0; }
template <typename... Values>
QB_DEVICE void stay_here(Values&...) {}
QB_DEVICE uint32_t load_shared_byte(SharedAddress from) { return load_aligned<uint8_t>(shared_pointer(from)); }
QB_DEVICE Bytes16 load_shared16(SharedAddress from) { return load_aligned<Bytes16>(shared_pointer(from)); }
QB_DEVICE Pair load_shared_pair(SharedAddress from) { return load_aligned<Pair>(shared_pointer(from)); }
QB_DEVICE int load_shared_code(SharedAddress from) { return load_aligned<int8_t>(shared_pointer(from)); }
QB_DEVICE Quad load_shared_floats(SharedAddress from) { return load_aligned<Quad>(shared_pointer(from)); }
QB_DEVICE void prefetch_to_l1(const void*) {}

// --- words between multiprocessors ----------------------------------------------------------------
QB_DEVICE void put_word(Tagged* to, Tagged word) {
  *to = word;
  note_progress();
}
QB_DEVICE Tagged get_word(const Tagged* from) {
  pause();
  return *from;
}
struct TwoWords {
  Tagged first, second;
};
QB_DEVICE TwoWords get_two_words(const Tagged* from) {
  pause();
  return load_aligned<TwoWords>(from);
}
constexpr uint32_t kMostPolls = 10'000;  // of the tests' models no wait takes 2,000
QB_DEVICE void give_up(uint32_t*, int what, int step) {
  abandon("wait " + std::to_string(what) + " of step " + std::to_string(step) + " was given up");
}

}  // namespace quantbench::cuda_emulated
