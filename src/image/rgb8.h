// A picture in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/os.h"

namespace quantbench {

// Zeroed bytes. Few come from the heap, which hands the same pages out again: a fresh page costs a virtual machine two
// microseconds, which was 0.4 of the 1.1 ms that decoding 640 × 480 pixels took. Many are a Block, with its huge pages
// and its Error out_of_memory.
class ImageBytes {
 public:
  ImageBytes() = default;
  explicit ImageBytes(size_t bytes)
      : few_(bytes < kManyBytes ? bytes : 0), many_(bytes < kManyBytes ? 0 : bytes), bytes_(bytes) {}
  ImageBytes(ImageBytes&&) = default;
  ImageBytes& operator=(ImageBytes&&) = default;

  std::byte* data() { return many_.data() ? many_.data() : few_.data(); }
  const std::byte* data() const { return many_.data() ? many_.data() : few_.data(); }
  size_t size() const { return bytes_; }

 private:
  static constexpr size_t kManyBytes = size_t{4} << 20;  // from here on a Block asks for huge pages
  std::vector<std::byte> few_;
  os::Block many_;
  size_t bytes_ = 0;
};

// Red, green, blue, a byte each: [height, width, 3], rows directly behind one another. Owns its pixels.
class Rgb8 {
 public:
  Rgb8() = default;
  Rgb8(int width, int height) : width_(width), height_(height), bytes_(bytes()) {}  // black; Error out_of_memory

  int width() const { return width_; }
  int height() const { return height_; }
  size_t row_bytes() const { return size_t{3} * static_cast<size_t>(width_); }
  size_t bytes() const { return row_bytes() * static_cast<size_t>(height_); }
  uint8_t* row(int y) { return reinterpret_cast<uint8_t*>(bytes_.data()) + static_cast<size_t>(y) * row_bytes(); }
  const uint8_t* row(int y) const {
    return reinterpret_cast<const uint8_t*>(bytes_.data()) + static_cast<size_t>(y) * row_bytes();
  }
  std::span<const uint8_t> pixels() const { return {row(0), bytes()}; }

 private:
  int width_ = 0, height_ = 0;
  ImageBytes bytes_;
};

}  // namespace quantbench
