// JPEG by libjpeg-turbo, with its defaults (accurate integer DCT, smooth upsampling of colour), which are Pillow's too.
#include <cstdio>  // before jpeglib.h, which needs it

#include <jpeglib.h>

#include <jerror.h>

#include <algorithm>
#include <vector>

#include "image/codecs.h"

namespace quantbench {
namespace {

constexpr int kApp1 = JPEG_APP0 + 1;
constexpr unsigned kMarkerBytes = 0xFFFF;
constexpr std::string_view kExifMarker("Exif\0\0", 6), kXmpMarker("http://ns.adobe.com/xap/1.0/\0", 29);
// A progressive file of a few kilobytes can ask for thousands of passes over all pixels; encoders make about ten.
constexpr int kMostScans = 100;

class JpegReader {
 public:
  explicit JpegReader(const ImageFile& file) : file_(file) {
    info_.err = jpeg_std_error(&errors_);
    info_.client_data = this;
    errors_.error_exit = [](j_common_ptr info) { of(info).stop(errors_code(info)); };
    errors_.emit_message = [](j_common_ptr info, int level) { of(info).warn(level); };
    errors_.output_message = [](j_common_ptr) {};  // prints, otherwise
    progress_.progress_monitor = [](j_common_ptr info) {
      JpegReader& reader = of(info);
      if (reader.info_.input_scan_number > kMostScans) reader.stop(kTooManyScans);
    };
    // All bytes are there from the start: asked for more, the library is told to wait, and returns.
    source_.init_source = [](j_decompress_ptr) {};
    source_.fill_input_buffer = [](j_decompress_ptr) -> boolean { return FALSE; };
    source_.skip_input_data = [](j_decompress_ptr info, long count) {
      jpeg_source_mgr& source = *info->src;
      const size_t skipped = std::min(source.bytes_in_buffer, static_cast<size_t>(std::max(count, 0L)));
      source.next_input_byte += skipped;
      source.bytes_in_buffer -= skipped;
    };
    source_.resync_to_restart = jpeg_resync_to_restart;
    source_.term_source = [](j_decompress_ptr) {};
    source_.next_input_byte = reinterpret_cast<const JOCTET*>(file.bytes.data());
    source_.bytes_in_buffer = file.bytes.size();
  }
  ~JpegReader() { jpeg_destroy_decompress(&info_); }
  JpegReader(const JpegReader&) = delete;

  RawImage read() {
    RawImage image;
    attempt([this] {
      jpeg_create_decompress(&info_);
      jpeg_save_markers(&info_, kApp1, kMarkerBytes);
    });
    info_.src = &source_;
    info_.progress = &progress_;
    read_header();
    image.warning = check_size(info_.image_width, info_.image_height, file_);
    if (info_.data_precision != 8) {
      refuse_unsupported(file_, ImageFormat::jpeg, fmt::format("{} bits a channel", info_.data_precision));
    }
    const int channels = info_.num_components;
    if (channels != 1 && channels != 3 && channels != 4) {
      refuse_unsupported(file_, ImageFormat::jpeg, fmt::format("{} channels", channels));
    }
    read_markers(&image);

    image.picture = Rgb8(static_cast<int>(info_.image_width), static_cast<int>(info_.image_height));
    info_.out_color_space = channels == 4 ? JCS_CMYK : JCS_RGB;
    bool started = false;
    attempt([this, &started] { started = jpeg_start_decompress(&info_) != FALSE; });
    if (!started) refuse_truncated();
    if (channels == 4) {
      read_cmyk(&image.picture);
    } else {
      read_rgb(&image.picture);
    }
    // Up to the end marker, where that is: what is there instead may be an error, nothing at all is none.
    attempt([this] { jpeg_finish_decompress(&info_); });
    if (note_[0] != '\0') {
      image.warning += fmt::format("{}'{}': libjpeg says: {}", image.warning.empty() ? "" : "; ", file_.name, note_);
    }
    return image;
  }

 private:
  static constexpr int kTooManyScans = -1;  // a code that is none of the library's
  static JpegReader& of(j_common_ptr info) { return *static_cast<JpegReader*>(info->client_data); }
  static int errors_code(j_common_ptr info) { return info->err->msg_code; }

  // From a callback: ends the step.
  [[noreturn]] void stop(int code) {
    code_ = code;
    if (code != kTooManyScans) errors_.format_message(reinterpret_cast<j_common_ptr>(&info_), message_);
    attempt_.abandon();
  }
  // The library goes on after these, with pixels of its own making after the first group.
  void warn(int level) {
    if (level >= 0) return;  // what it traces
    switch (errors_.msg_code) {
      case JWRN_HIT_MARKER:
      case JWRN_HUFF_BAD_CODE:
      case JWRN_ARITH_BAD_CODE:
      case JWRN_MUST_RESYNC: stop(errors_.msg_code);
      default:
        if (note_[0] == '\0') errors_.format_message(reinterpret_cast<j_common_ptr>(&info_), note_);
    }
  }

  // Runs a step; the Error of what the library reported in it.
  template <typename Step>
  void attempt(Step step) {
    if (attempt_.run(step)) return;
    if (code_ == JERR_OUT_OF_MEMORY) {
      fail(ErrorKind::out_of_memory,
           "'{}': decoding {} × {} pixels takes more memory than there is ({}); use a smaller picture", file_.name,
           info_.image_width, info_.image_height, message_);
    }
    if (code_ == kTooManyScans) {
      refuse_unsupported(file_, ImageFormat::jpeg, fmt::format("more than {} passes over the picture", kMostScans));
    }
    refuse_damaged(file_, ImageFormat::jpeg,
                   fmt::format("libjpeg says: {} (at byte {} of {})", message_, position(), file_.bytes.size()));
  }
  size_t position() const { return file_.bytes.size() - source_.bytes_in_buffer; }
  [[noreturn]] void refuse_truncated() const {
    refuse_damaged(file_, ImageFormat::jpeg,
                   fmt::format("it ends early, after {} bytes with {} of {} rows", file_.bytes.size(),
                               info_.output_scanline, info_.image_height));
  }

  void read_header() {
    int got = JPEG_SUSPENDED;
    attempt([this, &got] {
      do {
        got = jpeg_read_header(&info_, FALSE);
      } while (got == JPEG_HEADER_TABLES_ONLY);
    });
    if (got != JPEG_HEADER_OK) refuse_truncated();
  }
  // EXIF may be longer than a marker, then it goes on in the next.
  void read_markers(RawImage* image) const {
    for (const jpeg_marker_struct* marker = info_.marker_list; marker; marker = marker->next) {
      std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
      if (data.starts_with(kExifMarker)) image->exif += data.substr(kExifMarker.size());
      if (data.starts_with(kXmpMarker)) image->xmp = data.substr(kXmpMarker.size());
    }
  }

  void read_rgb(Rgb8* picture) {
    uint8_t* const pixels = picture->row(0);
    const size_t row_bytes = picture->row_bytes();
    attempt([this, pixels, row_bytes] {
      constexpr JDIMENSION kRows = 16;  // as many as the library has ready at once
      JSAMPROW rows[kRows];
      while (info_.output_scanline < info_.output_height) {
        const JDIMENSION count = std::min(kRows, info_.output_height - info_.output_scanline);
        for (JDIMENSION i = 0; i < count; ++i) rows[i] = pixels + (info_.output_scanline + i) * row_bytes;
        if (jpeg_read_scanlines(&info_, rows, count) == 0) return;
      }
    });
    if (info_.output_scanline < info_.output_height) refuse_truncated();
  }

  // Adobe's programs store 255 − ink, and so is every file of four channels read. What is printed of a channel is what
  // ink and black leave of white, their product in 255ths, rounded.
  void read_cmyk(Rgb8* picture) {
    std::vector<uint8_t> line(size_t{4} * static_cast<size_t>(picture->width()));
    for (int y = 0; y < picture->height(); ++y) {
      JSAMPROW row = line.data();
      JDIMENSION got = 0;
      attempt([this, &row, &got] { got = jpeg_read_scanlines(&info_, &row, 1); });
      if (got == 0) refuse_truncated();
      uint8_t* const out = picture->row(y);
      for (size_t x = 0; x < static_cast<size_t>(picture->width()); ++x) {
        const int unblack = line[4 * x + 3];
        for (size_t c = 0; c < 3; ++c) {
          const int product = (255 - line[4 * x + c]) * unblack + 128;
          out[3 * x + c] = static_cast<uint8_t>(std::max(0, unblack - (((product >> 8) + product) >> 8)));
        }
      }
    }
  }

  const ImageFile& file_;
  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_source_mgr source_{};
  jpeg_progress_mgr progress_{};
  Attempt attempt_;
  int code_ = 0;
  char message_[JMSG_LENGTH_MAX] = "", note_[JMSG_LENGTH_MAX] = "";
};

}  // namespace

RawImage decode_jpeg(const ImageFile& file) { return JpegReader(file).read(); }

}  // namespace quantbench
