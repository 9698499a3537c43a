#include "image/resize.h"

#include <gtest/gtest.h>

#include "image/test_pictures.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

// Noise, edges and slopes, up and down, sides that stay, single pixels, tall pictures on either side of the size from
// which Pillow 13 turns the passes round.
TEST(Resize, GivesPillowsBytes) {
  ThreadPool pool(1);
  int cases = 0;
  for (const auto& golden : image_goldens()["resizes"]) {
    const Rgb8 source = synthetic(golden["kind"], golden["width"], golden["height"], golden["seed"]);
    const Rgb8 resized = resize_bicubic(source, golden["to_width"], golden["to_height"], pool);
    ASSERT_EQ(resized.width(), golden["to_width"]);
    ASSERT_EQ(resized.height(), golden["to_height"]);
    EXPECT_EQ(sha256_of(resized.pixels()), golden["sha256"]) << golden;
    ++cases;
  }
  EXPECT_GE(cases, 30);
}

TEST(Resize, IsTheSameForAnyNumberOfThreads) {
  const Rgb8 source = synthetic("photo", 331, 257, 3);
  ThreadPool one(1), three(3);
  for (const int size : {31, 224, 448}) {
    EXPECT_EQ(sha256_of(resize_bicubic(source, size, size, one).pixels()),
              sha256_of(resize_bicubic(source, size, size, three).pixels()));
  }
}

TEST(Resize, LeavesOneColourAsItIs) {
  ThreadPool pool(1);
  Rgb8 source(57, 91);
  for (int y = 0; y < source.height(); ++y) {
    for (int x = 0; x < source.width(); ++x) {
      for (int c = 0; c < 3; ++c) source.row(y)[3 * x + c] = static_cast<uint8_t>(40 + 100 * c);
    }
  }
  const Rgb8 resized = resize_bicubic(source, 224, 31, pool);
  for (size_t i = 0; i < resized.bytes(); ++i) ASSERT_EQ(resized.pixels()[i], 40 + 100 * (i % 3));
}

TEST(Resize, RefusesASideThatShrinksBeyondWhatPillowTakes) {
  // 2³¹ bytes of weights at 8 bytes a tap, about four taps a pixel of the source: 67 million pixels are too many.
  ThreadPool pool(1);
  const Rgb8 source(70'000'000, 1);
  const std::string text = refusal([&] { resize_bicubic(source, 224, 224, pool); }, ErrorKind::usage);
  EXPECT_NE(text.find("70000000 pixels to 224"), std::string::npos) << text;
}

}  // namespace
}  // namespace quantbench
