// NF4 (Dettmers et al. 2023, QLoRA) as bitsandbytes stores it: 4-bit NormalFloat, blocks of 64 over the flattened
// matrix, absmax optionally double-quantised to 8 bits in groups of 256.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "core/parallel.h"
#include "quant/matrix.h"

namespace quantbench {

extern const std::array<float, 16> kNf4Code;  // index 7 is 0
const std::array<float, 256>& nested_code();  // the dynamic 8-bit code of double quantisation

// Owns what HostNf4 views.
struct Nf4Weights {
  int n = 0, k = 0;
  std::vector<uint8_t> codes;
  std::vector<uint8_t> absmax8;
  std::vector<float> nested_absmax;
  float offset = 0;
  std::vector<float> absmax;  // filled only when not double-quantised
  HostNf4 view() const { return {n, k, codes, absmax8, nested_absmax, offset, absmax}; }
};

// w: [n, k]. Always double-quantised unless told otherwise. `into` is reused: no allocation once it is large enough.
void quantize_nf4(std::span<const f16> w, int n, int k, Nf4Weights* into, ThreadPool& pool,
                  bool double_quantize = true);

// The same in parts: begin_nf4(), then blocks from first_block on for parts [whole blocks] (the last may end with the
// matrix), which together are all of them, then finish_nf4().
void begin_nf4(int n, int k, Nf4Weights* into);
void quantize_nf4_part(std::span<const f16> part, size_t first_block, Nf4Weights* into, ThreadPool& pool);
void finish_nf4(Nf4Weights* into, ThreadPool& pool, bool double_quantize = true);

// The mean of the blocks' absmax: what quantize_nf4 subtracts before the second quantisation. From their exact sum (up
// to 2^30 weights), so that every backend can come to the same.
float nf4_offset(std::span<const f16> w, ThreadPool& pool);

// The second quantisation alone: absmax - offset in groups of 256, each to the nearest of nested_code().
// absmax: [blocks]; absmax8: [blocks]; nested_absmax: [ceil(blocks / 256)].
void quantize_absmax(std::span<const float> absmax, float offset, std::span<uint8_t> absmax8,
                     std::span<float> nested_absmax, ThreadPool& pool);

// The fp32 scale of block b.
float block_scale(const HostNf4& m, size_t block);
// out[i] = code · scale, fp32, over the flattened matrix.
void dequantize_nf4(const HostNf4& m, std::span<float> out);

}  // namespace quantbench
