// A picture in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/os.h"

namespace quantbench {

// Red, green, blue, a byte each: [height, width, 3], rows directly behind one another. Owns its pixels, which may be a
// gigabyte, hence a Block.
class Rgb8 {
 public:
  Rgb8() = default;
  Rgb8(int width, int height) : width_(width), height_(height), block_(bytes()) {}  // black; Error out_of_memory

  int width() const { return width_; }
  int height() const { return height_; }
  size_t row_bytes() const { return size_t{3} * static_cast<size_t>(width_); }
  size_t bytes() const { return row_bytes() * static_cast<size_t>(height_); }
  uint8_t* row(int y) { return reinterpret_cast<uint8_t*>(block_.data()) + static_cast<size_t>(y) * row_bytes(); }
  const uint8_t* row(int y) const {
    return reinterpret_cast<const uint8_t*>(block_.data()) + static_cast<size_t>(y) * row_bytes();
  }
  std::span<const uint8_t> pixels() const { return {row(0), bytes()}; }

 private:
  int width_ = 0, height_ = 0;
  os::Block block_;
};

}  // namespace quantbench
