// PNG by libpng. What it can turn into RGB by itself is left to it; rows are read where they stay.
#include <png.h>

#include <cstring>
#include <utility>

#include "image/codecs.h"

namespace quantbench {
namespace {

// Chunks that change nothing here and are not worth parsing: colour management, hints, and transparency, which is
// dropped.
constexpr png_byte kIgnoredChunks[] =
    "bKGD\0cHRM\0gAMA\0hIST\0iCCP\0oFFs\0pCAL\0pHYs\0sBIT\0sCAL\0sPLT\0sRGB\0tIME\0tRNS";
constexpr int kIgnoredCount = sizeof kIgnoredChunks / 5;

class PngReader {
 public:
  explicit PngReader(const ImageFile& file) : file_(file), rest_(file.bytes) {}
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;

  RawImage read() {
    RawImage image;
    check_header();
    open();
    attempt([this] { png_read_info(png_, info_); });
    // libpng passes over chunks before the header.
    image.warning = check_size(png_get_image_width(png_, info_), png_get_image_height(png_, info_), file_);
    const auto width = static_cast<int>(png_get_image_width(png_, info_));
    const auto height = static_cast<int>(png_get_image_height(png_, info_));
    const bool deep_grey =
        png_get_color_type(png_, info_) == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png_, info_) == 16;
    int passes = 1;
    size_t row_bytes = 0;
    attempt([this, deep_grey, &passes, &row_bytes] {
      if (!deep_grey) {
        png_set_strip_16(png_);
        png_set_expand(png_);  // palettes, and grey of 1, 2 and 4 bits
        png_set_strip_alpha(png_);
        png_set_gray_to_rgb(png_);
      }
      passes = png_set_interlace_handling(png_);
      png_read_update_info(png_, info_);
      row_bytes = png_get_rowbytes(png_, info_);
    });
    image.picture = Rgb8(width, height);
    if (row_bytes != size_t{deep_grey ? 2u : 3u} * static_cast<size_t>(width)) {
      fail(ErrorKind::internal, "'{}': libpng gives rows of {} bytes for {} pixels; please report this file",
           file_.name, row_bytes, width);
    }
    uint8_t* const pixels = image.picture.row(0);
    const size_t stride = image.picture.row_bytes();
    attempt([this, pixels, stride, height, passes] {
      for (int pass = 0; pass < passes; ++pass) {
        for (int y = 0; y < height; ++y) png_read_row(png_, pixels + static_cast<size_t>(y) * stride, nullptr);
      }
      png_read_end(png_, info_);
    });
    if (deep_grey) {
      for (int y = 0; y < height; ++y) widen_grey(image.picture.row(y), width);
    }
    read_texts(&image);
    return image;
  }

 private:
  void open() {
    attempt([this] {
      png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, &PngReader::on_error, &PngReader::on_warning);
      if (!png_) return;
      info_ = png_create_info_struct(png_);
      if (!info_) return;
      png_set_read_fn(png_, this, &PngReader::on_read);
      png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // check_size() has the say
      png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, kIgnoredChunks, kIgnoredCount);
      png_set_crc_action(png_, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    });
    if (!info_) fail(ErrorKind::out_of_memory, "'{}': no memory for libpng; free some", file_.name);
  }

  static void on_error(png_structp png, png_const_charp text) {
    auto& reader = *static_cast<PngReader*>(png_get_error_ptr(png));
    std::strncpy(reader.message_, text, sizeof reader.message_ - 1);
    reader.attempt_.abandon();
  }
  static void on_warning(png_structp, png_const_charp) {}  // prints, otherwise
  static void on_read(png_structp png, png_bytep into, size_t bytes) {
    auto& reader = *static_cast<PngReader*>(png_get_io_ptr(png));
    if (bytes > reader.rest_.size()) {
      reader.ended_ = true;
      png_error(png, "no more data");
    }
    std::memcpy(into, reader.rest_.data(), bytes);
    reader.rest_ = reader.rest_.subspan(bytes);
  }

  // Runs a step; the Error of what the library reported in it.
  template <typename Step>
  void attempt(Step step) {
    if (attempt_.run(step)) return;
    const size_t bytes = file_.bytes.size();
    if (ended_) refuse_damaged(file_, ImageFormat::png, fmt::format("it ends early, after {} bytes", bytes));
    refuse_damaged(file_, ImageFormat::png,
                   fmt::format("libpng says: {} (at byte {} of {})", message_, bytes - rest_.size(), bytes));
  }

  // The size stands at the same place in every sound file, so it is known before anything is parsed.
  void check_header() const {
    constexpr size_t kAt = 16;
    if (file_.bytes.size() < kAt + 8 || std::memcmp(file_.bytes.data() + kAt - 4, "IHDR", 4) != 0) return;
    const auto* const size = reinterpret_cast<png_const_bytep>(file_.bytes.data() + kAt);
    check_size(png_get_uint_32(size), png_get_uint_32(size + 4), file_);
  }

  // 16 bits of grey at the row's start to three bytes a pixel, from the last on, in place.
  static void widen_grey(uint8_t* row, int width) {
    for (ptrdiff_t x = width - 1; x >= 0; --x) {
      const uint8_t value = row[2 * x] == 0 ? row[2 * x + 1] : 255;
      row[3 * x] = row[3 * x + 1] = row[3 * x + 2] = value;
    }
  }

  void read_texts(RawImage* image) {
    png_uint_32 exif_bytes = 0;
    png_bytep exif = nullptr;
    png_textp texts = nullptr;
    int count = 0;
    attempt([this, &exif_bytes, &exif, &texts, &count] {
      if (png_get_eXIf_1(png_, info_, &exif_bytes, &exif) == 0) exif = nullptr;
      png_get_text(png_, info_, &texts, &count);
    });
    std::string profile;
    for (int i = 0; i < count; ++i) {
      const std::string_view key = texts[i].key;
      const bool international = texts[i].compression >= PNG_ITXT_COMPRESSION_NONE;
      const std::string_view value(texts[i].text, international ? texts[i].itxt_length : texts[i].text_length);
      if (key == "XML:com.adobe.xmp") image->xmp = value;
      if (key == "Raw profile type exif") profile = from_hex_lines(value);
    }
    image->exif = exif ? std::string(reinterpret_cast<const char*>(exif), exif_bytes) : profile;
  }

  // How ImageMagick stored EXIF before PNG had a chunk for it: an empty line, a name, a count, then bytes in hex.
  static std::string from_hex_lines(std::string_view text) {
    std::string bytes;
    for (int line = 0; line < 3; ++line) {
      const size_t end = text.find('\n');
      if (end == std::string_view::npos) return bytes;
      text.remove_prefix(end + 1);
    }
    int digits = 0, value = 0;
    for (const char c : text) {
      if (c == '\n' || c == ' ') continue;
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) break;
      value = value * 16 + digit;
      if (++digits % 2 == 0) bytes.push_back(static_cast<char>(std::exchange(value, 0)));
    }
    return bytes;
  }

  const ImageFile& file_;
  std::span<const std::byte> rest_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  Attempt attempt_;
  char message_[256] = "";
  bool ended_ = false;
};

}  // namespace

RawImage decode_png(const ImageFile& file) { return PngReader(file).read(); }

}  // namespace quantbench
