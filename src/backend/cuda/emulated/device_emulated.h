// The vocabulary of device.cuh on the host: what each word means, lane by lane. Included by device.cuh only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cuda/emulated/emulator.h"
#include "core/half.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static thread_local
#define QB_DEVICE inline
#define QB_DEVICE_CALL inline

namespace quantbench::cuda_emulated {

// --- where a thread is ---------------------------------------------------------------------------------------------
QB_DEVICE int thread_index() { return static_cast<int>(current_thread().thread.x); }
QB_DEVICE int block_threads() { return static_cast<int>(current_thread().block_size.x); }
QB_DEVICE int block_x() { return static_cast<int>(current_thread().block.x); }
QB_DEVICE int block_y() { return static_cast<int>(current_thread().block.y); }
QB_DEVICE int block_z() { return static_cast<int>(current_thread().block.z); }
QB_DEVICE int blocks_x() { return static_cast<int>(current_thread().grid_size.x); }
QB_DEVICE int blocks_y() { return static_cast<int>(current_thread().grid_size.y); }
QB_DEVICE int blocks_z() { return static_cast<int>(current_thread().grid_size.z); }
QB_DEVICE int lane_index() { return thread_index() % kWarpSize; }
QB_DEVICE int warp_index() { return thread_index() / kWarpSize; }
QB_DEVICE void sync_block() { block_barrier(); }

QB_DEVICE void trap() { abandon("a kernel ended itself"); }

// --- between kernels and blocks: they run one after the other here
// -----------------------------------------------------
QB_DEVICE void wait_for_previous() {}
QB_DEVICE void let_next_start() {}
template <typename Args>
QB_DEVICE void touch(const Args&) {}
QB_DEVICE void prefetch_to_l2(const void*) {}
QB_DEVICE void publish() {}
QB_DEVICE int arrive(int* counter) { return (*counter)++; }
template <typename T>
QB_DEVICE void add_to(T* sum, T value) {
  *sum += value;
}
QB_DEVICE void raise_to(uint32_t* most, uint32_t value) { *most = std::max(*most, value); }
QB_DEVICE void set_bits(uint32_t* word, uint32_t bits) { *word |= bits; }
QB_DEVICE float load_fresh(const float* p) { return *p; }
QB_DEVICE int load_fresh(const int* p) { return *p; }

// --- between the lanes of a warp: all 32 take part -------------------------------------------------------------------
template <typename T>
QB_DEVICE T from_lane_xor(T value, int mask) {
  const std::byte* const all = exchange_bytes(&value, sizeof value);
  return exchanged<T>(all, lane_index() ^ mask);
}
template <typename T>
QB_DEVICE T from_lane(T value, int lane) {
  return exchanged<T>(exchange_bytes(&value, sizeof value), lane);
}
template <typename T>
QB_DEVICE T from_lane_down(T value, int lanes) {
  const int from = lane_index() + lanes;
  return from_lane(value, from < kWarpSize ? from : lane_index());
}
QB_DEVICE uint32_t lanes_where(bool is) {
  const std::byte* const all = exchange_bytes(&is, sizeof is);
  uint32_t mask = 0;
  for (int i = 0; i < kWarpSize; ++i) mask |= uint32_t{exchanged<bool>(all, i)} << i;
  return mask;
}
QB_DEVICE bool any_lane(bool is) { return lanes_where(is) != 0; }
QB_DEVICE void sync_warp() {
  const bool nothing = false;
  exchange_bytes(&nothing, sizeof nothing);
}
QB_DEVICE uint32_t warp_max(uint32_t value) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value = std::max(value, from_lane_xor(value, mask));
  return value;
}

// --- numbers -------------------------------------------------------------------------------------------------------
using Half2 = uint32_t;  // two fp16 numbers, the first in the low half
QB_DEVICE float float_of_half(uint16_t h) { return to_float(f16{h}); }
QB_DEVICE uint16_t half_of_float(float x) { return to_f16(x).bits; }
QB_DEVICE Half2 halves(float low, float high) { return half_of_float(low) | uint32_t{half_of_float(high)} << 16; }
QB_DEVICE float float_of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
QB_DEVICE uint32_t bits_of_float(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
QB_DEVICE float inverse_sqrt(float x) { return 1 / std::sqrt(x); }
QB_DEVICE double inverse_sqrt(double x) { return 1 / std::sqrt(x); }
QB_DEVICE uint32_t dot_bytes(uint32_t a, uint32_t b, uint32_t sum) {
  for (int shift = 0; shift < 32; shift += 8) sum += (a >> shift & 255) * (b >> shift & 255);
  return sum;
}
QB_DEVICE int32_t dot_codes(uint32_t a, uint32_t b, int32_t sum) {
  for (int shift = 0; shift < 32; shift += 8)
    sum += int32_t{static_cast<int8_t>(a >> shift)} * static_cast<int8_t>(b >> shift);
  return sum;
}
QB_DEVICE int lowest_bit(uint32_t mask) { return __builtin_ctz(mask); }
QB_DEVICE int bit_count(uint32_t mask) { return __builtin_popcount(mask); }
QB_DEVICE float mul_rn(float a, float b) { return a * b; }
QB_DEVICE float add_rn(float a, float b) { return a + b; }
QB_DEVICE float div_rn(float a, float b) { return a / b; }
QB_DEVICE float divide(float a, float b) { return a / b; }
QB_DEVICE float reciprocal_rn(float x) { return 1 / x; }
QB_DEVICE uint32_t larger_halves(uint32_t a, uint32_t b) {
  return std::max(a & 0xffff, b & 0xffff) | std::max(a & 0xffff0000, b & 0xffff0000);
}
QB_DEVICE int round_to_int(float x) { return static_cast<int>(std::nearbyintf(x)); }
QB_DEVICE float power_of_two(float x) { return std::exp2(x); }

// --- memory ----------------------------------------------------------------------------------------------------------
struct alignas(16) Bytes16 {
  uint32_t word[4];
};
struct alignas(8) Bytes8 {
  uint32_t word[2];
};
template <typename T>
QB_DEVICE T load_aligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) __builtin_trap();  // as the device would
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
QB_DEVICE Bytes16 load16_once(const void* p) { return load_aligned<Bytes16>(p); }
QB_DEVICE Bytes8 load8_once(const void* p) { return load_aligned<Bytes8>(p); }
QB_DEVICE Bytes16 load16(const void* p) { return load_aligned<Bytes16>(p); }
QB_DEVICE Bytes8 load8(const void* p) { return load_aligned<Bytes8>(p); }
template <typename T>
QB_DEVICE void store_aligned(void* p, const T& value) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) __builtin_trap();
  std::memcpy(p, &value, sizeof value);
}
QB_DEVICE void store16(void* p, const Bytes16& v) { store_aligned(p, v); }
QB_DEVICE void store8(void* p, const Bytes8& v) { store_aligned(p, v); }
QB_DEVICE void copy16_async(void* shared, const void* from, bool real) {
  store_aligned(shared, real ? load_aligned<Bytes16>(from) : Bytes16{});
}
QB_DEVICE void copy4_async(void* shared, const void* from) { std::memcpy(shared, from, sizeof(uint32_t)); }
QB_DEVICE void close_copies() {}
template <int kLeft>
QB_DEVICE void wait_for_copies() {}

// --- matrix products of a warp ---------------------------------------------------------------------------------------
template <bool kTransposed>
QB_DEVICE void load_four_matrices(uint32_t (&to)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % sizeof(Bytes16) != 0) __builtin_trap();
  const std::byte* const all = exchange_bytes(&row, sizeof row);
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int i = 0; i < 4; ++i) {
    uint32_t pair = 0;
    for (int j = 0; j < 2; ++j) {
      const int from = kTransposed ? 2 * t + j : g, column = kTransposed ? g : 2 * t + j;
      uint16_t half;
      std::memcpy(&half, exchanged<const std::byte*>(all, 8 * i + from) + column * sizeof half, sizeof half);
      pair |= uint32_t{half} << (16 * j);
    }
    to[i] = pair;
  }
}
QB_DEVICE void load_matrices(uint32_t (&to)[4], const void* row) { load_four_matrices<false>(to, row); }
QB_DEVICE void load_matrices_transposed(uint32_t (&to)[4], const void* row) { load_four_matrices<true>(to, row); }

struct HalfOperands {  // in fp32, so that each number is converted once
  float a[8], b[4];
};
QB_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  HalfOperands mine;
  for (int i = 0; i < 8; ++i) mine.a[i] = float_of_half(static_cast<uint16_t>(a[i / 2] >> (i % 2 * 16)));
  for (int i = 0; i < 4; ++i) mine.b[i] = float_of_half(static_cast<uint16_t>(b[i / 2] >> (i % 2 * 16)));
  const std::byte* const all = exchange_bytes(&mine, sizeof mine);
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    float sum = c[i];
    for (int owner = 0; owner < 4; ++owner) {
      const HalfOperands& from_a = exchanged<HalfOperands>(all, row % 8 * 4 + owner);
      const HalfOperands& from_b = exchanged<HalfOperands>(all, column * 4 + owner);
      for (int k = 0; k < 4; ++k) sum += from_a.a[(row / 8 + k / 2 * 2) * 2 + k % 2] * from_b.b[k];
    }
    c[i] = sum;
  }
}
struct ByteOperands {
  uint32_t a[4], b[2];
};
QB_DEVICE void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const ByteOperands mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const std::byte* const all = exchange_bytes(&mine, sizeof mine);
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int k = 0; k < 32; ++k) {
      const int part = k / 16, owner = k % 16 / 4, shift = k % 4 * 8;
      const uint32_t wa = exchanged<ByteOperands>(all, row % 8 * 4 + owner).a[row / 8 + 2 * part];
      const uint32_t wb = exchanged<ByteOperands>(all, column * 4 + owner).b[part];
      c[i] += int32_t{static_cast<int8_t>(wa >> shift)} * static_cast<int8_t>(wb >> shift);
    }
  }
}

}  // namespace quantbench::cuda_emulated
