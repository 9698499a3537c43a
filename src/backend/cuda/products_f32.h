// Products with fp32 weights, in fp32.
#pragma once

#include "backend/cuda/kernels.h"

namespace quantbench::QB_CUDA {

// Any number of rows, one weight, finish store or add. False, and nothing is done, where it cannot: k not a multiple
// of 4.
bool multiply_f32(const ProductArgs& args, const Stream& stream);

}  // namespace quantbench::QB_CUDA
