// Products of any size and format, number by number.
#pragma once

#include "backend/cuda/kernels.h"

namespace quantbench::QB_CUDA {

void multiply_plain(const ProductArgs& args, int blocks, const Stream& stream);

}  // namespace quantbench::QB_CUDA
