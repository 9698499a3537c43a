// A gate's products of many rows on Hopper's tensor cores, turned: weights are the left operand, so that rows of x may
// be other numbers than whole 128, and NF4 weights are decoded on the way instead of being expanded before.
#pragma once

#include "backend/cuda/persistent/step.h"
#include "backend/cuda/wide.h"

namespace quantbench::QB_CUDA {

// How many rows the tiles of these products are made for, and those of tensor_products.h, where there are so many.
int turned_rows(int rows);
int unturned_rows(int rows);
// Where the runtime has tensor products: of fp16 or NF4 weights [n, k].
bool can_multiply_turned(WeightFormat format, int n, int k);
// x16: the rows, [rows, x_stride]. finish.finish: gate; finish.stride: of the outputs. NF4's numbers are those that
// expand() leaves: each code times its scale, rounded once. code: NF4's sixteen, nested_code as ExpandArgs.
void multiply_turned(const FinishArgs& finish, const uint16_t* x16, int x_stride, const float* code,
                     const float* nested_code, int multiprocessors, const Stream& stream);

}  // namespace quantbench::QB_CUDA
