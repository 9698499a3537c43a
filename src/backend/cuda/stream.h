// The device's queue of work, as plain headers name it.
#pragma once

struct CUstream_st;

namespace quantbench::QB_CUDA {

using Stream = CUstream_st*;

}  // namespace quantbench::QB_CUDA
