// Products of many rows on Hopper's tensor cores, finished where their sums are: LLM.int8 and fp16.
#pragma once

#include "backend/cuda/persistent/step.h"
#include "backend/cuda/wide.h"

namespace quantbench::QB_CUDA {

// A matrix as copy_rows() finds boxes of it.
struct RowsShape {
  const void* data = nullptr;  // aligned to 16 bytes
  bool half = false;           // fp16, else bytes
  int rows = 0, k = 0;
  size_t stride = 0;  // bytes from row to row: a multiple of 16
  int box_rows = 0;   // up to 256
};
TensorMap make_rows_map(const RowsShape& shape);  // Error device

struct TensorArgs {
  TensorMap x, w[kMostJobs];
  FinishArgs finish;  // its `sums` are only written where these products leave finishing to finish(): Finish::qkv
  int stages = 0;     // pieces of k: 128 bytes a row
  int tiles = 0;      // of all jobs
  bool awaits_weights = false;  // the kernel before may have written them
};

// Where the runtime has tensor products: of such weights.
bool can_multiply_tensor(WeightFormat format, int n, int k);
// x: the rows, [rows, x_stride] codes (int8) or fp16. finish.stride: of the outputs, or with Finish::qkv of the sums,
// which are left for finish(). awaits_weights: the kernel before writes them.
void multiply_tensor(const FinishArgs& finish, const void* x, int x_stride, bool awaits_weights, int multiprocessors,
                     const Stream& stream);

}  // namespace quantbench::QB_CUDA
