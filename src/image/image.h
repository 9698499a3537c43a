// A picture file as a vision model takes it, with what it took to get there.
#pragma once

#include <string>

#include "core/parallel.h"
#include "image/decode.h"

namespace quantbench {

struct Image {
  Rgb8 pixels;  // [size, size, 3]; siglip_planes() and siglip_patches() make numbers of them
  ImageFormat format = ImageFormat::jpeg;
  int source_width = 0, source_height = 0;  // upright, before resizing
  int64_t read_ns = 0;                      // the file into memory
  int64_t decode_ns = 0;                    // those bytes to upright pixels, one thread
  int64_t resize_ns = 0;                    // to size × size, the pool's threads
  std::string warning;                      // see DecodedImage
};

// Reads, decodes and resizes to size × size without regard to the aspect, as SigLIP's processor does. Error disk where
// the file cannot be read; usage where it is refused (decode_image, resize_bicubic) or larger than a gigabyte.
Image load_image(const std::string& path, int size, ThreadPool& pool);

}  // namespace quantbench
