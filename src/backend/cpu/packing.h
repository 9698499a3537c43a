// The layouts of weights on the CPU. fp16, bf16, fp32 and int8 stay row-major; nf4 with k a multiple of 64 goes into
// tiles of 16 rows (kernels.h), padded to whole tiles.
#pragma once

#include "backend/host_memory.h"
#include "quant/matrix.h"

namespace quantbench::cpu {

// Rows of an nf4 weight with padding.
int nf4_rows(int n, int k);

Matrix pack(const HostMatrix& weight, Role role, HostMemory& memory, ThreadPool& pool);

}  // namespace quantbench::cpu
