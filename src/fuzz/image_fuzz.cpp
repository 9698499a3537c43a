// Picture files. Changes know the parts that each format is made of (a PNG's chunks with their sums, a JPEG's segments,
// a WebP's chunks), what their headers hold, and that the pixels of a PNG are packed.
#include <zlib.h>

#include "core/error.h"
#include "fuzz/fuzzer.h"
#include "image/decode.h"
#include "image/test_pictures.h"

namespace quantbench::fuzz {
namespace {

// What damaged headers claim is decoded up to this, so that an input stays quick.
constexpr PixelLimits kLimits{200'000, 100'000};

uint32_t read_be(std::string_view text, size_t at, size_t bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value = value << 8 | static_cast<uint8_t>(text[at + i]);
  return value;
}
std::string be(uint32_t value, size_t bytes) {
  std::string text;
  while (bytes-- > 0) text += static_cast<char>(value >> (8 * bytes));
  return text;
}
std::string le(uint32_t value, size_t bytes) {
  const std::string text = be(value, bytes);
  return {text.rbegin(), text.rend()};
}

enum class Kind { png, jpeg, webp };
struct Part {
  std::string name, content;  // a chunk's four letters; a JPEG's marker byte, with the scan that follows it
};
struct Parts {
  Kind kind = Kind::png;
  std::vector<Part> parts;
  std::string rest;  // behind what could be taken apart
};

constexpr std::string_view kPngBegin = "\x89PNG\r\n\x1a\n";

std::string inflated(const std::string& data) {
  std::string out(1 << 16, '\0');
  uLongf bytes = out.size();
  if (::uncompress(reinterpret_cast<Bytef*>(out.data()), &bytes, reinterpret_cast<const Bytef*>(data.data()),
                   data.size()) != Z_OK)
    return {};
  out.resize(bytes);
  return out;
}
std::string deflated(const std::string& data) {
  uLongf bytes = ::compressBound(data.size());
  std::string out(bytes, '\0');
  ::compress2(reinterpret_cast<Bytef*>(out.data()), &bytes, reinterpret_cast<const Bytef*>(data.data()), data.size(),
              1);
  out.resize(bytes);
  return out;
}

bool take_apart(std::string_view file, Parts* into) {
  size_t at = 0;
  if (file.starts_with(kPngBegin)) {
    into->kind = Kind::png;
    for (at = kPngBegin.size(); at + 12 <= file.size();) {
      const size_t length = read_be(file, at, 4);
      if (length > file.size() - at - 12) break;
      into->parts.push_back({std::string(file.substr(at + 4, 4)), std::string(file.substr(at + 8, length))});
      at += 12 + length;
    }
  } else if (file.starts_with("RIFF") && file.size() >= 12) {
    into->kind = Kind::webp;
    for (at = 12; at + 8 <= file.size();) {
      const std::string size(file.substr(at + 4, 4));
      const size_t length = read_be(std::string(size.rbegin(), size.rend()), 0, 4);
      if (length > file.size() - at - 8) break;
      into->parts.push_back({std::string(file.substr(at, 4)), std::string(file.substr(at + 8, length))});
      at += std::min(8 + length + (length & 1), file.size() - at);
    }
  } else if (file.starts_with("\xff\xd8")) {
    into->kind = Kind::jpeg;
    for (at = 2; at + 4 <= file.size() && static_cast<uint8_t>(file[at]) == 0xFF;) {
      const auto marker = static_cast<uint8_t>(file[at + 1]);
      const size_t length = read_be(file, at + 2, 2);
      if (length < 2 || length > file.size() - at - 2) break;
      size_t end = at + 2 + length;
      // Behind the header of a scan come its bits, up to a marker that is no restart.
      while (marker == 0xDA && end + 1 < file.size() &&
             (static_cast<uint8_t>(file[end]) != 0xFF || file[end + 1] == 0 ||
              (file[end + 1] & 0xF8) == static_cast<char>(0xD0)))
        ++end;
      into->parts.push_back(
          {std::string(1, static_cast<char>(marker)), std::string(file.substr(at + 4, end - at - 4))});
      if (marker == 0xDA) into->parts.back().content.insert(0, be(static_cast<uint32_t>(length), 2));
      at = end;
    }
  } else {
    return false;
  }
  into->rest = file.substr(at);
  return !into->parts.empty();
}

std::string put_together(const Parts& from) {
  std::string file, body;
  for (const Part& part : from.parts) {
    if (from.kind == Kind::png) {
      const std::string chunk = part.name + part.content;
      const uLong sum = ::crc32(0, reinterpret_cast<const Bytef*>(chunk.data()), static_cast<uInt>(chunk.size()));
      body += be(static_cast<uint32_t>(part.content.size()), 4) + chunk + be(static_cast<uint32_t>(sum), 4);
    } else if (from.kind == Kind::webp) {
      body += part.name + le(static_cast<uint32_t>(part.content.size()), 4) + part.content;
      if (part.content.size() % 2 == 1) body += '\0';
    } else if (part.name == "\xDA") {
      body += "\xff" + part.name + part.content;  // with its length
    } else {
      body += "\xff" + part.name + be(static_cast<uint32_t>(part.content.size() + 2), 2) + part.content;
    }
  }
  if (from.kind == Kind::png) return std::string(kPngBegin) + body + from.rest;
  if (from.kind == Kind::jpeg) return "\xff\xd8" + body + from.rest;
  return "RIFF" + le(static_cast<uint32_t>(body.size() + from.rest.size() + 4), 4) + "WEBP" + body + from.rest;
}

void mutate_parts(Parts* p, std::string_view other, Random& random) {
  std::vector<Part>& parts = p->parts;
  const size_t at = random.below(parts.size());
  Parts others;
  const bool has_other = take_apart(other, &others) && others.kind == p->kind;
  switch (random.below(8)) {
    case 0: parts.insert(parts.begin() + static_cast<long>(random.below(parts.size())), Part(parts[at])); return;
    case 1: parts.erase(parts.begin() + static_cast<long>(at)); return;
    case 2: std::swap(parts[at], parts[random.below(parts.size())]); return;
    case 3:
      if (has_other) {
        parts.insert(parts.begin() + static_cast<long>(at), others.parts[random.below(others.parts.size())]);
        return;
      }
      break;
    case 4:
      if (has_other) {
        parts[at] = others.parts[random.below(others.parts.size())];
        return;
      }
      break;
    case 5:  // of a header's first bytes, which hold sizes and kinds
      if (!parts[at].content.empty()) {
        char& byte = parts[at].content[random.below(std::min<size_t>(parts[at].content.size(), 20))];
        byte = random.one_in(2) ? static_cast<char>(random.below(18)) : static_cast<char>(byte + 1);
      }
      return;
    case 6: {
      static constexpr std::string_view kNames[] = {"tRNS", "PLTE", "eXIf", "zTXt", "iTXt", "tEXt", "iCCP", "gAMA",
                                                    "sBIT", "acTL", "fcTL", "fdAT", "VP8 ", "VP8L", "VP8X", "ALPH",
                                                    "ANIM", "ANMF", "EXIF", "XMP ", "\xC0", "\xC1", "\xC2", "\xC4",
                                                    "\xDB", "\xDD", "\xE0", "\xE1", "\xEE"};
      parts[at].name = random.pick(std::span<const std::string_view>(kNames));
      return;
    }
    default: break;
  }
  std::string& content = parts[at].content;
  if (parts[at].name == "IDAT" && random.one_in(2)) {
    std::string pixels = inflated(content);
    if (!pixels.empty()) {
      mutate_bytes(&pixels, random);
      content = deflated(pixels);
      return;
    }
  }
  mutate_bytes(&content, random);
}

}  // namespace

void run(std::string_view input) {
  try {
    const DecodedImage image = decode_image(std::as_bytes(std::span(input)), "picture", kLimits);
    const int64_t pixels = int64_t{image.picture.width()} * image.picture.height();
    check(pixels >= 1 && pixels <= kLimits.refuse_above, "a picture has pixels, and not too many");
    check(image.picture.pixels().size() == static_cast<size_t>(3 * pixels), "a picture has the pixels of its size");
  } catch (const Error& error) {
    check(error.kind() == ErrorKind::usage, "what is wrong is the file that was given");
  }
}

std::vector<std::string> seeds() {
  std::vector<std::string> seeds;
  for (const auto& golden : image_goldens()["files"]) seeds.push_back(test_image(golden["file"]));
  return seeds;
}

void mutate(std::string* input, std::string_view other, Random& random) {
  Parts parts;
  if (random.one_in(8) || !take_apart(*input, &parts)) return mutate_bytes(input, random);
  mutate_parts(&parts, other, random);
  *input = put_together(parts);
}

}  // namespace quantbench::fuzz
