// NF4 weights as fp16 matrices, for products of many rows.
#include "backend/cuda/finish.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/wide.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256;
constexpr int kPiece = 8;  // codes of a word, 16 bytes of fp16: neighbouring lanes write whole lines
constexpr int kWords = 2;  // of a thread: enough blocks that some load while others store

__global__ void __launch_bounds__(kThreads) expand_kernel(const __grid_constant__ ExpandArgs a) {
  __shared__ float table[16 * kWarpSize];  // a copy of the codes a lane, so that no two meet in a bank
  let_next_start();
  for (int i = thread_index(); i < 16 * kWarpSize; i += kThreads) table[i] = a.code[i / kWarpSize];
  wait_for_previous();
  sync_block();
  const float* const codes = table + lane_index();
  uint16_t* to = a.to;
  for (int p = 0; p < a.part_count; ++p) {
    const ExpandArgs::Part& part = a.parts[p];
    const size_t k = static_cast<size_t>(part.w.k), start = part.first * k, pieces = part.count * k / kPiece;
    const auto* const from = reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(part.w.w) + start / 2);
    const size_t step = static_cast<size_t>(blocks_x()) * kThreads * kWords;
    for (size_t first = static_cast<size_t>(block_x()) * kThreads * kWords + thread_index(); first < pieces;
         first += step) {
      const auto at = [&](int j) { return first + static_cast<size_t>(j) * kThreads; };
      uint32_t word[kWords];
      float scale[kWords];
      // All loads first; the last pieces again rather than a branch between two loads.
#pragma unroll
      for (int j = 0; j < kWords; ++j) word[j] = from[at(j) < pieces ? at(j) : pieces - 1];
#pragma unroll
      for (int j = 0; j < kWords; ++j) {
        scale[j] = nf4_scale(part.w, a.nested_code, (start + (at(j) < pieces ? at(j) : pieces - 1) * kPiece) / 64);
      }
#pragma unroll
      for (int j = 0; j < kWords; ++j) {
        Bytes16 out;
#pragma unroll
        for (int byte = 0; byte < 4; ++byte) {  // the first code of a byte is in its high half
          const uint32_t pair = word[j] >> (8 * byte);
          out.word[byte] = halves(mul_rn(codes[(pair >> 4 & 15) * kWarpSize], scale[j]),
                                  mul_rn(codes[(pair & 15) * kWarpSize], scale[j]));
        }
        if (at(j) < pieces) store16(to + at(j) * kPiece, out);
      }
    }
    to += part.count * k;
  }
}

}  // namespace

void expand(const ExpandArgs& args, const Stream& stream) {
  size_t pieces = 0;
  for (int i = 0; i < args.part_count; ++i) {
    pieces += static_cast<size_t>(args.parts[i].count) * static_cast<size_t>(args.parts[i].w.k) / kPiece;
  }
  constexpr size_t kOfBlock = size_t{kThreads} * kWords;
  launch(expand_kernel, {static_cast<int>((pieces + kOfBlock - 1) / kOfBlock)}, kThreads, stream, args);
}

}  // namespace quantbench::QB_CUDA
