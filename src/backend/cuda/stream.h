// The device's queue of work, as plain headers name it.
#pragma once

struct CUstream_st;

namespace quantbench::QB_CUDA {

struct Stream {
  CUstream_st* handle = nullptr;
  // Programmatic dependent launch: a kernel may start while the one before it ends, and waits for it where it says so
  // (wait_for_previous). From compute capability 9.0.
  bool overlap = false;
};

}  // namespace quantbench::QB_CUDA
