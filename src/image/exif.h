// Which way up a picture is, from what cameras and editors leave beside it.
#pragma once

#include <optional>
#include <string_view>

#include "image/rgb8.h"

namespace quantbench {

// The orientation (tag 0x0112) of the first directory of an EXIF block, with or without "Exif\0\0" before it; nothing
// where the block does not name it. As in Pillow, a block that does not begin as EXIF does, and a value that is no
// number, are 1. EXIF 2.32, TIFF 6.0.
std::optional<int> orientation_in_exif(std::string_view exif);
// tiff:Orientation of an XMP packet.
std::optional<int> orientation_in_xmp(std::string_view xmp);

// The picture as it is meant to be seen: orientation 1–8 as EXIF numbers them; others leave it as it is, as does 1.
Rgb8 upright(Rgb8 picture, int orientation);

}  // namespace quantbench
