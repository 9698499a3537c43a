// Picture files as pixels: JPEG by libjpeg-turbo, PNG by libpng, WebP by libwebp, told apart by their content.
//
// The pixels are those of Pillow's `ImageOps.exif_transpose(Image.open(file)).convert("RGB")`, which is what
// transformers makes of a file: transparency is dropped and not composited, colour profiles and gamma are not applied,
// CMYK is taken to be inverted as Adobe writes it, of 16 bits a channel the high byte counts (of grey, what exceeds 255
// is white), and of an animation the first frame is taken. Unlike Pillow, data that its library finds damaged is
// refused, also where the library would go on with a guess.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "image/rgb8.h"

namespace quantbench {

// Pillow's: twice its MAX_IMAGE_PIXELS is a decompression bomb, once is worth a warning. Held against what the header
// says, before anything is allocated by it.
struct PixelLimits {
  int64_t refuse_above = 178'956'970, warn_above = 89'478'485;
};

enum class ImageFormat { jpeg, png, webp };
const char* name_of(ImageFormat format);  // "JPEG"

struct DecodedImage {
  Rgb8 picture;  // upright
  ImageFormat format = ImageFormat::jpeg;
  int orientation = 1;  // what the file said (EXIF's tag, else XMP's), already applied
  std::string warning;  // a sentence or more for the user; empty mostly
};

// file: all bytes of it. name: for messages. Error usage where it is no such picture, damaged, cut off, of a kind that
// is not supported, without pixels, or larger than limits allow; out_of_memory.
DecodedImage decode_image(std::span<const std::byte> file, const std::string& name, const PixelLimits& limits = {});

}  // namespace quantbench
