// For tests: pictures that tools/goldens_images.py makes too, and hashes of what became of them.
#pragma once

#include <openssl/sha.h>

#include <array>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "image/rgb8.h"

namespace quantbench {

inline const nlohmann::json& image_goldens() {
  static const nlohmann::json goldens = read_json_file(QB_SOURCE_DIR "/testdata/images/golden.json");
  return goldens;
}

inline std::string test_image(const std::string& name) {
  return os::read_file(QB_SOURCE_DIR "/testdata/images/" + name, 1 << 20);
}

template <typename T>
std::string sha256_of(std::span<const T> values) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  ::SHA256(reinterpret_cast<const unsigned char*>(values.data()), values.size_bytes(), digest.data());
  std::string hex;
  for (const unsigned char byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

inline uint32_t scrambled(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

// kind: "noise", "edges" (bars and boxes in black and white) or "photo" (slopes, a disc and grain).
inline Rgb8 synthetic(const std::string& kind, int width, int height, uint32_t seed) {
  Rgb8 picture(width, height);
  uint32_t index = seed * 0x9E3779B9u;
  for (int y = 0; y < height; ++y) {
    for (int i = 0; i < 3 * width; ++i, ++index) {
      const int x = i / 3, c = i % 3;
      const int noise = static_cast<int>(scrambled(index) >> 24);
      int value = noise;
      if (kind == "edges") {
        const int bars = ((x / (2 + c) + y / (3 + c)) & 1) * 255;
        const bool in_box = x * 3 > width && x * 3 < 2 * width && y * 4 > height;
        value = in_box ? 255 - bars : bars;
      } else if (kind == "photo") {
        const int slope = x * (90 + 40 * c) / width + y * (140 - 50 * c) / height;
        const int across = 2 * x - width, down = 2 * y - height, side = std::min(width, height);
        const int disc = 4 * across * across + 4 * down * down < side * side ? 1 : 0;
        value = std::min(slope + 70 * disc * (2 - c) / 2 + noise / 16, 255);
      }
      picture.row(y)[i] = static_cast<uint8_t>(value);
    }
  }
  return picture;
}

}  // namespace quantbench
