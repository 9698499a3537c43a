// The storage formats of a weight, as a closed set. Two views of it:
//   Host*  – the canonical row-major layout of safetensors and bitsandbytes, in host memory, before packing;
//   Matrix – the packed weight a backend computes with. n and k are common; the layout behind the pointers is the
//            backend's own (Backend::pack made it), so only that backend may read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <variant>

#include "core/half.h"

namespace quantbench {

enum class Format : uint8_t { f16, f32, int8, nf4, bf16 };  // in the order of Matrix
std::string_view name_of(Format format);                    // "f16", "f32", "int8", "nf4", "bf16"

constexpr int kNf4Block = 64;         // weights that share one absmax, over the flattened [n, k] matrix
constexpr int kNf4NestedBlock = 256;  // absmax values that share one nested absmax
constexpr float kInt8Threshold = 6.0f;

constexpr size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

// --- packed, on the device; pointers are null until the weight is loaded -----------------------------------------
struct F16Matrix {
  int n = 0, k = 0;
  const f16* w = nullptr;
};
struct F32Matrix {
  int n = 0, k = 0;
  const float* w = nullptr;
};
struct Int8Matrix {
  int n = 0, k = 0;
  const int8_t* w = nullptr;
  const float* absmax = nullptr;  // [n], bitsandbytes' SCB
};
struct Nf4Matrix {
  int n = 0, k = 0;
  const uint8_t* w = nullptr;            // two codes a byte, in the backend's order
  const uint8_t* absmax8 = nullptr;      // one a block of 64, double-quantised; or null
  const float* nested_absmax = nullptr;  // one per 256 blocks; null if absmax is plain
  float offset = 0;                      // added to every double-quantised absmax
  const float* absmax = nullptr;         // one a block, plain fp32; null if double-quantised
  bool double_quantized = true;          // which of the two it is; known before the weight is loaded
};
struct Bf16Matrix {
  int n = 0, k = 0;
  const bf16* w = nullptr;
};
using Matrix = std::variant<F16Matrix, F32Matrix, Int8Matrix, Nf4Matrix, Bf16Matrix>;

inline int rows_of(const Matrix& m) {
  return std::visit([](const auto& x) { return x.n; }, m);
}
inline int cols_of(const Matrix& m) {
  return std::visit([](const auto& x) { return x.k; }, m);
}
inline Format format_of(const Matrix& m) { return static_cast<Format>(m.index()); }

// --- canonical, in host memory -----------------------------------------------------------------------------------
// Rows on demand, so that a backend can have an unquantised weight written straight to where it will stay.
// `read` fills rows [first, first + count) × k; it is called from several threads.
struct HostF16 {
  int n = 0, k = 0;
  std::function<void(int first, int count, f16* out)> read;
};
struct HostF32 {
  int n = 0, k = 0;
  std::function<void(int first, int count, float* out)> read;
};
struct HostInt8 {
  int n = 0, k = 0;
  std::span<const int8_t> codes;  // [n, k]
  std::span<const float> absmax;  // [n]
};
struct HostNf4 {
  int n = 0, k = 0;
  std::span<const uint8_t> codes;        // [ceil(n·k / 2)], high nibble first
  std::span<const uint8_t> absmax8;      // [blocks] or empty
  std::span<const float> nested_absmax;  // [ceil(blocks / 256)] or empty
  float offset = 0;
  std::span<const float> absmax;  // [blocks], plain; or empty
};
struct HostBf16 {
  int n = 0, k = 0;
  std::function<void(int first, int count, bf16* out)> read;
};
using HostMatrix = std::variant<HostF16, HostF32, HostInt8, HostNf4, HostBf16>;

// The bytes a weight of this format must keep resident (and that one token reads).
struct FormatBytes {
  size_t codes = 0, scales = 0;
  size_t total() const { return codes + scales; }
};
FormatBytes format_bytes(Format format, int n, int k, bool double_quantized = true);

}  // namespace quantbench
