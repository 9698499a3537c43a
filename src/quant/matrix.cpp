#include "quant/matrix.h"

namespace quantbench {

std::string_view name_of(Format format) {
  switch (format) {
    case Format::f16: return "f16";
    case Format::f32: return "f32";
    case Format::int8: return "int8";
    case Format::nf4: return "nf4";
    case Format::bf16: return "bf16";
  }
  return "?";
}

FormatBytes format_bytes(Format format, int n, int k, bool double_quantized) {
  const size_t count = static_cast<size_t>(n) * k;
  switch (format) {
    case Format::f16:
    case Format::bf16: return {count * 2, 0};
    case Format::f32: return {count * 4, 0};
    case Format::int8: return {count, static_cast<size_t>(n) * 4};
    case Format::nf4: {
      const size_t blocks = ceil_div(count, kNf4Block);
      const size_t scales = double_quantized ? blocks + 4 * ceil_div(blocks, kNf4NestedBlock) : 4 * blocks;
      return {ceil_div(count, 2), scales};
    }
  }
  return {};
}

}  // namespace quantbench
