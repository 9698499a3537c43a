// Products of one row, for decoding: asked for before the kernel before them is done.
#pragma once

#include "backend/cuda/kernels.h"

namespace quantbench::QB_CUDA {

// Whether they could: args.own_rows, k a whole number of a warp's turns, room enough.
bool multiply_row(const ProductArgs& args, const Room& room, const Stream& stream);  // fp16 and LLM.int8
bool multiply_row_nf4(const ProductArgs& args, const Room& room, const Stream& stream);

constexpr size_t kStaticShared = 1024;  // beside what a launch asks for: what the parts of a row's making exchange

// How many blocks of so many bytes are on a multiprocessor together, beside what the device takes of each.
constexpr int blocks_that_fit(size_t bytes, const Room& room) {
  constexpr size_t kOfBlock = 1024;
  return static_cast<int>((room.shared_bytes + kOfBlock) / (bytes + kOfBlock));
}
// How many blocks: as many as are wanted where all run at once, else two a multiprocessor. most: that their registers
// allow.
constexpr int row_blocks(int wanted, size_t bytes, int most, const Room& room) {
  const int fit = blocks_that_fit(bytes, room), together = fit < most ? fit : most;
  return wanted <= together * room.multiprocessors ? wanted : 2 * room.multiprocessors;
}

}  // namespace quantbench::QB_CUDA
