#include "image/image.h"

#include <gtest/gtest.h>

#include "image/resize.h"
#include "image/test_pictures.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

const std::string kSample = QB_SOURCE_DIR "/models/sample.jpg";

TEST(Image, LoadsTheSampleWithItsTimes) {
  ThreadPool pool(2);
  const int64_t start = os::steady_now_ns();
  const Image image = load_image(kSample, 224, pool);
  const int64_t elapsed = os::steady_now_ns() - start;
  EXPECT_EQ(image.pixels.width(), 224);
  EXPECT_EQ(image.pixels.height(), 224);
  EXPECT_EQ(image.source_width, 640);
  EXPECT_EQ(image.source_height, 480);
  EXPECT_EQ(image.format, ImageFormat::jpeg);
  EXPECT_EQ(image.warning, "");
  EXPECT_GT(image.read_ns, 0);
  EXPECT_GT(image.decode_ns, 0);
  EXPECT_GT(image.resize_ns, 0);
  EXPECT_LE(image.read_ns + image.decode_ns + image.resize_ns, elapsed);

  const std::string content = os::read_file(kSample, 1 << 20);
  const DecodedImage decoded = decode_image(std::as_bytes(std::span(content)), "sample");
  EXPECT_EQ(sha256_of(decoded.picture.pixels()), image_goldens()["sample"]["sha256"]);
  EXPECT_EQ(sha256_of(image.pixels.pixels()), sha256_of(resize_bicubic(decoded.picture, 224, 224, pool).pixels()));
}

TEST(Image, ReportsTheSizeThatIsUpright) {
  ThreadPool pool(1);
  const Image image = load_image(QB_SOURCE_DIR "/testdata/images/orientation_6.jpg", 14, pool);
  EXPECT_EQ(image.source_width, 5);
  EXPECT_EQ(image.source_height, 7);
}

TEST(Image, GoesByContentAndNotByName) {
  ThreadPool pool(1);
  const TestFolder folder;
  const std::string path = folder.write("picture.jpg", test_image("lossy.webp"));
  EXPECT_EQ(load_image(path, 28, pool).format, ImageFormat::webp);
}

TEST(Image, NamesTheFileThatCannotBeReadOrIsNoPicture) {
  ThreadPool pool(1);
  const TestFolder folder;
  EXPECT_NE(refusal([&] { load_image(folder / "none.png", 224, pool); }, ErrorKind::disk).find("none.png"),
            std::string::npos);
  EXPECT_NE(refusal([&] { load_image(folder.path(), 224, pool); }, ErrorKind::disk).find("a folder"),
            std::string::npos);
  const std::string text = folder.write("notes.png", "not a picture");
  EXPECT_NE(refusal([&] { load_image(text, 224, pool); }, ErrorKind::usage).find("notes.png' is not a picture"),
            std::string::npos);
}

// Gives some blocks and no more.
class NoMemory : public os::System {
 public:
  explicit NoMemory(int allowed) : left_(allowed) {}
  void* map(size_t bytes) override {
    if (left_-- > 0) return System::map(bytes);
    errno = ENOMEM;
    return nullptr;
  }
  bool refused() const { return left_ < 0; }

 private:
  int left_;
};

TEST(Image, SaysSoWhereMemoryIsRefused) {
  ThreadPool pool(1);
  constexpr int kLarge = 4096;  // so that either pass asks for more than the heap gives
  int refusals = 0;
  for (;; ++refusals) {
    NoMemory system(refusals);
    const os::ScopedSystem scope(system);
    const std::string text = refusal([&] { load_image(kSample, kLarge, pool); }, ErrorKind::out_of_memory);
    if (!system.refused()) break;
    EXPECT_NE(text.find("bytes"), std::string::npos) << text;
  }
  EXPECT_EQ(refusals, 2);
}

}  // namespace
}  // namespace quantbench
