// What every part of the persistent kernel stands on: where things lie in shared memory, and how one waits for another.
#pragma once

#include "backend/cuda/persistent/hopper.cuh"

#if defined(QB_HOPPER)
namespace quantbench::QB_CUDA::persistent {

constexpr int kConsumers = kConsumerWarps * kWarpSize;

QB_DEVICE int thread_index() { return own_thread(); }
QB_DEVICE int lane_index() { return thread_index() % kWarpSize; }
QB_DEVICE int warp_index() { return thread_index() / kWarpSize; }

// LLM.int8: what beside the codes belongs to a row.
struct Int8Row {
  float absmax;
  uint32_t has_outliers;  // 1: their columns are the bits set in m.outliers
};

// A barrier for full and one for empty a slot; a buffer of parts has a count instead of the latter.
constexpr SharedAddress kTwoBarriers = 16, kEmpty = 8;
struct Shared {
  const SharedLayout& at;
  std::byte* base;
  template <typename T>
  QB_DEVICE T* pointer(uint32_t offset) const {
    return reinterpret_cast<T*>(base + offset);
  }
  QB_DEVICE SharedAddress barriers() const { return shared_address(base + at.barriers); }
  QB_DEVICE SharedAddress scale_barriers() const { return shared_address(base + at.scale_barriers); }
  QB_DEVICE SharedAddress part_barriers() const { return shared_address(base + at.part_barriers); }
  // That a finisher's best is there, behind those of the parts.
  QB_DEVICE SharedAddress best_barrier() const { return part_barriers() + kPartBuffers * kTwoBarriers; }
  QB_DEVICE Int8Row* row(int step) const { return pointer<Int8Row>(at.rows) + step % kStepsAtOnce; }
  QB_DEVICE int* token() const { return pointer<int>(at.token); }
  QB_DEVICE int* position() const { return token() + 1; }
  QB_DEVICE int* sequence() const { return token() + 2; }
};

struct Wait {
  uint32_t* stuck;
  uint32_t epoch;
  const int* step;  // which, should it never end
};
// A wait that never ends is a fault of this kernel; it says where and ends the launch with an error.
QB_DEVICE void wait_barrier(const Wait& w, SharedAddress barrier, uint32_t parity) {
  stagger();
  for (uint32_t i = 0; !barrier_passed(barrier, parity); ++i) {
    if (i > kMostPolls) give_up(w.stuck, 1, *w.step);
  }
}
// Until a count in shared memory, which only rises, is `least`.
QB_DEVICE void wait_count(const Wait& w, SharedAddress count, uint32_t least) {
  stagger();
  for (uint32_t i = 0; static_cast<int32_t>(get_count(count) - least) < 0; ++i) {
    if (i > kMostPolls) give_up(w.stuck, 1, *w.step);
  }
}
QB_DEVICE uint32_t wait_word(const Wait& w, const Tagged* from) {
  stagger();
  for (uint32_t i = 0;; ++i) {
    const Tagged word = get_word(from);
    if (static_cast<uint32_t>(word >> 32) == w.epoch) return static_cast<uint32_t>(word);
    if (i > kMostPolls) give_up(w.stuck, 2, *w.step);
  }
}
// Until both words, which were read once, are of this launch.
QB_DEVICE void wait_two(const Wait& w, const Tagged* from, TwoWords* words) {
  stagger();
  for (uint32_t i = 0;
       static_cast<uint32_t>(words->first >> 32) != w.epoch || static_cast<uint32_t>(words->second >> 32) != w.epoch;
       ++i) {
    *words = get_two_words(from);
    if (i > kMostPolls) give_up(w.stuck, 3, *w.step);
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
QB_DEVICE Tagged tagged(uint32_t value, uint32_t epoch) { return uint64_t{epoch} << 32 | value; }
QB_DEVICE float as_float(uint32_t bits) { return float_of_bits(bits); }
QB_DEVICE float half_low(Half2 pair) { return float_of_half(static_cast<uint16_t>(pair)); }
QB_DEVICE float half_high(Half2 pair) { return float_of_half(static_cast<uint16_t>(pair >> 16)); }

}  // namespace quantbench::QB_CUDA::persistent
#endif
