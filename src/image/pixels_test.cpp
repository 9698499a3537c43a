#include "image/pixels.h"

#include <gtest/gtest.h>

#include "image/resize.h"
#include "image/test_pictures.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

constexpr int kPatch = 14;  // SigLIP's

TEST(Pixels, AreThoseOfTransformersToTheBit) {
  ThreadPool pool(1);
  ASSERT_FALSE(image_goldens()["siglip"].empty());
  for (const auto& golden : image_goldens()["siglip"]) {
    const Rgb8 source = synthetic("noise", golden["width"], golden["height"], golden["seed"]);
    const Rgb8 picture = resize_bicubic(source, golden["size"], golden["size"], pool);
    std::vector<float> values(picture.bytes());
    siglip_planes(picture, values);
    EXPECT_EQ(sha256_of(std::span<const float>(values)), golden["planes"]);
    siglip_patches(picture, kPatch, values);
    EXPECT_EQ(sha256_of(std::span<const float>(values)), golden["patches"]);
  }
}

TEST(Pixels, OfAPatchAreChannelThenRowThenColumn) {
  const Rgb8 picture = synthetic("noise", 6, 4, 1);
  std::vector<float> planes(picture.bytes()), patches(picture.bytes());
  siglip_planes(picture, planes);
  siglip_patches(picture, 2, patches);
  for (int y = 0; y < 4; ++y) {
    for (int x = 0; x < 6; ++x) {
      for (int c = 0; c < 3; ++c) {
        const int patch = y / 2 * 3 + x / 2;
        EXPECT_EQ(patches[static_cast<size_t>(patch * 12 + c * 4 + y % 2 * 2 + x % 2)],
                  planes[static_cast<size_t>(c * 24 + y * 6 + x)]);
      }
    }
  }
}

TEST(Pixels, GoFromMinusOneToOne) {
  Rgb8 picture(2, 1);
  std::fill_n(picture.row(0) + 3, 3, uint8_t{255});
  std::vector<float> values(6);
  siglip_planes(picture, values);
  EXPECT_EQ(values, (std::vector<float>{-1, 1, -1, 1, -1, 1}));
}

TEST(Pixels, RefuseAPatchThatDoesNotFillThePicture) {
  const Rgb8 picture(28, 28);
  std::vector<float> values(picture.bytes());
  EXPECT_NE(refusal([&] { siglip_patches(picture, 16, values); }, ErrorKind::internal), "accepted");
  EXPECT_NE(refusal([&] { siglip_planes(picture, std::span(values).first(10)); }, ErrorKind::internal), "accepted");
}

}  // namespace
}  // namespace quantbench
