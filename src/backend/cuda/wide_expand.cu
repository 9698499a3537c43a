// NF4 and bf16 weights as fp16 matrices, for products of many rows.
#include "backend/cuda/finish.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/wide.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256, kBlocks = 8;  // of a multiprocessor, where it has room
constexpr int kPiece = 8;                   // codes of a word, 16 bytes of fp16: neighbouring lanes write whole lines
constexpr int kWords = 2;                   // of a thread, on their way together

__global__ void __launch_bounds__(kThreads) expand_kernel(const __grid_constant__ ExpandArgs a) {
  __shared__ float table[16 * kWarpSize];  // a copy of the codes a lane, so that no two meet in a bank
  __shared__ float nested_code[256];
  let_next_start();
  for (int i = thread_index(); i < 16 * kWarpSize; i += kThreads) table[i] = a.code[i / kWarpSize];
  for (int i = thread_index(); i < 256; i += kThreads) nested_code[i] = a.nested_code[i];
  wait_for_previous();
  sync_block();
  const float* const codes = table + lane_index();
  const unsigned threads = static_cast<unsigned>(blocks_x()) * kThreads;
  uint16_t* to = a.to;
  for (int p = 0; p < a.part_count; ++p) {
    const ExpandArgs::Part& part = a.parts[p];
    const size_t k = static_cast<size_t>(part.w.k), start = part.first * k, numbers = part.count * k;
    const unsigned pieces = static_cast<unsigned>(numbers / kPiece);
    if (part.w.format == WeightFormat::bf16) {
      const auto* const weights = static_cast<const uint16_t*>(part.w.w) + start;
      for (unsigned i = static_cast<unsigned>(block_x() * kThreads + thread_index()); i < pieces; i += threads) {
        const Bytes16 in = load16(weights + static_cast<size_t>(i) * kPiece);
        Bytes16 out;
#pragma unroll
        for (int j = 0; j < 4; ++j) out.word[j] = halves_of_bf16s(in.word[j]);
        store16(to + static_cast<size_t>(i) * kPiece, out);
      }
      to += numbers;
      continue;
    }
    const auto* const from = reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(part.w.w) + start / 2);
    constexpr unsigned kOfBlock = 64 / kPiece;
    const size_t first_piece = start / kPiece;
    for (unsigned first = static_cast<unsigned>(block_x() * kThreads + thread_index()); first < pieces;
         first += threads * kWords) {
      uint32_t word[kWords], byte[kWords];
      float scale[kWords];
      // All loads first; the last piece again rather than a branch between two loads.
#pragma unroll
      for (int j = 0; j < kWords; ++j) {
        const unsigned at = first + j * threads < pieces ? first + j * threads : pieces - 1;
        const size_t block = (first_piece + at) / kOfBlock;
        word[j] = from[at];
        if (part.w.absmax8) {
          byte[j] = part.w.absmax8[block];
          scale[j] = part.w.nested_absmax[block / 256];
        } else {
          scale[j] = part.w.absmax[block];
        }
      }
#pragma unroll
      for (int j = 0; j < kWords; ++j) {
        if (part.w.absmax8) scale[j] = add_rn(mul_rn(nested_code[byte[j]], scale[j]), part.w.offset);
        Bytes16 out;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t pair = word[j] >> (8 * i);  // the first code of a byte is in its high half
          out.word[i] = halves(mul_rn(codes[(pair >> 4 & 15) * kWarpSize], scale[j]),
                               mul_rn(codes[(pair & 15) * kWarpSize], scale[j]));
        }
        if (first + j * threads < pieces) store16(to + static_cast<size_t>(first + j * threads) * kPiece, out);
      }
    }
    to += numbers;
  }
}

}  // namespace

void expand(const ExpandArgs& args, int multiprocessors, const Stream& stream) {
  size_t pieces = 0;
  for (int i = 0; i < args.part_count; ++i) {
    pieces += static_cast<size_t>(args.parts[i].count) * static_cast<size_t>(args.parts[i].w.k) / kPiece;
  }
  const size_t blocks = (pieces + kThreads - 1) / kThreads, most = static_cast<size_t>(multiprocessors) * kBlocks;
  launch(expand_kernel, {static_cast<int>(blocks < most ? blocks : most)}, kThreads, stream, args);
}

}  // namespace quantbench::QB_CUDA
