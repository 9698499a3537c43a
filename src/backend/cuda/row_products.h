// Products of one row, for decoding: asked for before the kernel before them is done.
#pragma once

#include "backend/cuda/kernels.h"

namespace quantbench::QB_CUDA {

// Whether they could: args.own_rows, k a whole number of a warp's turns, room enough.
bool multiply_row(const ProductArgs& args, const Room& room, const Stream& stream);  // all but NF4
bool multiply_row_nf4(const ProductArgs& args, const Room& room, const Stream& stream);

constexpr size_t kStaticShared = 1024;  // beside what a launch asks for: what the parts of a row's making exchange

// How many blocks of so many bytes are on a multiprocessor together, beside what the device takes of each.
constexpr int blocks_that_fit(size_t bytes, const Room& room) {
  constexpr size_t kOfBlock = 1024;
  return static_cast<int>((room.shared_bytes + kOfBlock) / (bytes + kOfBlock));
}

// The most shared memory of a block where code for a compute capability runs, 75; runtime_cuda.cpp keeps to it. Kernels
// that cannot be launched with it, such code has nothing of: a program for every card would be 0.3 MB larger for them.
constexpr size_t shared_of(int capability) {
  constexpr size_t kKib = 1024, kTuring = 64, kAmpere = 163, kFew = 99, kMost = 227;
  switch (capability) {
    case 75: return kTuring * kKib;
    case 80: return kAmpere * kKib;
    case 86:
    case 89:
    case 120: return kFew * kKib;
    default: return kMost * kKib;
  }
}
#if defined(__CUDA_ARCH__)
constexpr Room kRoomHere{1, shared_of(__CUDA_ARCH__ / 10)};
#else
constexpr Room kRoomHere{1, size_t{1} << 30};  // of the host: as much as any
#endif

// How many blocks: as many as are wanted where all run at once, else two a multiprocessor. most: that their registers
// allow.
constexpr int row_blocks(int wanted, size_t bytes, int most, const Room& room) {
  const int fit = blocks_that_fit(bytes, room), together = fit < most ? fit : most;
  return wanted <= together * room.multiprocessors ? wanted : 2 * room.multiprocessors;
}

}  // namespace quantbench::QB_CUDA
