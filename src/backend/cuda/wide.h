// What goes around matrix products of many rows: weights expanded before them, their sums finished after them.
#pragma once

#include "backend/cuda/kernels.h"

namespace quantbench::QB_CUDA {

struct FinishArgs {       // sums → outputs, as ProductArgs says; they may stand where the outputs go
  Job jobs[kMostJobs];    // of one format; n a multiple of 8
  void* sums[kMostJobs];  // [rows, stride] int32 for int8, else float; overwritten
  int stride[kMostJobs];
  int job_count = 0, rows = 0;
  Finish finish = Finish::store;
  Activation act = Activation::none;
  Input x;                  // int8: absmax, outliers and x16, gathered
  uint8_t* used = nullptr;  // [used_count] marks to be zeroed, or null
  int used_count = 0;
  ReadyRows ready;  // store and gate: the output, for the product that follows
  Cache kv;         // qkv, as are the next two
  Rotation rotation;
  RowPlaces places;
};
bool can_finish_qkv(const Cache& kv, const Rotation& rotation);
void finish(const FinishArgs& args, const Stream& stream);

struct ExpandArgs {  // rows of NF4 or bf16 weights → fp16, a code times its scale rounded once
  struct Part {
    Weight w;  // k a multiple of 64; bf16: of 8
    int first = 0, count = 0;
  };
  Part parts[kMostJobs];
  int part_count = 0;
  uint16_t* to;              // [sum of count, k]
  const float* nested_code;  // [256]
  float code[16];            // NF4's
};
void expand(const ExpandArgs& args, int multiprocessors, const Stream& stream);

}  // namespace quantbench::QB_CUDA
