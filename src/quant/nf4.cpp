#include "quant/nf4.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "quant/kernels.h"

namespace quantbench {
namespace {

constexpr size_t kGrainBlocks = 4096;  // 256 Ki weights a chunk of work: tens of microseconds

// torch.linspace(0.1, 1, points) in fp32: from both ends, with fused multiply-adds.
float linspace(int points, int i) {
  const float step = (1.0f - 0.1f) / static_cast<float>(points - 1);
  if (i < points / 2) return std::fma(step, static_cast<float>(i), 0.1f);
  return std::fma(-step, static_cast<float>(points - 1 - i), 1.0f);
}

std::array<float, 256> make_nested_code() {
  constexpr float kPowers[] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  std::array<float, 256> code{};
  size_t at = 0;
  for (int i = 0; i < 7; ++i) {
    const int parts = 1 << i;
    for (int j = 0; j < parts; ++j) {
      const float middle = (linspace(parts + 1, j) + linspace(parts + 1, j + 1)) / 2.0f;
      code[at++] = kPowers[i] * middle;
      code[at++] = -(kPowers[i] * middle);
    }
  }
  code[at++] = 0.0f;
  code[at++] = 1.0f;
  assert(at == code.size());
  std::sort(code.begin(), code.end());
  return code;
}

struct NestedMidpoints {
  std::array<float, 256> at;  // the last is NaN, which no value is above or equal to
};
const NestedMidpoints& nested_midpoints() {
  static const NestedMidpoints midpoints = [] {
    NestedMidpoints m{};
    for (size_t i = 0; i < 255; ++i) m.at[i] = (nested_code()[i] + nested_code()[i + 1]) * 0.5f;
    m.at[255] = std::numeric_limits<float>::quiet_NaN();
    return m;
  }();
  return midpoints;
}

// The nearest of the 256 codes; a value in the middle goes to the even one, where bitsandbytes' search ends. NaN, from
// 0 · 1/0, goes to code 0 on its way through comparisons that all fail. Without branches, which would be mispredicted.
uint8_t nested_code_of(float x, const NestedMidpoints& midpoints) {
  size_t below = 0;  // midpoints < x
  for (size_t step = 128; step > 0; step /= 2) {
    below += step * static_cast<size_t>(x > midpoints.at[below + step - 1]);
  }
  below += static_cast<size_t>(x == midpoints.at[below]) & below;
  return static_cast<uint8_t>(below);
}

// Of fp16 numbers without sign: from their exact sum, so that no order of adding changes it. Infinity where one of them
// is, NaN where one of them is that.
float mean_of(std::span<const float> values) {
  constexpr float kSteps = 1 << 24;  // of fp16 between 0 and 1
  uint64_t sum = 0;                  // in these steps: room for 2^24 blocks
  bool is_finite = true, has_nan = false;
  for (const float value : values) {
    const bool finite = std::isfinite(value);
    sum += static_cast<uint64_t>(finite ? static_cast<int64_t>(value * kSteps) : 0);
    is_finite &= finite, has_nan |= std::isnan(value);
  }
  if (has_nan) return std::numeric_limits<float>::quiet_NaN();
  if (!is_finite) return std::numeric_limits<float>::infinity();
  if (values.empty()) return 0;
  return static_cast<float>(static_cast<double>(sum) / kSteps / static_cast<double>(values.size()));
}

}  // namespace

const std::array<float, 16> kNf4Code = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

const std::array<float, 256>& nested_code() {
  static const std::array<float, 256> code = make_nested_code();
  return code;
}

float nf4_offset(std::span<const f16> w, ThreadPool& pool) {
  std::vector<float> absmax(ceil_div(w.size(), kNf4Block));
  const QuantKernels& kernels = quant_kernels();
  pool.for_chunks(absmax.size(), kGrainBlocks, [&](size_t begin, size_t end, int) {
    for (size_t block = begin; block < end; ++block) {
      const size_t first = block * kNf4Block, size = std::min<size_t>(kNf4Block, w.size() - first);
      absmax[block] = to_float(f16{kernels.max_magnitude(w.data() + first, size)});
    }
  });
  return mean_of(absmax);
}

void quantize_absmax(std::span<const float> absmax, float offset, std::span<uint8_t> absmax8,
                     std::span<float> nested_absmax, ThreadPool& pool) {
  assert(absmax8.size() == absmax.size() && nested_absmax.size() == ceil_div(absmax.size(), kNf4NestedBlock));
  const NestedMidpoints& midpoints = nested_midpoints();
  pool.for_chunks(nested_absmax.size(), kGrainBlocks / kNf4NestedBlock, [&](size_t begin, size_t end, int) {
    for (size_t group = begin; group < end; ++group) {
      const size_t first = group * kNf4NestedBlock, last = std::min(first + kNf4NestedBlock, absmax.size());
      float largest = 0;
      for (size_t b = first; b < last; ++b) largest = std::max(largest, std::fabs(absmax[b] - offset));
      nested_absmax[group] = largest;
      const float inverse = 1.0f / largest;
      for (size_t b = first; b < last; ++b) absmax8[b] = nested_code_of((absmax[b] - offset) * inverse, midpoints);
    }
  });
}

void begin_nf4(int n, int k, Nf4Weights* into) {
  const size_t count = static_cast<size_t>(n) * static_cast<size_t>(k);
  into->n = n;
  into->k = k;
  into->codes.resize(ceil_div(count, 2));
  into->absmax.resize(ceil_div(count, kNf4Block));
}

void quantize_nf4_part(std::span<const f16> part, size_t first_block, Nf4Weights* into, ThreadPool& pool) {
  const size_t blocks = ceil_div(part.size(), kNf4Block);
  assert(first_block + blocks <= into->absmax.size());
  const QuantKernels& kernels = quant_kernels();
  float* const absmax = into->absmax.data() + first_block;
  uint8_t* const codes = into->codes.data() + first_block * kNf4Block / 2;
  pool.for_chunks(blocks, kGrainBlocks, [&](size_t begin, size_t end, int) {
    const size_t first = begin * kNf4Block, last = std::min(end * kNf4Block, part.size());
    kernels.nf4_blocks(part.data() + first, last - first, absmax + begin, codes + first / 2);
  });
}

void finish_nf4(Nf4Weights* into, ThreadPool& pool, bool double_quantize) {
  const size_t blocks = into->absmax.size();
  into->offset = 0;
  into->absmax8.resize(double_quantize ? blocks : 0);
  into->nested_absmax.resize(double_quantize ? ceil_div(blocks, kNf4NestedBlock) : 0);
  if (double_quantize) {
    into->offset = mean_of(into->absmax);
    quantize_absmax(into->absmax, into->offset, into->absmax8, into->nested_absmax, pool);
    into->absmax.clear();
  }
}

void quantize_nf4(std::span<const f16> w, int n, int k, Nf4Weights* into, ThreadPool& pool, bool double_quantize) {
  assert(w.size() == static_cast<size_t>(n) * static_cast<size_t>(k));
  begin_nf4(n, k, into);
  quantize_nf4_part(w, 0, into, pool);
  finish_nf4(into, pool, double_quantize);
}

float block_scale(const HostNf4& m, size_t block) {
  if (m.absmax8.empty()) return m.absmax[block];
  return nested_code()[m.absmax8[block]] * m.nested_absmax[block / kNf4NestedBlock] + m.offset;
}

void dequantize_nf4(const HostNf4& m, std::span<float> out) {
  assert(out.size() == static_cast<size_t>(m.n) * static_cast<size_t>(m.k));
  for (size_t first = 0; first < out.size(); first += kNf4Block) {
    const float scale = block_scale(m, first / kNf4Block);
    const size_t last = std::min<size_t>(first + kNf4Block, out.size());
    for (size_t i = first; i < last; ++i) {
      const uint8_t byte = m.codes[i / 2];
      out[i] = kNf4Code[i % 2 == 0 ? byte >> 4 : byte & 15] * scale;
    }
  }
}

}  // namespace quantbench
