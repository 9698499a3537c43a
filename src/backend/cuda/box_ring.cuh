// The ring in shared memory that products on Hopper's tensor cores have their operands in: one warp asks for boxes,
// slot by slot, and warpgroups multiply what has arrived.
#pragma once

#include "backend/cuda/warpgroup.cuh"

namespace quantbench::QB_CUDA {

constexpr int kSlots = 4;

#if defined(QB_WARPGROUPS)

struct Barriers {
  SharedAddress base;
  QB_DEVICE SharedAddress full(int slot) const { return base + static_cast<SharedAddress>(8 * slot); }
  QB_DEVICE SharedAddress empty(int slot) const { return base + static_cast<SharedAddress>(8 * (kSlots + slot)); }
};
// By one thread: each slot is filled by one and read by so many.
QB_DEVICE void open_ring(const Barriers& barriers, int readers) {
  for (int slot = 0; slot < kSlots; ++slot) {
    barrier_init(barriers.full(slot), 1);
    barrier_init(barriers.empty(slot), readers);
  }
  publish_barriers();
}
QB_DEVICE void wait_for(SharedAddress barrier, uint32_t parity) {
  while (!barrier_passed(barrier, parity)) {
  }
}
// Where in the ring a thread is.
struct Turn {
  int slot = 0;
  uint32_t parity = 0;
  QB_DEVICE void next() {
    if (++slot == kSlots) slot = 0, parity ^= 1;
  }
};

#endif

}  // namespace quantbench::QB_CUDA
