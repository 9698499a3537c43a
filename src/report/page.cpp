#include "report/page.h"

#include <zlib.h>

#include <algorithm>
#include <new>

#include "core/error.h"
#include "report/page_parts.h"

namespace quantbench {
namespace {

std::string unzipped(std::string_view gzipped) {
  z_stream stream{};
  constexpr int kGzip = 16 + MAX_WBITS;
  if (inflateInit2(&stream, kGzip) != Z_OK) throw std::bad_alloc();
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(gzipped.data()));
  stream.avail_in = static_cast<uInt>(gzipped.size());
  std::string text;
  int status = Z_OK;
  while (status == Z_OK) {
    char block[1 << 16];
    stream.next_out = reinterpret_cast<Bytef*>(block);
    stream.avail_out = sizeof block;
    status = inflate(&stream, Z_NO_FLUSH);
    text.append(block, sizeof block - stream.avail_out);
  }
  inflateEnd(&stream);
  if (status != Z_STREAM_END) fail(ErrorKind::internal, "a part of the page in this program is damaged; build it anew");
  return text;
}

const PagePart* find_part(std::string_view name) {
  const auto parts = page_parts();
  const auto found = std::find_if(parts.begin(), parts.end(), [&](const PagePart& part) { return part.name == name; });
  return found == parts.end() ? nullptr : &*found;
}

}  // namespace

bool has_page() { return find_part("d3.js") != nullptr; }

std::string page_part(std::string_view name) {
  const PagePart* part = find_part(name);
  return part ? unzipped(part->gzipped) : "";
}

std::string page_html(std::string_view data) {
  if (!has_page()) {
    fail(ErrorKind::usage,
         "-o html: this program was built without D3, which draws the charts; install libjs-d3 (apt-get install "
         "libjs-d3), configure again and build, or use -o md, csv, json or jsonl");
  }
  // page.html has @{name} where a part goes.
  const std::string frame = page_part("page.html");
  std::string page;
  for (size_t at = 0; at < frame.size();) {
    const size_t begin = frame.find("@{", at);
    page.append(frame, at, begin - at);
    if (begin == std::string::npos) break;
    const size_t end = frame.find('}', begin);
    const std::string name = frame.substr(begin + 2, end - begin - 2);
    page += name == "data" ? std::string(data) : page_part(name);
    at = end + 1;
  }
  return page;
}

}  // namespace quantbench
