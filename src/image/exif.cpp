#include "image/exif.h"

#include <algorithm>
#include <cstring>

namespace quantbench {
namespace {

constexpr std::string_view kExifPrefix("Exif\0\0", 6);
constexpr uint32_t kOrientationTag = 0x0112;
// Bytes of a number by the type of field: BYTE is 1, … DOUBLE 12.
constexpr uint64_t kFieldBytes[] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8};
// SHORT, LONG, and the same with a sign.
bool is_whole_number(uint32_t type) { return type == 3 || type == 4 || type == 8 || type == 9; }

// Numbers of a TIFF structure, in its byte order. What lies beyond the end is nothing.
class Tiff {
 public:
  explicit Tiff(std::string_view bytes) : bytes_(bytes) {}
  bool open() {
    big_endian_ = bytes_.starts_with("MM");
    return (big_endian_ || bytes_.starts_with("II")) && number(2, 2) == 42u && number(4, 4);
  }
  bool has(uint64_t at, uint64_t count) const { return at <= bytes_.size() && bytes_.size() - at >= count; }
  std::optional<uint32_t> number(uint64_t at, uint64_t count) const {
    if (!has(at, count)) return std::nullopt;
    uint32_t value = 0;
    for (uint64_t i = 0; i < count; ++i) {
      const auto byte = static_cast<unsigned char>(bytes_[at + (big_endian_ ? i : count - 1 - i)]);
      value = value << 8 | byte;
    }
    return value;
  }

 private:
  std::string_view bytes_;
  bool big_endian_ = false;
};

}  // namespace

std::optional<int> orientation_in_exif(std::string_view exif) {
  for (int i = 0; i < 2 && exif.starts_with(kExifPrefix); ++i) exif.remove_prefix(kExifPrefix.size());
  if (exif.empty()) return std::nullopt;
  Tiff tiff(exif);
  if (!tiff.open()) return 1;
  const uint64_t directory = tiff.number(4, 4).value_or(0);
  const uint32_t entries = tiff.number(directory, 2).value_or(0);
  for (uint32_t i = 0; i < entries; ++i) {
    const uint64_t entry = directory + 2 + uint64_t{12} * i;
    if (!tiff.has(entry, 12)) break;
    const uint32_t type = *tiff.number(entry + 2, 2);
    if (type >= std::size(kFieldBytes)) continue;
    const uint64_t bytes = kFieldBytes[type] * uint64_t{*tiff.number(entry + 4, 4)};
    const uint64_t at = bytes > 4 ? *tiff.number(entry + 8, 4) : entry + 8;  // what does not fit in stands elsewhere
    if (!tiff.has(at, bytes)) break;
    if (tiff.number(entry, 2) != kOrientationTag || bytes == 0) continue;
    if (!is_whole_number(type)) return 1;
    return static_cast<int>(std::min<uint32_t>(*tiff.number(at, kFieldBytes[type]), 0xFFFF));  // the first of several
  }
  return std::nullopt;
}

std::optional<int> orientation_in_xmp(std::string_view xmp) {
  constexpr std::string_view kName = "tiff:Orientation";
  for (size_t at = xmp.find(kName); at != std::string_view::npos; at = xmp.find(kName, at + 1)) {
    std::string_view rest = xmp.substr(at + kName.size());
    const size_t opening = rest.starts_with("=\"") ? 2 : rest.starts_with('>') ? 1 : 0;
    if (opening == 0) continue;
    rest.remove_prefix(opening);
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] - '0';
  }
  return std::nullopt;
}

Rgb8 upright(Rgb8 picture, int orientation) {
  if (orientation < 2 || orientation > 8) return picture;
  const bool sideways = orientation >= 5;
  const int width = picture.width(), height = picture.height();
  Rgb8 out(sideways ? height : width, sideways ? width : height);
  // The source of out's pixel (x, y) is x·right + y·down behind the source of (0, 0).
  const ptrdiff_t pixel = 3, line = static_cast<ptrdiff_t>(picture.row_bytes());
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const ptrdiff_t along = from_right ? -pixel : pixel, across = from_bottom ? -line : line;
  const ptrdiff_t right = sideways ? across : along, down = sideways ? along : across;
  const uint8_t* const start = picture.row(from_bottom ? height - 1 : 0) + (from_right ? pixel * (width - 1) : 0);
  // By squares, so that neither side's lines leave the cache before all of their pixels were used.
  constexpr int kSquare = 32;
  for (int y0 = 0; y0 < out.height(); y0 += kSquare) {
    for (int x0 = 0; x0 < out.width(); x0 += kSquare) {
      const int columns = std::min(kSquare, out.width() - x0);
      for (int y = y0; y < std::min(y0 + kSquare, out.height()); ++y) {
        const uint8_t* from = start + x0 * right + y * down;
        uint8_t* to = out.row(y) + pixel * x0;
        for (int x = 0; x < columns; ++x, from += right, to += pixel) std::memcpy(to, from, 3);
      }
    }
  }
  return out;
}

}  // namespace quantbench
