// Products of one row, a few weight rows a warp.
#pragma once

#include "backend/cuda/kernels.h"

namespace quantbench::QB_CUDA {

// Whether it could: args.own_rows, fp16 or int8 weights, k a whole number of a warp's turns. blocks: at most so many.
bool multiply_row(const ProductArgs& args, int blocks, const Stream& stream);

}  // namespace quantbench::QB_CUDA
