#include "image/decode.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "image/test_pictures.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

DecodedImage decode(const std::string& file, const PixelLimits& limits = {}) {
  return decode_image(std::as_bytes(std::span(file)), "picture", limits);
}
std::string refused(const std::string& file, const PixelLimits& limits = {}) {
  return refusal([&] { decode(file, limits); }, ErrorKind::usage);
}
void expect_refused(const std::string& file, const std::string& words, const PixelLimits& limits = {}) {
  const std::string text = refused(file, limits);
  EXPECT_NE(text.find(words), std::string::npos) << text;
  EXPECT_NE(text.find("'picture'"), std::string::npos) << text;
}
std::string replaced(std::string text, size_t at, std::string_view with) {
  EXPECT_LE(at + with.size(), text.size());
  for (size_t i = 0; i < with.size() && at + i < text.size(); ++i) text[at + i] = with[i];
  return text;
}
// Where the marker FF `code` stands.
size_t marker(const std::string& jpeg, unsigned char code) {
  const size_t at = jpeg.find(std::string{'\xFF', static_cast<char>(code)});
  EXPECT_NE(at, std::string::npos);
  return at;
}
constexpr unsigned char kFrame = 0xC0, kScan = 0xDA;

TEST(Decode, GivesPillowsPixelsOfEveryKindOfFile) {
  int files = 0;
  for (const auto& golden : image_goldens()["files"]) {
    const DecodedImage image = decode(test_image(golden["file"]));
    EXPECT_EQ(image.picture.width(), golden["width"]) << golden["file"];
    EXPECT_EQ(image.picture.height(), golden["height"]) << golden["file"];
    EXPECT_EQ(sha256_of(image.picture.pixels()), golden["sha256"]) << golden["file"];
    EXPECT_EQ(image.warning, "") << golden["file"];
    ++files;
  }
  EXPECT_GE(files, 70);
}

TEST(Decode, SaysWhatItWasAndHowItWasTurned) {
  EXPECT_EQ(decode(test_image("lossy.webp")).format, ImageFormat::webp);
  EXPECT_EQ(decode(test_image("rgb_8.png")).format, ImageFormat::png);
  const DecodedImage turned = decode(test_image("orientation_8.jpg"));
  EXPECT_EQ(turned.format, ImageFormat::jpeg);
  EXPECT_EQ(turned.orientation, 8);
  EXPECT_EQ(decode(test_image("exif.png")).orientation, 6);
  EXPECT_EQ(decode(test_image("exif_text.png")).orientation, 8);
  EXPECT_EQ(decode(test_image("xmp.webp")).orientation, 3);
  EXPECT_EQ(decode(test_image("exif_damaged.jpg")).orientation, 1);
}

TEST(Decode, RefusesWhatIsNoPictureAndSaysWhatItIs) {
  expect_refused("", "no bytes");
  expect_refused("hello, world", "something else");
  expect_refused("GIF89a..........", "a GIF");
  expect_refused("BM..............", "a BMP");
  expect_refused(std::string("II*\0............", 16), "a TIFF");
  expect_refused(std::string("\0\0\0\030ftypheic........", 20), "HEIC");
  expect_refused("version https://git-lfs.github.com/spec/v1\n", "git lfs pull");
  expect_refused(std::string("RIFF\x10\0\0\0WAVEfmt ", 16), "something else");
}

TEST(Decode, RefusesEveryFileThatIsCutOff) {
  int cut = 0;
  for (const auto& golden : image_goldens()["files"]) {
    const std::string name = golden["file"], file = test_image(name);
    const bool jpeg = name.ends_with(".jpg");
    for (size_t length = 0; length < file.size(); ++length) {
      const std::string text = refused(file.substr(0, length));
      ++cut;
      if (text != "accepted") {
        EXPECT_TRUE(text.starts_with("'picture' is ")) << name << ' ' << length << ": " << text;
        continue;
      }
      // A JPEG may lack its end marker, which Pillow does without too: all pixels are there.
      const size_t data = name == "more_behind.jpg" ? file.size() - std::string_view("and more").size() : file.size();
      EXPECT_TRUE(jpeg && length + 2 >= data) << name << ' ' << length;
      EXPECT_EQ(sha256_of(decode(file.substr(0, length)).picture.pixels()), golden["sha256"]) << name << ' ' << length;
    }
  }
  EXPECT_GT(cut, 30'000);
  expect_refused(test_image("444.jpg").substr(0, 900), "it ends early, after 900 bytes");
  expect_refused(test_image("rgb_8.png").substr(0, 300), "it ends early, after 300 bytes");
  expect_refused(test_image("lossy.webp").substr(0, 200), "end early, after 200 bytes");
}

// Takes notes of what is asked for.
class Counting : public os::System {
 public:
  void* map(size_t bytes) override {
    most = std::max(most, bytes);
    return System::map(bytes);
  }
  size_t most = 0;
};

TEST(Decode, RefusesABombByItsHeader) {
  Counting system;
  const os::ScopedSystem scope(system);
  std::string png = test_image("grey_1.png");
  png.replace(16, 8, std::string("\0\0\x4E\x20\0\0\x4E\x20", 8));
  expect_refused(png, "20000 × 20000");
  const std::string jpeg = test_image("444.jpg");
  expect_refused(replaced(jpeg, marker(jpeg, kFrame) + 5, "\xFD\xE8\xFD\xE8"), "65000 × 65000");
  const std::string webp = test_image("animated.webp");  // its canvas, less one, in three bytes a side
  expect_refused(replaced(webp, 24, std::string_view("\xFF\x3F\0\xFF\x3F\0", 6)), "16384 × 16384");
  EXPECT_EQ(system.most, 0u);
  expect_refused(png, "at most 178956970 in all");
}

// Found by fuzzing: libpng passes over chunks before the header, which must stand first.
TEST(Decode, RefusesABombWhoseHeaderStandsBehindAnotherChunk) {
  const auto chunk = [](const std::string& name_and_content) {
    const auto number = [](uint32_t value) {
      std::string text;
      for (int shift = 24; shift >= 0; shift -= 8) text += static_cast<char>(value >> shift);
      return text;
    };
    const auto* const bytes = reinterpret_cast<const Bytef*>(name_and_content.data());
    const uLong sum = ::crc32(0, bytes, static_cast<uInt>(name_and_content.size()));
    return number(static_cast<uint32_t>(name_and_content.size() - 4)) + name_and_content +
           number(static_cast<uint32_t>(sum));
  };
  const std::string png = test_image("grey_1.png");
  const std::string header = "IHDR" + std::string("\0\0\x4E\x20\0\0\x4E\x20", 8) + png.substr(24, 5);
  Counting system;
  const os::ScopedSystem scope(system);
  expect_refused(png.substr(0, 8) + chunk("fcTL") + chunk(header) + png.substr(33), "20000 × 20000");
  EXPECT_EQ(system.most, 0u);
}

TEST(Decode, HoldsTheSizeToTheLimitsThatAreGiven) {
  for (const char* name : {"444.jpg", "lossy.webp"}) {  // 33 × 25 = 825
    EXPECT_EQ(decode(test_image(name), {825, 825}).warning, "");
    expect_refused(test_image(name), "at most 824", {824, 100});
    const std::string warning = decode(test_image(name), {825, 824}).warning;
    EXPECT_NE(warning.find("33 × 25 pixels"), std::string::npos) << warning;
  }
  EXPECT_NE(decode(test_image("rgb_8.png"), {110, 109}).warning, "");
  // Image.MAX_IMAGE_PIXELS of Pillow is 1024 · 1024 · 1024 / 4 / 3, and twice that is its error.
  EXPECT_EQ(PixelLimits{}.warn_above, 1024 * 1024 * 1024 / 4 / 3);
  EXPECT_EQ(PixelLimits{}.refuse_above, 2 * PixelLimits{}.warn_above);
}

TEST(Decode, RefusesPicturesWithoutPixels) {
  const std::string png = test_image("grey_8.png");
  expect_refused(replaced(png, 16, std::string_view("\0\0\0\0", 4)), "without pixels");
  expect_refused(replaced(png, 20, std::string_view("\0\0\0\0", 4)), "without pixels");
  const std::string jpeg = test_image("444.jpg");
  expect_refused(replaced(jpeg, marker(jpeg, kFrame) + 5, std::string_view("\0\0", 2)), "Empty JPEG");
  expect_refused(replaced(jpeg, marker(jpeg, kFrame) + 7, std::string_view("\0\0", 2)), "Empty JPEG");
  const std::string webp = test_image("lossy.webp");
  expect_refused(replaced(webp, 26, std::string_view("\0\0", 2)), "is damaged");
}

TEST(Decode, RefusesDamagedJpegsAlsoWhereLibjpegWouldGuess) {
  const std::string file = test_image("444.jpg");
  const size_t data = marker(file, kScan) + 14;
  expect_refused(replaced(file, data + 200, "\xFF\xD9"), "premature end of data");  // the end marker, amid the picture
  expect_refused(file.substr(0, data) + std::string(400, '\x7F') + "\xFF\xD9", "is damaged");
  expect_refused(replaced(file, file.size() - 1, "\x37"), "Unsupported marker");  // in the place of the end marker
  const std::string restarts = test_image("restarts.jpg");
  const size_t first = marker(restarts, 0xD0);
  expect_refused(replaced(restarts, first, "\xFF\xD5"), "is damaged");
}

TEST(Decode, PassesOnWhatLibjpegOnlyRemarks) {
  const std::string file = test_image("444.jpg");
  const size_t scan = marker(file, kScan);
  const DecodedImage image = decode(file.substr(0, scan) + "junk" + file.substr(scan));
  EXPECT_NE(image.warning.find("extraneous bytes"), std::string::npos) << image.warning;
  EXPECT_EQ(sha256_of(image.picture.pixels()), sha256_of(decode(file).picture.pixels()));
}

TEST(Decode, RefusesKindsOfJpegThatAreNotRead) {
  const std::string file = test_image("444.jpg"), grey = test_image("grey.jpg");
  const size_t frame = marker(file, kFrame);
  EXPECT_NE(refused(replaced(file, frame + 4, "\x0C")),
            "accepted");                                            // 12 bits: which of two it says depends on libjpeg
  expect_refused(replaced(file, frame + 1, "\xC3"), "is damaged");  // lossless
  // A frame of two channels, of which the scan has one.
  const size_t lone = marker(grey, kFrame);
  const std::string two = grey.substr(0, lone) + std::string("\xFF\xC0\0\x0E", 4) + grey.substr(lone + 4, 5) +
                          std::string("\x02\x01\x11\0\x02\x11\0", 7) + grey.substr(lone + 13);
  expect_refused(two, "2 channels");
  // The first scan of a progressive file again and again.
  const std::string progressive = test_image("progressive.jpg");
  const size_t scan = marker(progressive, kScan), next = progressive.find("\xFF\xC4", scan);
  std::string scans = progressive.substr(0, scan);
  for (int i = 0; i < 101; ++i) scans += progressive.substr(scan, next - scan);
  expect_refused(scans + progressive.substr(next), "more than 100 passes");
}

TEST(Decode, RefusesDamagedPngs) {
  const std::string file = test_image("rgb_8.png");
  const size_t data = file.find("IDAT");
  expect_refused(replaced(file, data + 10, "\x55"), "is damaged");
  expect_refused(replaced(file, data + 4 + 20, "\x55"), "CRC error");  // what stands behind the 20 bytes of the first
  const std::string gamma = test_image("gamma.png");
  expect_refused(replaced(gamma, gamma.find("gAMA") + 4, "\x01"), "CRC error");
  const std::string palette = test_image("palette_8.png");
  const size_t colours = palette.find("PLTE");
  expect_refused(palette.substr(0, colours - 4) + palette.substr(colours + 4 + 768 + 4), "Missing PLTE");
  const size_t end = file.find("IEND");
  expect_refused(file.substr(0, end - 4), "it ends early");
  EXPECT_NE(refused(file.substr(0, data - 4) + file.substr(end - 4)), "accepted");  // no picture in it
}

TEST(Decode, RefusesDamagedWebps) {
  const std::string file = test_image("lossy.webp");
  expect_refused(replaced(file, 23, std::string_view("\0\0\0", 3)), "is damaged");  // the frame's start code
  expect_refused(replaced(file, 12, "VP8?"), "is damaged");
  const std::string animated = test_image("animated_offset.webp");
  const size_t frame = animated.find("ANMF") + 8;
  expect_refused(replaced(animated, frame, "\x20"), "is damaged");  // moved out of its canvas
  EXPECT_NE(refused(animated.substr(0, frame - 8)), "accepted");    // no frame
}

TEST(Decode, PrintsNothing) {
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  for (const char* name : {"444.jpg", "progressive.jpg", "rgb_8.png", "palette_8.png", "lossy.webp", "animated.webp"}) {
    const std::string file = test_image(name);
    for (size_t at = 0; at < file.size(); ++at) {
      refused(file.substr(0, at));
      refused(replaced(file, at, "\xA5"));
    }
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
}

}  // namespace
}  // namespace quantbench
