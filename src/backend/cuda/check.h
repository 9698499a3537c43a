// The one way to look at what a CUDA call answers.
#pragma once

#include <cuda_runtime_api.h>

namespace quantbench::cuda {

// Error out_of_memory or device, with the call and CUDA's own words, unless status is success.
void check(cudaError_t status, const char* call);

}  // namespace quantbench::cuda
