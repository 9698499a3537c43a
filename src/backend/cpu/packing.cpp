#include "backend/cpu/packing.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/kernels.h"

namespace quantbench::cpu {
namespace {

constexpr size_t kBytesAtOnce = size_t{1} << 20;  // that a thread fills: first touch puts a page near its thread

struct Packer {
  Role role;
  HostMemory& memory;
  ThreadPool& pool;

  Matrix operator()(const HostF16& m) const { return F16Matrix{m.n, m.k, read_rows<f16>(m)}; }
  Matrix operator()(const HostBf16& m) const { return Bf16Matrix{m.n, m.k, read_rows<bf16>(m)}; }
  Matrix operator()(const HostF32& m) const { return F32Matrix{m.n, m.k, read_rows<float>(m)}; }
  Matrix operator()(const HostInt8& m) const {
    return Int8Matrix{m.n, m.k, copy(codes_use(role), m.codes), copy(Use::scales, m.absmax)};
  }

  Matrix operator()(const HostNf4& m) const {
    Nf4Matrix out{m.n, m.k};
    out.double_quantized = m.absmax.empty();
    if (out.double_quantized) {
      out.nested_absmax = copy(Use::scales, m.nested_absmax);
      out.offset = m.offset;
    }
    if (m.k % kNf4Block != 0) {  // blocks straddle rows: bitsandbytes' order as it is
      out.w = copy(codes_use(role), m.codes);
      if (out.double_quantized)
        out.absmax8 = copy(Use::scales, m.absmax8);
      else
        out.absmax = copy(Use::scales, m.absmax);
      return out;
    }
    constexpr size_t kBytesPerDword = 4;  // eight codes of a row stay together
    out.w = interleave(codes_use(role), m.codes.data(), m, static_cast<size_t>(m.k) / 2, kBytesPerDword);
    const size_t blocks = static_cast<size_t>(m.k) / kNf4Block;
    if (out.double_quantized) {
      out.absmax8 = interleave(Use::scales, m.absmax8.data(), m, blocks, sizeof(uint8_t));
    } else {
      const auto* from = reinterpret_cast<const uint8_t*>(m.absmax.data());
      const size_t row_bytes = blocks * sizeof(float);
      out.absmax = reinterpret_cast<const float*>(interleave(Use::scales, from, m, row_bytes, sizeof(float)));
    }
    return out;
  }

 private:
  template <typename T, typename Host>
  const T* read_rows(const Host& m) const {
    const size_t n = static_cast<size_t>(m.n), k = static_cast<size_t>(m.k);
    T* const w = memory.keep_array<T>(codes_use(role), n * k);
    const size_t grain = std::max<size_t>(1, kBytesAtOnce / std::max<size_t>(1, k * sizeof(T)));
    pool.for_chunks(n, grain, [&](size_t begin, size_t end, int) {
      m.read(static_cast<int>(begin), static_cast<int>(end - begin), w + begin * k);
    });
    return w;
  }

  template <typename T>
  const T* copy(Use use, std::span<const T> from) const {
    T* const to = memory.keep_array<T>(use, from.size());
    pool.for_chunks(from.size_bytes(), kBytesAtOnce, [&](size_t begin, size_t end, int) {
      std::memcpy(reinterpret_cast<std::byte*>(to) + begin, reinterpret_cast<const std::byte*>(from.data()) + begin,
                  end - begin);
    });
    return to;
  }

  // Rows of `row_bytes` in tiles of 16: [tile][row_bytes / item][16 rows][item]. Rows beyond n stay zero.
  const uint8_t* interleave(Use use, const uint8_t* from, const HostNf4& m, size_t row_bytes, size_t item) const {
    const size_t tiles = static_cast<size_t>(nf4_rows(m.n, m.k)) / kTile;
    auto* const to = memory.keep_array<uint8_t>(use, tiles * kTile * row_bytes);
    const size_t tile_bytes = kTile * row_bytes;
    pool.for_chunks(tiles, std::max<size_t>(1, kBytesAtOnce / tile_bytes), [&](size_t begin, size_t end, int) {
      for (size_t tile = begin; tile < end; ++tile) {
        const int rows = std::min(kTile, m.n - static_cast<int>(tile) * kTile);
        for (int r = 0; r < rows; ++r) {
          const uint8_t* row = from + (tile * kTile + static_cast<size_t>(r)) * row_bytes;
          uint8_t* out = to + tile * tile_bytes + static_cast<size_t>(r) * item;
          if (item == 1) {
            for (size_t i = 0; i < row_bytes; ++i, out += kTile) *out = row[i];
          } else {
            for (size_t i = 0; i < row_bytes; i += 4, out += size_t{kTile} * 4) std::memcpy(out, row + i, 4);
          }
        }
      }
    });
    return to;
  }
};

}  // namespace

int nf4_rows(int n, int k) { return k % kNf4Block == 0 ? (n + kTile - 1) / kTile * kTile : n; }

Matrix pack(const HostMatrix& weight, Role role, HostMemory& memory, ThreadPool& pool) {
  return std::visit(Packer{role, memory, pool}, weight);
}

}  // namespace quantbench::cpu
