#include "image/decode.h"

#include "image/codecs.h"
#include "image/exif.h"

namespace quantbench {
namespace {

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

ImageFormat recognise(const ImageFile& file) {
  const std::string_view bytes = text_of(file.bytes);
  if (bytes.starts_with("\xFF\xD8\xFF")) return ImageFormat::jpeg;
  if (bytes.starts_with("\x89PNG\r\n\x1A\n")) return ImageFormat::png;
  if (bytes.starts_with("RIFF") && bytes.size() >= 12 && bytes.substr(8, 4) == "WEBP") return ImageFormat::webp;
  const auto other = [&] {
    if (bytes.empty()) return "nothing: it has no bytes";
    if (bytes.starts_with("GIF8")) return "a GIF";
    if (bytes.starts_with("BM")) return "a BMP";
    if (bytes.starts_with(std::string_view("II*\0", 4)) || bytes.starts_with(std::string_view("MM\0*", 4)))
      return "a TIFF";
    if (bytes.size() >= 12 && bytes.substr(4, 4) == "ftyp") return "an AVIF, HEIC or video";
    if (bytes.starts_with("version https://git-lfs")) return "a pointer of Git LFS (git lfs pull fetches the file)";
    return "something else";
  };
  fail(ErrorKind::usage,
       "'{}' is not a picture that can be read: expected a JPEG, PNG or WebP by its content, found {}; "
       "name another file, or convert this one",
       file.name, other());
}

}  // namespace

const char* name_of(ImageFormat format) {
  switch (format) {
    case ImageFormat::jpeg: return "JPEG";
    case ImageFormat::png: return "PNG";
    case ImageFormat::webp: return "WebP";
  }
  return "unknown";
}

std::string check_size(int64_t width, int64_t height, const ImageFile& file) {
  if (width <= 0 || height <= 0) {
    fail(ErrorKind::usage, "'{}' is a picture without pixels: its header says {} × {}; name another file", file.name,
         width, height);
  }
  // Neither is above 2³², so only the product needs more bits than these have.
  const auto pixels = static_cast<unsigned __int128>(width) * static_cast<unsigned __int128>(height);
  const auto above = [&](int64_t limit) { return pixels > static_cast<unsigned __int128>(limit); };
  if (above(file.limits.refuse_above)) {
    fail(ErrorKind::usage,
         "'{}' is too large: its header says {} × {} pixels, at most {} in all are read, since a small file may claim "
         "any "
         "number; scale the picture down and name that",
         file.name, width, height, file.limits.refuse_above);
  }
  if (!above(file.limits.warn_above)) return "";
  return fmt::format(
      "'{}' has {} × {} pixels, which is much for a picture: more than {} may be an attempt to exhaust memory",
      file.name, width, height, file.limits.warn_above);
}

void refuse_damaged(const ImageFile& file, ImageFormat format, std::string_view found) {
  fail(ErrorKind::usage, "'{}' is damaged: expected a whole {}, found that {}; fetch the file again, or name another",
       file.name, name_of(format), found);
}

void refuse_unsupported(const ImageFile& file, ImageFormat format, std::string_view found) {
  fail(ErrorKind::usage,
       "'{}' is a {} of a kind that is not read: {}; save it with 8 bits a channel as RGB, or name another", file.name,
       name_of(format), found);
}

DecodedImage decode_image(std::span<const std::byte> file, const std::string& name, const PixelLimits& limits) {
  const ImageFile source{file, name, limits};
  DecodedImage decoded;
  decoded.format = recognise(source);
  RawImage raw = decoded.format == ImageFormat::jpeg  ? decode_jpeg(source)
                 : decoded.format == ImageFormat::png ? decode_png(source)
                                                      : decode_webp(source);
  auto orientation = orientation_in_exif(raw.exif);
  if (!orientation) orientation = orientation_in_xmp(raw.xmp);
  decoded.orientation = orientation.value_or(1);
  decoded.picture = upright(std::move(raw.picture), decoded.orientation);
  decoded.warning = std::move(raw.warning);
  return decoded;
}

}  // namespace quantbench
