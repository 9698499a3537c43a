// WebP by libwebp; libwebpdemux finds the frame and what stands beside it.
#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "image/codecs.h"

namespace quantbench {
namespace {

std::string chunk(const WebPDemuxer* demuxer, const char* name) {
  WebPChunkIterator found{};
  std::string bytes;
  if (WebPDemuxGetChunk(demuxer, name, 1, &found)) {
    bytes.assign(reinterpret_cast<const char*>(found.chunk.bytes), found.chunk.size);
  }
  WebPDemuxReleaseChunkIterator(&found);
  return bytes;
}

std::string_view meaning(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_BITSTREAM_ERROR: return "its frame cannot be decoded";
    case VP8_STATUS_NOT_ENOUGH_DATA:
    case VP8_STATUS_SUSPENDED: return "its frame ends early";
    case VP8_STATUS_UNSUPPORTED_FEATURE: return "its frame has a feature that libwebp does not know";
    default: return "libwebp does not decode its frame";
  }
}

}  // namespace

RawImage decode_webp(const ImageFile& file) {
  const WebPData data{reinterpret_cast<const uint8_t*>(file.bytes.data()), file.bytes.size()};
  // Neither of these two allocates by what the file claims.
  WebPBitstreamFeatures features;
  const VP8StatusCode header = WebPGetFeatures(data.bytes, data.size, &features);
  if (header != VP8_STATUS_OK) {
    refuse_damaged(file, ImageFormat::webp,
                   header == VP8_STATUS_NOT_ENOUGH_DATA ? fmt::format("it ends early, after {} bytes", data.size)
                                                        : "its header is not one");
  }
  RawImage image;
  image.warning = check_size(features.width, features.height, file);
  const std::unique_ptr<WebPDemuxer, void (*)(WebPDemuxer*)> demuxer(WebPDemux(&data), &WebPDemuxDelete);
  if (!demuxer) {
    refuse_damaged(file, ImageFormat::webp,
                   fmt::format("its parts do not fit together or end early, after {} bytes", data.size));
  }
  WebPIterator frame{};
  const std::unique_ptr<WebPIterator, void (*)(WebPIterator*)> release(&frame, &WebPDemuxReleaseIterator);
  const auto width = static_cast<int>(WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH));
  const auto height = static_cast<int>(WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT));
  if (width != features.width || height != features.height || !WebPDemuxGetFrame(demuxer.get(), 1, &frame) ||
      !frame.complete || frame.width <= 0 || frame.height <= 0 || frame.x_offset < 0 || frame.y_offset < 0 ||
      frame.width > width - frame.x_offset || frame.height > height - frame.y_offset) {
    refuse_damaged(file, ImageFormat::webp, "it has no whole first frame within its canvas");
  }

  // An animation's first frame may be smaller than its canvas; around it there is nothing, which is black.
  image.picture = Rgb8(width, height);
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config)) fail(ErrorKind::internal, "libwebp is of another version than its headers");
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  const size_t before =
      static_cast<size_t>(frame.y_offset) * image.picture.row_bytes() + size_t{3} * static_cast<size_t>(frame.x_offset);
  config.output.u.RGBA = {image.picture.row(0) + before, static_cast<int>(image.picture.row_bytes()),
                          image.picture.bytes() - before};
  const VP8StatusCode status = WebPDecode(frame.fragment.bytes, frame.fragment.size, &config);
  WebPFreeDecBuffer(&config.output);
  if (status == VP8_STATUS_OUT_OF_MEMORY) {
    fail(ErrorKind::out_of_memory,
         "'{}': decoding {} × {} pixels takes more memory than there is; use a smaller picture", file.name, width,
         height);
  }
  if (status != VP8_STATUS_OK) refuse_damaged(file, ImageFormat::webp, meaning(status));
  image.exif = chunk(demuxer.get(), "EXIF");
  image.xmp = chunk(demuxer.get(), "XMP ");
  return image;
}

}  // namespace quantbench
