#include "image/exif.h"

#include <gtest/gtest.h>

#include <vector>

namespace quantbench {
namespace {

// Little-endian, one entry: tag, type, count, value.
std::string exif_of(std::string_view entry) {
  return std::string("II*\0\x08\0\0\0\x01\0", 10) + std::string(entry) + std::string(4, '\0');
}

TEST(Exif, FindsTheOrientationInEitherByteOrder) {
  const std::string little = exif_of(std::string_view("\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", 12));
  EXPECT_EQ(orientation_in_exif(little), 6);
  EXPECT_EQ(orientation_in_exif(std::string("Exif\0\0", 6) + little), 6);
  const std::string big("MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0\0\0\0\0", 26);
  EXPECT_EQ(orientation_in_exif(big), 8);
}

TEST(Exif, TakesTheFirstOfNumbersOfSixteenOrThirtyTwoBits) {
  EXPECT_EQ(orientation_in_exif(exif_of(std::string_view("\x12\x01\x04\0\x01\0\0\0\x03\0\0\0", 12))), 3);
  EXPECT_EQ(orientation_in_exif(exif_of(std::string_view("\x12\x01\x03\0\x02\0\0\0\x05\0\x03\0", 12))), 5);
  // Three of them stand elsewhere: here at byte 22, behind the entry.
  EXPECT_EQ(orientation_in_exif(exif_of(std::string_view("\x12\x01\x03\0\x03\0\0\0\x16\0\0\0", 12)) + "xx"), 0);
  EXPECT_EQ(orientation_in_exif(exif_of(std::string_view("\x12\x01\x03\0\x03\0\0\0\xFF\0\0\0", 12))), std::nullopt);
  EXPECT_EQ(orientation_in_exif(exif_of(std::string_view("\x12\x01\x02\0\x01\0\0\0\x03\0\0\0", 12))), 1);  // text
  EXPECT_EQ(orientation_in_exif(exif_of(std::string_view("\x13\x01\x03\0\x01\0\0\0\x03\0\0\0", 12))), std::nullopt);
}

TEST(Exif, HasNothingWhereItIsCutOffOrPointsElsewhere) {
  const std::string whole = exif_of(std::string_view("\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", 12));
  EXPECT_EQ(orientation_in_exif(""), std::nullopt);
  for (size_t length = 1; length < 22; ++length) {
    EXPECT_EQ(orientation_in_exif(std::string_view(whole).substr(0, length)).value_or(1), 1) << length;
  }
  std::string far = whole;
  far.replace(4, 4, "\xFF\xFF\xFF\xFF");
  EXPECT_EQ(orientation_in_exif(far), std::nullopt);
  std::string many = whole;  // says 65,535 entries and has one
  many.replace(8, 2, "\xFF\xFF");
  EXPECT_EQ(orientation_in_exif(many), 6);
  EXPECT_EQ(orientation_in_exif("neither order"), 1);
}

TEST(Exif, XmpNamesItInAnAttributeOrAnElement) {
  EXPECT_EQ(orientation_in_xmp("<x tiff:Orientation=\"6\"/>"), 6);
  EXPECT_EQ(orientation_in_xmp("<tiff:Orientation>3</tiff:Orientation>"), 3);
  EXPECT_EQ(orientation_in_xmp("<x tiff:Orientation=''/><tiff:Orientation>8<"), 8);
  EXPECT_EQ(orientation_in_xmp("<x tiff:Orientation=\"\"/>"), std::nullopt);
  EXPECT_EQ(orientation_in_xmp("tiff:Orientation=\""), std::nullopt);
  EXPECT_EQ(orientation_in_xmp(""), std::nullopt);
}

// A picture of 3 × 2 whose pixels are numbered along its rows.
std::vector<int> turned(int orientation) {
  Rgb8 picture(3, 2);
  for (int i = 0; i < 18; ++i) picture.row(0)[i] = static_cast<uint8_t>(i / 3);
  const Rgb8 out = upright(std::move(picture), orientation);
  EXPECT_EQ(out.width(), orientation >= 5 && orientation <= 8 ? 2 : 3);
  std::vector<int> pixels;
  for (size_t i = 0; i < 18; i += 3) pixels.push_back(out.pixels()[i]);
  return pixels;
}

TEST(Exif, EightOrientationsAreTheTurnsAndReflectionsOfTheStandard) {
  EXPECT_EQ(turned(1), (std::vector<int>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(turned(2), (std::vector<int>{2, 1, 0, 5, 4, 3}));
  EXPECT_EQ(turned(3), (std::vector<int>{5, 4, 3, 2, 1, 0}));
  EXPECT_EQ(turned(4), (std::vector<int>{3, 4, 5, 0, 1, 2}));
  EXPECT_EQ(turned(5), (std::vector<int>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(turned(6), (std::vector<int>{3, 0, 4, 1, 5, 2}));
  EXPECT_EQ(turned(7), (std::vector<int>{5, 2, 4, 1, 3, 0}));
  EXPECT_EQ(turned(8), (std::vector<int>{2, 5, 1, 4, 0, 3}));
  EXPECT_EQ(turned(0), turned(1));
  EXPECT_EQ(turned(9), turned(1));
}

TEST(Exif, TurnsPicturesLargerThanASquareOfTheCopy) {
  Rgb8 picture(101, 67);
  for (size_t i = 0; i < picture.bytes(); ++i) picture.row(0)[i] = static_cast<uint8_t>(i % 251);
  const std::vector<uint8_t> before(picture.pixels().begin(), picture.pixels().end());
  Rgb8 out = std::move(picture);
  for (int i = 0; i < 4; ++i) out = upright(std::move(out), 6);  // four quarter turns
  EXPECT_TRUE(std::equal(before.begin(), before.end(), out.pixels().begin()));
  out = upright(upright(std::move(out), 5), 7);  // about both diagonals: half a turn
  out = upright(std::move(out), 3);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), out.pixels().begin()));
}

}  // namespace
}  // namespace quantbench
