#include "image/pixels.h"

#include <array>

namespace quantbench {
namespace {

// What each byte becomes.
const std::array<float, 256>& siglip_values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> table;
    for (size_t byte = 0; byte < table.size(); ++byte) {
      const auto scaled = static_cast<float>(static_cast<double>(byte) * (1.0 / 255.0));
      table[byte] = (scaled - 0.5f) / 0.5f;
    }
    return table;
  }();
  return values;
}

void check_room(const Rgb8& picture, size_t floats) {
  if (floats != picture.bytes()) {
    fail(ErrorKind::internal, "{} numbers for a picture of {} × {}, expected {}; please report this", floats,
         picture.width(), picture.height(), picture.bytes());
  }
}

}  // namespace

void siglip_planes(const Rgb8& picture, std::span<float> out) {
  check_room(picture, out.size());
  const auto& values = siglip_values();
  const size_t pixels = picture.bytes() / 3;
  const uint8_t* const from = picture.row(0);
  for (size_t c = 0; c < 3; ++c) {
    for (size_t i = 0; i < pixels; ++i) out[c * pixels + i] = values[from[3 * i + c]];
  }
}

void siglip_patches(const Rgb8& picture, int patch, std::span<float> out) {
  check_room(picture, out.size());
  if (patch < 1 || picture.width() % patch != 0 || picture.height() % patch != 0) {
    fail(ErrorKind::internal, "patches of {0} × {0} do not fill a picture of {1} × {2}; please report this", patch,
         picture.width(), picture.height());
  }
  const auto& values = siglip_values();
  float* to = out.data();
  for (int top = 0; top < picture.height(); top += patch) {
    for (int left = 0; left < picture.width(); left += patch) {
      for (int c = 0; c < 3; ++c) {
        for (int y = 0; y < patch; ++y) {
          const uint8_t* const from = picture.row(top + y) + ptrdiff_t{3} * left + c;
          for (int x = 0; x < patch; ++x) *to++ = values[from[ptrdiff_t{3} * x]];
        }
      }
    }
  }
}

}  // namespace quantbench
