// What decode.cpp and the three decoders share. Each decoder is a file that alone sees its library.
//
// Two of the libraries report errors by longjmp, which must not skip a destructor. So what they are called by is a
// step: a lambda that owns nothing, run by Attempt, in whose frame an error ends; the owners live in the frames below.
#pragma once

#include <csetjmp>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/error.h"
#include "image/decode.h"

namespace quantbench {

struct ImageFile {
  std::span<const std::byte> bytes;
  const std::string& name;
  const PixelLimits& limits;
};

// As the file has it, not upright yet.
struct RawImage {
  Rgb8 picture;
  std::string exif, xmp;  // empty where there is none
  std::string warning;
};

RawImage decode_jpeg(const ImageFile& file);
RawImage decode_png(const ImageFile& file);
RawImage decode_webp(const ImageFile& file);

// Error usage where a picture of this size is refused; the warning for one that is large, else nothing.
std::string check_size(int64_t width, int64_t height, const ImageFile& file);

// found: what is wrong, as a clause.
[[noreturn]] void refuse_damaged(const ImageFile& file, ImageFormat format, std::string_view found);
[[noreturn]] void refuse_unsupported(const ImageFile& file, ImageFormat format, std::string_view found);

// Where a library's errors end.
class Attempt {
 public:
  // False if the step ended in abandon().
  template <typename Step>
  bool run(Step step) {
    static_assert(std::is_trivially_destructible_v<Step>, "longjmp may leave it");
    if (setjmp(frame_) != 0) return false;
    step();
    return true;
  }
  // From a callback of the library, within run().
  [[noreturn]] void abandon() { std::longjmp(frame_, 1); }

 private:
  std::jmp_buf frame_;
};

}  // namespace quantbench
