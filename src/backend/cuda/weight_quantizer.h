// Quantises a weight on its way to where it stays: rows of fp16 through a staging buffer, codes and scales beside them.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "backend/cuda/device_memory.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/runtime.h"
#include "core/parallel.h"

namespace quantbench::QB_CUDA {

constexpr size_t kStagingBytes = size_t{16} << 20;  // of a weight on its way from the host

// Rows are read by all threads into host memory of about kStagingBytes, each time a multiple of `multiple` but for the
// last, and given to send(first row, count, rows).
template <typename T, typename Host, typename Send>
void stream_rows(const Host& m, size_t multiple, ThreadPool& pool, const Send& send) {
  const size_t n = static_cast<size_t>(m.n), k = static_cast<size_t>(m.k);
  const size_t pieces = kStagingBytes / (std::max<size_t>(k, 1) * sizeof(T) * multiple);
  const size_t at_once = std::min(std::max<size_t>(pieces, 1) * multiple, n);
  std::vector<T> staging(at_once * k);
  for (size_t first = 0; first < n; first += at_once) {
    const size_t count = std::min(at_once, n - first);
    constexpr size_t kRowsOfAThread = 64;
    pool.for_chunks(count, kRowsOfAThread, [&](size_t begin, size_t end, int) {
      m.read(static_cast<int>(first + begin), static_cast<int>(end - begin), staging.data() + begin * k);
    });
    send(first, count, staging.data());
  }
}

// All live as long as it.
std::unique_ptr<WeightQuantizer> make_weight_quantizer(Runtime& runtime, DeviceMemory& memory, ThreadPool& pool,
                                                       const Tables& tables);

}  // namespace quantbench::QB_CUDA
