#include "image/image.h"

#include "image/resize.h"

namespace quantbench {
namespace {

// The largest picture that is decoded is about a gigabyte of RGB; no file of it is larger.
constexpr int64_t kMostFileBytes = int64_t{1} << 30;

ImageBytes read_whole(const std::string& path) {
  const os::File file = os::File::open(path);
  if (file.bytes() > kMostFileBytes) {
    fail(ErrorKind::usage, "'{}' has {} bytes, expected a picture of at most {}; is it the right file?", path,
         file.bytes(), kMostFileBytes);
  }
  ImageBytes content(static_cast<size_t>(file.bytes()));
  file.read_at(0, {content.data(), content.size()});
  return content;
}

}  // namespace

Image load_image(const std::string& path, int size, ThreadPool& pool) {
  Image image;
  const int64_t start = os::steady_now_ns();
  const ImageBytes content = read_whole(path);
  const int64_t read = os::steady_now_ns();
  DecodedImage decoded = decode_image({content.data(), content.size()}, path);
  const int64_t upright = os::steady_now_ns();
  image.pixels = resize_bicubic(decoded.picture, size, size, pool);
  image.resize_ns = os::steady_now_ns() - upright;
  image.decode_ns = upright - read;
  image.read_ns = read - start;
  image.format = decoded.format;
  image.source_width = decoded.picture.width();
  image.source_height = decoded.picture.height();
  image.warning = std::move(decoded.warning);
  return image;
}

}  // namespace quantbench
