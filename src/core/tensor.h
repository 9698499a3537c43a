// DType and Tensor: a view of rows × cols numbers. A Tensor never owns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/half.h"

namespace quantbench {

enum class DType : uint8_t { f32, f16, bf16, f64, i8, u8, i16, u16, i32, u32, i64, u64, boolean };

constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
    case DType::u32: return 4;
    case DType::f16:
    case DType::bf16:
    case DType::i16:
    case DType::u16: return 2;
    case DType::f64:
    case DType::i64:
    case DType::u64: return 8;
    case DType::i8:
    case DType::u8:
    case DType::boolean: return 1;
  }
  return 0;
}

std::string_view name_of(DType dtype);  // as safetensors spells it: "F32", "BF16", …

// Row-major, `cols` contiguous elements a row, rows directly behind one another.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rows = 0, cols = 0;

  float* f32(int row = 0) const { return static_cast<float*>(data) + static_cast<size_t>(row) * cols; }
  size_t bytes() const { return static_cast<size_t>(rows) * cols * size_of(dtype); }
  // The `count` rows from `first` on, as a view into the same memory.
  Tensor slice(int first, int count) const {
    auto* start = static_cast<std::byte*>(data);
    if (start) start += static_cast<size_t>(first) * cols * size_of(dtype);
    return {start, dtype, count, cols};
  }
};

}  // namespace quantbench
