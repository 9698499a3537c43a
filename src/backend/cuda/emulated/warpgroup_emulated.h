// The vocabulary of warpgroup.cuh on the host. Included by warpgroup.cuh only. Products are done when they are asked
// for.
#pragma once

#include "backend/cuda/persistent/hopper.cuh"

namespace quantbench::cuda_emulated {

constexpr int kWarpgroup = 4 * kWarpSize;
constexpr int kProductColumns = 256;
constexpr int kProductSums = kProductColumns / 2;

// Byte `byte` of row `row` of an operand that begins `from` bytes into the block's shared memory: the swizzle is one of
// addresses.
QB_DEVICE const std::byte* operand_byte(SharedAddress from, int row, int byte) {
  const SharedAddress plain = from + static_cast<SharedAddress>(row * 128 + byte);
  return shared_pointer(plain ^ (plain >> 7 & 7) << 4);
}
template <bool kInt8, int kColumns>
QB_DEVICE void product_of_shared(uint32_t (&sums)[kColumns / 2], SharedAddress x, SharedAddress w, bool adds) {
  constexpr int kBytes = 32, kCount = kInt8 ? kBytes : kBytes / 2;
  const int g = lane_index() / 4, t = lane_index() % 4;
  const auto load = [](SharedAddress from, int row, float(&to)[kCount]) {
    for (int i = 0; i < kCount; ++i) {
      if constexpr (kInt8) {
        to[i] = static_cast<float>(load_aligned<int8_t>(operand_byte(from, row, i)));
      } else {
        to[i] = float_of_half(load_aligned<uint16_t>(operand_byte(from, row, 2 * i)));
      }
    }
  };
  float rows[2][kCount], column[kCount];
  for (int h = 0; h < 2; ++h) load(x, warp_index() % 4 * 16 + g + 8 * h, rows[h]);
  for (int j = 0; j < kColumns / 8; ++j) {
    for (int i = 0; i < 2; ++i) {
      load(w, 8 * j + 2 * t + i, column);
      for (int h = 0; h < 2; ++h) {
        uint32_t& sum = sums[4 * j + 2 * h + i];
        float own = 0;  // of 32 products of codes: exact
        if (!kInt8 && adds) own = float_of_bits(sum);
        for (int c = 0; c < kCount; ++c) own += rows[h][c] * column[c];
        sum = kInt8 ? static_cast<uint32_t>(static_cast<int32_t>(own) + (adds ? static_cast<int32_t>(sum) : 0))
                    : bits_of_float(own);
      }
    }
  }
}
template <bool kInt8>
QB_DEVICE void warpgroup_product(uint32_t (&sums)[kProductSums], SharedAddress x, SharedAddress w, bool adds) {
  product_of_shared<kInt8, kProductColumns>(sums, x, w, adds);
}
template <int kColumns>
QB_DEVICE void warpgroup_product_of(uint32_t (&sums)[kColumns / 2], SharedAddress x, SharedAddress w, bool adds) {
  product_of_shared<false, kColumns>(sums, x, w, adds);
}
template <int kColumns>
QB_DEVICE void warpgroup_product_of_registers(uint32_t (&sums)[kColumns / 2], const uint32_t (&a)[4], SharedAddress w,
                                              bool adds) {
  constexpr int kCount = 16;
  struct Left {
    float numbers[8];
  } mine;
  for (int i = 0; i < 8; ++i) mine.numbers[i] = float_of_half(static_cast<uint16_t>(a[i / 2] >> (i % 2 * 16)));
  const std::byte* const all = exchange_bytes(&mine, sizeof mine);
  const int g = lane_index() / 4, t = lane_index() % 4;
  float rows[2][kCount], column[kCount];
  for (int h = 0; h < 2; ++h) {
    for (int k = 0; k < kCount; ++k)  // of lane k / 2 % 4 of the row
      rows[h][k] = exchanged<Left>(all, g * 4 + k % 8 / 2).numbers[(h + k / 8 * 2) * 2 + k % 2];
  }
  for (int j = 0; j < kColumns / 8; ++j) {
    for (int i = 0; i < 2; ++i) {
      for (int k = 0; k < kCount; ++k)
        column[k] = float_of_half(load_aligned<uint16_t>(operand_byte(w, 8 * j + 2 * t + i, 2 * k)));
      for (int h = 0; h < 2; ++h) {
        uint32_t& sum = sums[4 * j + 2 * h + i];
        float own = adds ? float_of_bits(sum) : 0;
        for (int k = 0; k < kCount; ++k) own += rows[h][k] * column[k];
        sum = bits_of_float(own);
      }
    }
  }
}
QB_DEVICE void open_products() {}
QB_DEVICE void close_products() {}
template <int kLeft>
QB_DEVICE void wait_for_products() {}

QB_DEVICE void copy_rows(SharedAddress to, const TensorMap* map, int row, int column, SharedAddress barrier) {
  if (to % kSharedAlignment != 0) abandon("a box is not aligned as its swizzle wants it");
  std::byte* const base = shared_pointer(to);
  SharedBarrier* const b = barrier_at(barrier);
  const TensorMap m = *map;
  do_later([=] {
    const auto* const from = reinterpret_cast<const std::byte*>(m.words[0]);
    const size_t rows = m.words[1], row_bytes = m.words[2], stride = m.words[3], box_rows = m.words[4];
    const size_t number = m.words[5], first = static_cast<size_t>(column) * number;
    constexpr size_t kLine = 128, kColumn = 16;
    for (size_t r = 0; r < box_rows; ++r) {
      for (size_t c = 0; c < kLine; ++c) {
        const size_t from_row = static_cast<size_t>(row) + r;
        const bool real = from_row < rows && first + c < row_bytes;
        base[r * kLine + ((c / kColumn ^ r % 8) * kColumn) + c % kColumn] =
            real ? from[from_row * stride + first + c] : std::byte{0};
      }
    }
    b->bytes -= static_cast<int32_t>(box_rows * kLine);
    settle(b);
  });
}

template <int kThreads>
QB_DEVICE void sync_first() {
  group_barrier(kThreads);
}
template <int kBlocks, int kThreads>
QB_DEVICE void sync_cluster() {
  cluster_barrier(kBlocks, kThreads);
}
template <int kBlocks>
QB_DEVICE void put16_in_cluster(int rank, SharedAddress to, const Bytes16& value) {
  store_aligned(shared_of_block(block_x() / kBlocks * kBlocks + rank) + to, value);
}

}  // namespace quantbench::cuda_emulated
