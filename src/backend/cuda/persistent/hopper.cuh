// What the persistent kernel needs of sm_90 beyond device.cuh: barriers in shared memory that count bytes, copies of
// tensor boxes into it, fragments from it, and words between multiprocessors.
#pragma once

#include "backend/cuda/device.cuh"
#include "backend/cuda/persistent/step.h"
#include "backend/sampling.h"

// Where the kernel's code is compiled: for compute capability 9.0, and for the emulator.
#if defined(QB_CUDA_EMULATED)
#define QB_HOPPER
#include "backend/cuda/emulated/hopper_emulated.h"
#else
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1000
#define QB_HOPPER
#endif

namespace quantbench::QB_CUDA {

using SharedAddress = uint32_t;
QB_DEVICE SharedAddress shared_address(const void* p) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(p));
}

// --- chaos ----------------------------------------------------------------------------------------
// In a build with QB_CHAOS everything that publishes, waits or arms again first waits at random: one time in eight up
// to half a microsecond, one in a thousand up to five. So orders of events that are rare come often; what the kernel
// gives may not change. In other builds this is nothing.
QB_DEVICE void stagger() {
#if defined(QB_CHAOS)
  uint32_t start, timer;
  asm volatile("mov.u32 %0, %%clock;" : "=r"(start));
  asm volatile("mov.u32 %0, %%globaltimer_lo;" : "=r"(timer));  // no launch is as the one before it
  const auto random = static_cast<uint32_t>(
      mix64(uint64_t{start ^ timer << 12} << 32 | static_cast<uint32_t>(block_x()) << 8 | threadIdx.x / kWarpSize));
  constexpr uint32_t kShort = 1023, kLong = 8191;  // cycles
  const uint32_t cycles = random % 1024 == 0 ? random >> 16 & kLong : random % 8 == 0 ? random >> 16 & kShort : 0;
  for (uint32_t now = start; now - start < cycles;) asm volatile("mov.u32 %0, %%clock;" : "=r"(now)::"memory");
#endif
}

// --- barriers -------------------------------------------------------------------------------------
QB_DEVICE void barrier_init(SharedAddress barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
QB_DEVICE void barrier_expect(SharedAddress barrier, int bytes) {
  stagger();
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
QB_DEVICE void barrier_arrive(SharedAddress barrier) {
  stagger();
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
QB_DEVICE void barrier_arrive(SharedAddress barrier, int count) {  // for so many
  stagger();
  asm volatile("mbarrier.arrive.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
QB_DEVICE bool barrier_passed(SharedAddress barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(passed)
               : "r"(barrier), "r"(parity)
               : "memory");
  return passed != 0;
}
// A count of one thread's that others of the block wait for: what it read and wrote before is done when they see it.
QB_DEVICE void put_count(SharedAddress to, uint32_t count) {
  stagger();
  asm volatile("st.release.cta.shared.u32 [%0], %1;" ::"r"(to), "r"(count) : "memory");
}
QB_DEVICE uint32_t get_count(SharedAddress from) {
  uint32_t count;
  asm volatile("ld.acquire.cta.shared.u32 %0, [%1];" : "=r"(count) : "r"(from) : "memory");
  return count;
}
// Of the consumers alone.
QB_DEVICE void sync_consumers() {
  stagger();
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumerWarps * kWarpSize) : "memory");
}

// --- copies ---------------------------------------------------------------------------------------
// Box {kChunkBytes, 8 rows, slot_chunks, low and high} of a matrix: lies as [low and high][chunk][row][128 bytes], the
// 16-byte columns of row r at column ^ r.
QB_DEVICE void copy_box(SharedAddress to, const TensorMap* map, int row, int chunk, SharedAddress barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %2}], "
      "[%5];" ::"r"(to),
      "l"(map), "r"(0), "r"(row), "r"(chunk), "r"(barrier)
      : "memory");
}
QB_DEVICE void copy_bytes(SharedAddress to, const void* from, int bytes, SharedAddress barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

QB_DEVICE void copy16_async(SharedAddress to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
QB_DEVICE void wait_for_copies() {
  stagger();
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// One lane of a whole warp; code behind it is known to run in one alone.
QB_DEVICE bool is_elected() {
  uint32_t elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
  return elected != 0;
}

// --- registers ------------------------------------------------------------------------------------
// By all threads of four warps side by side: so many a thread from here on. Only in code for 9.0 itself (sm_90a).
template <int kCount>
QB_DEVICE void take_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}
template <int kCount>
QB_DEVICE void leave_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

// What these are is found out here and not later, where they are used.
template <typename Value>
QB_DEVICE void stay_here(Value& value) {
  asm volatile("" : "+r"(value));
}
template <typename... Values>
QB_DEVICE void stay_here(Values&... values) {
  (stay_here(values), ...);
}

// --- shared memory by address ---------------------------------------------------------------------
QB_DEVICE void load_fragments(uint32_t (&a)[4], SharedAddress from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(from));
}
// Volatile, so that what is loaded is on the way when it is asked for, not when the compiler finds it best.
QB_DEVICE uint32_t load_shared(SharedAddress from) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from));
  return v;
}

QB_DEVICE uint32_t load_shared_byte(SharedAddress from) {
  uint32_t v;
  asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(from));
  return v;
}
QB_DEVICE int load_shared_code(SharedAddress from) {
  int v;
  asm volatile("ld.shared.s8 %0, [%1];" : "=r"(v) : "r"(from));
  return v;
}
// Volatile, so that it stays where it is and what it loads takes no registers before.
QB_DEVICE Quad load_shared_floats(SharedAddress from) {
  Quad v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.at[0]), "=f"(v.at[1]), "=f"(v.at[2]), "=f"(v.at[3])
               : "r"(from));
  return v;
}

QB_DEVICE Pair load_shared_pair(SharedAddress from) {
  Pair v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(from));
  return v;
}
QB_DEVICE Bytes16 load_shared16(SharedAddress from) {
  Bytes16 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "r"(from));
  return v;
}

QB_DEVICE void prefetch_to_l1(const void* p) { asm volatile("prefetch.global.L1 [%0];" ::"l"(p)); }

// The block's shared memory, aligned as swizzled boxes want it.
QB_DEVICE std::byte* aligned_shared() {
  extern __shared__ __align__(1024) std::byte aligned_shared_memory[];
  return aligned_shared_memory;
}
// What was initialised is seen by the copies that arrive at it.
QB_DEVICE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// --- words between multiprocessors ----------------------------------------------------------------
QB_DEVICE void put_word(Tagged* to, Tagged word) {
  stagger();
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}
QB_DEVICE Tagged get_word(const Tagged* from) {
  Tagged v;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(from) : "memory");
  return v;
}
struct TwoWords {
  Tagged first, second;
};
QB_DEVICE TwoWords get_two_words(const Tagged* from) {
  TwoWords v;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(v.first), "=l"(v.second) : "l"(from) : "memory");
  return v;
}

// Read where it is used, not once for the whole kernel: what follows from it would live in registers all along.
QB_DEVICE int own_thread() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  __builtin_assume(index >= 0 && index < 1024);
  return index;
}
// Looks at a word or a barrier before that; seconds: what has not come by then never will.
constexpr uint32_t kMostPolls = 1u << 24;
// Ends the launch with an error, after saying in stuck[0 … 3] what waited where. Not a call: values that live across
// one have few registers to lie in.
QB_DEVICE void give_up(uint32_t* stuck, int what, int step) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};\nmembar.sys;\ntrap;" ::"l"(stuck), "r"(what),
               "r"(step), "r"(blockIdx.x), "r"(threadIdx.x)
               : "memory");
}

}  // namespace quantbench::QB_CUDA
#endif
