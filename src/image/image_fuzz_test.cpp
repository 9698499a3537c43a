// Damaged picture files: each is refused with an Error of usage or gives pixels of the size that it claims; nothing
// crashes, hangs, prints or allocates without bound.
//
// With --gtest_shuffle each --gtest_repeat draws other damage, for longer runs.
#include <gtest/gtest.h>
#include <zlib.h>

#include <random>

#include "image/decode.h"
#include "image/test_pictures.h"

namespace quantbench {
namespace {

// What damaged headers claim is decoded up to this, so that a round stays short.
constexpr PixelLimits kLimits{200'000, 100'000};

class Damage {
 public:
  explicit Damage(uint32_t seed) : random_(seed) {}
  size_t below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }

  // other: a file to take pieces of.
  void apply(std::string* file, const std::string& other) {
    for (size_t n = 1 + below(4); n > 0 && !file->empty(); --n) {
      const size_t at = below(below(3) == 0 ? std::min<size_t>(file->size(), 64) : file->size());
      switch (below(8)) {
        case 0: (*file)[at] = static_cast<char>(below(256)); break;
        case 1: (*file)[at] = static_cast<char>((*file)[at] ^ (1 << below(8))); break;
        case 2: (*file)[at] = "\0\x01\x7F\x80\xFE\xFF"[below(6)]; break;
        case 3: file->erase(at, 1 + below(16)); break;
        case 4: file->insert(at, file->substr(below(file->size()), 1 + below(40))); break;
        case 5: file->insert(at, other.substr(below(other.size()), 1 + below(80))); break;
        case 6: *file = file->substr(0, at + 1) + other.substr(below(other.size())); break;
        default: file->resize(at);
      }
    }
    if (below(4) != 0) mend(file);
  }

 private:
  // Sums and lengths that stand in the way of what is behind them: a PNG's CRCs, a WebP's size.
  static void mend(std::string* file) {
    if (file->starts_with("RIFF") && file->size() >= 8) {
      const auto bytes = static_cast<uint32_t>(file->size() - 8);
      for (size_t i = 0; i < 4; ++i) (*file)[4 + i] = static_cast<char>(bytes >> (8 * i));
    }
    if (!file->starts_with("\x89PNG")) return;
    for (size_t at = 8; at + 12 <= file->size();) {
      size_t length = 0;
      for (size_t i = 0; i < 4; ++i) length = length << 8 | static_cast<unsigned char>((*file)[at + i]);
      if (length > file->size() - at - 12) return;
      const auto* const chunk = reinterpret_cast<const Bytef*>(file->data() + at + 4);
      const uLong sum = ::crc32(::crc32(0, nullptr, 0), chunk, static_cast<uInt>(length + 4));
      for (size_t i = 0; i < 4; ++i) (*file)[at + 8 + length + i] = static_cast<char>(sum >> (24 - 8 * i));
      at += 12 + length;
    }
  }

  std::mt19937 random_;
};

TEST(ImageFuzz, ADamagedFileIsRefusedOrDecoded) {
  std::vector<std::string> files;
  for (const auto& golden : image_goldens()["files"]) files.push_back(test_image(golden["file"]));
  Damage damage(static_cast<uint32_t>(testing::UnitTest::GetInstance()->random_seed()));
  int refused = 0, decoded = 0;
  for (int round = 0; round < 60'000; ++round) {
    std::string file = files[damage.below(files.size())];
    damage.apply(&file, files[damage.below(files.size())]);
    try {
      const DecodedImage image = decode_image(std::as_bytes(std::span(file)), "damaged", kLimits);
      const int64_t pixels = int64_t{image.picture.width()} * image.picture.height();
      EXPECT_GE(pixels, 1);
      EXPECT_LE(pixels, kLimits.refuse_above);
      EXPECT_EQ(image.picture.pixels().size(), static_cast<size_t>(3 * pixels));
      ++decoded;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
      ++refused;
    }
  }
  // Both happen often, else the damage is too coarse or too fine to test anything.
  EXPECT_GT(refused, 5'000);
  EXPECT_GT(decoded, 5'000);
}

}  // namespace
}  // namespace quantbench
