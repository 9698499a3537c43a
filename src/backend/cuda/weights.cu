// Weights as LLM.int8 and NF4 store them, from fp16: the same bytes as the host's (quant/int8.h, quant/nf4.h). A plain
// pass over what the host's copy brings, which takes ten times as long.
#include "backend/cuda/block.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kBlock = 64, kNestedBlock = 256;  // kNf4Block, kNf4NestedBlock
constexpr uint32_t kInfinity = 0x7c00;
constexpr float kSteps = 1 << 24;  // of fp16 between 0 and 1

// A row a block.
__global__ void __launch_bounds__(kThreads) quantize_rows_kernel(const __grid_constant__ RowsArgs a) {
  wait_for_previous();
  let_next_start();
  const size_t start = static_cast<size_t>(block_x()) * static_cast<size_t>(a.k);
  uint32_t magnitude = 0;
  for (int i = thread_index(); i < a.k; i += kThreads) magnitude = larger_halves(magnitude, a.w[start + i] & 0x7fffu);
  magnitude = block_larger_halves<kThreads>(magnitude);
  // A NaN keeps its digits, which a conversion would not.
  const float absmax = magnitude > kInfinity ? float_of_bits(0x7f800000 | (magnitude & 0x3ff) << 13)
                                             : float_of_half(static_cast<uint16_t>(magnitude));
  const bool has_codes = magnitude != 0 && magnitude < kInfinity;
  const float scale = mul_rn(127.0f, div_rn(1.0f, absmax));
  for (int i = thread_index(); i < a.k; i += kThreads) {
    a.codes[start + i] =
        has_codes ? static_cast<int8_t>(round_to_int(mul_rn(float_of_half(a.w[start + i]), scale))) : int8_t{0};
  }
  if (thread_index() == 0) a.absmax[block_x()] = absmax;
}

QB_DEVICE uint32_t nf4_code(float x, const float (&midpoints)[15]) {
  uint32_t code = 0;
#pragma unroll
  for (int i = 0; i < 15; ++i) code += x > midpoints[i];
  return code;
}

// A block of weights a warp, a byte a lane.
__global__ void __launch_bounds__(kThreads) quantize_blocks_kernel(const __grid_constant__ BlocksArgs a) {
  wait_for_previous();
  let_next_start();
  const size_t blocks = (a.count + kBlock - 1) / kBlock, step = static_cast<size_t>(blocks_x()) * kWarps;
  for (size_t block = static_cast<size_t>(block_x()) * kWarps + warp_index(); block < blocks; block += step) {
    const size_t at = block * kBlock + 2 * static_cast<size_t>(lane_index());
    const uint16_t high = at < a.count ? a.w[at] : uint16_t{0}, low = at + 1 < a.count ? a.w[at + 1] : uint16_t{0};
    const uint32_t most = warp_max(larger_halves(high & 0x7fffu, low & 0x7fffu));
    const float absmax = float_of_half(static_cast<uint16_t>(most)), scale = div_rn(1.0f, absmax);
    if (lane_index() == 0) a.absmax[block] = absmax;
    if (at >= a.count) continue;
    const uint32_t code = nf4_code(mul_rn(float_of_half(high), scale), a.midpoints) << 4 |
                          nf4_code(mul_rn(float_of_half(low), scale), a.midpoints);
    a.codes[at / 2] = static_cast<uint8_t>(code);
  }
}

// One block. The sum is exact, so its order does not matter.
constexpr int kMeanThreads = 1024;
__global__ void __launch_bounds__(kMeanThreads) mean_kernel(const __grid_constant__ ScalesArgs a) {
  wait_for_previous();
  let_next_start();
  uint64_t sum = 0;
  uint32_t flags = 0;  // 1: an infinity, 0x10000: a NaN
#pragma unroll 8
  for (size_t i = static_cast<size_t>(thread_index()); i < a.blocks; i += kMeanThreads) {
    const float value = a.absmax[i];
    const uint32_t bits = bits_of_float(value);
    constexpr uint32_t kInfinite = 0x7f800000;
    if (bits < kInfinite) {
      sum += static_cast<uint64_t>(static_cast<int64_t>(value * kSteps));
    } else {
      flags |= bits == kInfinite ? 1 : 0x10000;
    }
  }
  sum = block_sum<kMeanThreads>(sum);
  flags = block_larger_halves<kMeanThreads>(flags);
  if (thread_index() != 0) return;
  if (flags != 0) {
    *a.offset = float_of_bits(flags >= 0x10000 ? 0x7fc00000 : 0x7f800000);
  } else {
    *a.offset =
        static_cast<float>(static_cast<double>(sum) / static_cast<double>(kSteps) / static_cast<double>(a.blocks));
  }
}

// A group of scales a block, one a thread.
__global__ void __launch_bounds__(kNestedBlock) quantize_scales_kernel(const __grid_constant__ ScalesArgs a) {
  __shared__ float middle[kNestedBlock];
  wait_for_previous();
  let_next_start();
  const int own = thread_index();
  // The last is above all, so that no value is above or equal to it.
  middle[own] = own < kNestedBlock - 1 ? mul_rn(add_rn(a.nested_code[own], a.nested_code[own + 1]), 0.5f)
                                       : float_of_bits(0x7fc00000);
  const size_t i = static_cast<size_t>(block_x()) * kNestedBlock + static_cast<size_t>(own);
  const float value = i < a.blocks ? a.absmax[i] - *a.offset : 0.0f;
  const float magnitude = value < 0 ? -value : value;
  const float largest = block_max<kNestedBlock>(magnitude > 0 ? magnitude : 0.0f);  // a NaN is none
  if (own == 0) a.nested_absmax[block_x()] = largest;
  sync_block();
  if (i >= a.blocks) return;
  const float x = mul_rn(value, div_rn(1.0f, largest));
  int below = 0;  // midpoints < x
  for (int half = 128; half > 0; half /= 2) below += x > middle[below + half - 1] ? half : 0;
  if (x == middle[below]) below += below & 1;
  a.absmax8[i] = static_cast<uint8_t>(below);
}

}  // namespace

void quantize_rows(const RowsArgs& args, const Stream& stream) {
  launch(quantize_rows_kernel, {args.rows}, kThreads, stream, args);
}
void quantize_blocks(const BlocksArgs& args, const Stream& stream) {
  constexpr size_t kMostBlocks = 4096;
  const size_t blocks = (args.count + kBlock * kWarps - 1) / (kBlock * kWarps);
  launch(quantize_blocks_kernel, {static_cast<int>(blocks < kMostBlocks ? blocks : kMostBlocks)}, kThreads, stream,
         args);
}
void quantize_scales(const ScalesArgs& args, const Stream& stream) {
  launch(mean_kernel, {1}, kMeanThreads, stream, args);
  launch(quantize_scales_kernel, {static_cast<int>((args.blocks + kNestedBlock - 1) / kNestedBlock)}, kNestedBlock,
         stream, args);
}

}  // namespace quantbench::QB_CUDA
