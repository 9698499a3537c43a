// The words that kernels are written in: where a thread is, exchange within a warp, roundings, loads and matrix
// products. Kernels use these and nothing of CUDA directly, so that the same source also runs on the host (emulated/),
// where every kernel is tested without a GPU. QB_CUDA is the namespace of the build: cuda, or cuda_emulated.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(QB_CUDA_EMULATED)
#include "backend/cuda/emulated/device_emulated.h"
#else
#include <cuda_fp16.h>

#define QB_DEVICE __device__ __forceinline__
#define QB_DEVICE_CALL static __device__ __noinline__

namespace quantbench::cuda {

// --- where a thread is ---------------------------------------------------------------------------------------------
constexpr int kWarpSize = 32;
QB_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
QB_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
QB_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
QB_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
QB_DEVICE int block_z() { return static_cast<int>(blockIdx.z); }
QB_DEVICE int blocks_x() { return static_cast<int>(gridDim.x); }
QB_DEVICE int blocks_y() { return static_cast<int>(gridDim.y); }
QB_DEVICE int blocks_z() { return static_cast<int>(gridDim.z); }
QB_DEVICE int lane_index() { return thread_index() % kWarpSize; }
QB_DEVICE int warp_index() { return thread_index() / kWarpSize; }
QB_DEVICE void sync_block() { __syncthreads(); }
// The block's dynamic shared memory, aligned to 16 bytes.
QB_DEVICE std::byte* dynamic_shared() {
  extern __shared__ uint4 dynamic_shared_memory[];
  return reinterpret_cast<std::byte*>(dynamic_shared_memory);
}

QB_DEVICE void trap() { asm volatile("trap;"); }  // ends the launch as an error

// --- between kernels -------------------------------------------------------------------------------------------------
// Everything that the kernels before this one wrote may be read after it. Every kernel calls it in every thread, or the
// order would not be transitive.
QB_DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}
// The next kernel may start, up to its own wait_for_previous().
QB_DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}
// A kernel's arguments come into the caches of constants line by line: the first look at each costs as much as one at
// memory. Before the wait that is free.
template <typename Args>
QB_DEVICE void touch(const Args& a) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(uint32_t));
  const auto* const words = reinterpret_cast<const uint32_t*>(&a);
  uint32_t any = 0;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof a / sizeof(uint32_t)); i += kLine) any |= words[i];
  asm volatile("" ::"r"(any));
}
QB_DEVICE void prefetch_to_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// --- between blocks --------------------------------------------------------------------------------------------------
// What this thread wrote is seen before anything that it writes later.
QB_DEVICE void publish() { __threadfence(); }
// Counts one up; what this thread wrote before is seen by whoever sees the count. Returns the count before.
QB_DEVICE int arrive(int* counter) {
  __threadfence();
  const int before = atomicAdd(counter, 1);
  __threadfence();
  return before;
}
// Whole numbers in shared or device memory that many threads add to or raise at once: their order does not matter.
QB_DEVICE void add_to(uint32_t* sum, uint32_t value) { atomicAdd(sum, value); }
QB_DEVICE void add_to(uint64_t* sum, uint64_t value) {
  static_assert(sizeof(uint64_t) == sizeof(unsigned long long));
  atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(value));
}
QB_DEVICE void raise_to(uint32_t* most, uint32_t value) { atomicMax(most, value); }
QB_DEVICE void set_bits(uint32_t* word, uint32_t bits) { atomicOr(word, bits); }

// --- between the lanes of a warp: all 32 take part -------------------------------------------------------------------
template <typename T>
QB_DEVICE T from_lane_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <typename T>
QB_DEVICE T from_lane(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <typename T>
QB_DEVICE T from_lane_down(T value, int lanes) {  // the last lanes keep their own
  return __shfl_down_sync(0xffffffffu, value, static_cast<unsigned>(lanes));
}
QB_DEVICE uint32_t lanes_where(bool is) { return __ballot_sync(0xffffffffu, is); }
QB_DEVICE bool any_lane(bool is) { return __any_sync(0xffffffffu, is) != 0; }
QB_DEVICE void sync_warp() { __syncwarp(); }
QB_DEVICE uint32_t warp_max(uint32_t value) {
#if __CUDA_ARCH__ >= 800
  return __reduce_max_sync(0xffffffffu, value);
#else
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value = max(value, from_lane_xor(value, mask));
  return value;
#endif
}

// --- numbers: each rounds once, to nearest even, and is never contracted ---------------------------------------------
using Half2 = uint32_t;  // two fp16 numbers, the first in the low half
QB_DEVICE float float_of_half(uint16_t h) { return __half2float(__ushort_as_half(h)); }
QB_DEVICE uint16_t half_of_float(float x) { return __half_as_ushort(__float2half_rn(x)); }
QB_DEVICE Half2 halves(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return __half_as_ushort(__low2half(both)) | uint32_t{__half_as_ushort(__high2half(both))} << 16;
}
QB_DEVICE float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }
QB_DEVICE uint32_t bits_of_float(float x) { return __float_as_uint(x); }
QB_DEVICE float inverse_sqrt(float x) { return rsqrtf(x); }
QB_DEVICE double inverse_sqrt(double x) { return rsqrt(x); }
// sum + Σ of the four products of signed bytes.
QB_DEVICE int32_t dot_codes(uint32_t a, uint32_t b, int32_t sum) {
  return __dp4a(static_cast<int>(a), static_cast<int>(b), sum);
}
// The same of unsigned bytes.
QB_DEVICE uint32_t dot_bytes(uint32_t a, uint32_t b, uint32_t sum) { return __dp4a(a, b, sum); }
QB_DEVICE int lowest_bit(uint32_t mask) { return __ffs(static_cast<int>(mask)) - 1; }
QB_DEVICE int bit_count(uint32_t mask) { return __popc(mask); }
QB_DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
QB_DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
QB_DEVICE float div_rn(float a, float b) { return __fdiv_rn(a, b); }
QB_DEVICE float divide(float a, float b) { return __fdividef(a, b); }  // to two units in the last place; a / ∞ = 0
QB_DEVICE float reciprocal_rn(float x) { return __frcp_rn(x); }
// The larger of both low and of both high halves, as whole numbers.
QB_DEVICE uint32_t larger_halves(uint32_t a, uint32_t b) { return __vmaxu2(a, b); }
QB_DEVICE int round_to_int(float x) { return __float2int_rn(x); }
QB_DEVICE float power_of_two(float x) {  // 2^x to two units in the last place; 0 for -∞
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// --- memory: addresses are multiples of the size ---------------------------------------------------------------------
struct alignas(16) Bytes16 {
  uint32_t word[4];
};
struct alignas(8) Bytes8 {
  uint32_t word[2];
};
// Weights: read once, so they need no place in the first-level cache.
QB_DEVICE Bytes16 load16_once(const void* p) {
  Bytes16 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(p));
  return v;
}
QB_DEVICE Bytes8 load8_once(const void* p) {
  Bytes8 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.word[0]), "=r"(v.word[1]) : "l"(p));
  return v;
}
QB_DEVICE Bytes16 load16(const void* p) {
  const uint4 v = *static_cast<const uint4*>(p);
  return {{v.x, v.y, v.z, v.w}};
}
QB_DEVICE Bytes8 load8(const void* p) {
  const uint2 v = *static_cast<const uint2*>(p);
  return {{v.x, v.y}};
}
QB_DEVICE void store16(void* p, const Bytes16& v) {
  *static_cast<uint4*>(p) = {v.word[0], v.word[1], v.word[2], v.word[3]};
}
QB_DEVICE void store8(void* p, const Bytes8& v) { *static_cast<uint2*>(p) = {v.word[0], v.word[1]}; }
// Copies 16 bytes into shared memory while the thread goes on (from compute capability 8.0), or zeros unless `real`.
QB_DEVICE void copy16_async(void* shared, const void* from, bool real) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(from), "r"(real ? 16 : 0)
      : "memory");
#else
  *static_cast<uint4*>(shared) = real ? *static_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
#endif
}
// The same of four bytes.
QB_DEVICE void copy4_async(void* shared, const void* from) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(from)
      : "memory");
#else
  *static_cast<uint32_t*>(shared) = *static_cast<const uint32_t*>(from);
#endif
}
// The copies asked for since the last call are one group.
QB_DEVICE void close_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until this thread's groups are there but for the last kLeft; other threads see them after sync_block().
template <int kLeft>
QB_DEVICE void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}
// What another block wrote during this kernel: not from the first-level cache.
QB_DEVICE float load_fresh(const float* p) { return __ldcg(p); }
QB_DEVICE int load_fresh(const int* p) { return __ldcg(p); }

// --- matrix products of a warp ---------------------------------------------------------------------------------------
// Four matrices of 8 × 8 fp16 numbers from shared memory: lane 8i + r gives row r of matrix i, 16 bytes. Lane 4g + t
// gets (g, 2t) and (g, 2t + 1) of each; transposed, (2t, g) and (2t + 1, g).
QB_DEVICE void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
QB_DEVICE void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
// Lane 4g + t. c += A·B with A [16, K] and B [K, 8]: c holds rows g, g + 8 of columns 2t, 2t + 1 as {(g, 2t), (g, 2t +
// 1), (g + 8, 2t), (g + 8, 2t + 1)}. mma_f16, K = 16: a = {row g, row g + 8} at k = 2t, 2t + 1, then both at k + 8; b =
// column g at the same k. mma_s8, K = 32: the same with four numbers at k = 4t …, then at k + 16. Since the order of k
// within a product is free, callers take what lies together in memory, for A and B alike.
QB_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  for (int part = 0; part < 2; ++part) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2 * part]), "r"(a[2 * part + 1]), "r"(b[part]));
  }
#endif
}
QB_DEVICE void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  for (int i = 0; i < 4; ++i) {  // eight rows of A and 16 of k at a time
    const int rows = i % 2, part = i / 2;
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[2 * rows]), "+r"(c[2 * rows + 1])
        : "r"(a[i]), "r"(b[part]));
  }
#endif
}

}  // namespace quantbench::cuda
#endif

namespace quantbench::QB_CUDA {

struct alignas(8) Pair {
  float x, y;
};
struct alignas(16) Quad {
  float at[4];
};

QB_DEVICE float float_of_bf16(uint16_t b) { return float_of_bits(uint32_t{b} << 16); }
// Two bf16 numbers as fp16: exact from 2⁻¹⁷ up to 65280, what is smaller rounded to a multiple of 2⁻²⁴.
QB_DEVICE Half2 halves_of_bf16s(uint32_t pair) {
  return halves(float_of_bits(pair << 16), float_of_bits(pair & 0xffff0000u));
}

// The same in all lanes, summed in an order that does not depend on the lane.
template <typename T>
QB_DEVICE T warp_sum(T value) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value += from_lane_xor(value, mask);
  return value;
}
QB_DEVICE float warp_max(float value) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const float other = from_lane_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

}  // namespace quantbench::QB_CUDA
