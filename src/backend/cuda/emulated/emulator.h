// Runs CUDA kernels on the host, so that their arithmetic and their barriers can be tested where there is no GPU: every
// thread of a block is a fiber, blocks run one after the other. A kernel that would hang (threads of a block or of a
// warp that wait for each other for ever) ends as an Error. What it cannot show: races between blocks, memory ordering,
// speed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/parallel.h"

namespace quantbench::cuda_emulated {

constexpr int kWarpSize = 32;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
struct ThreadContext {
  Index thread, block, block_size, grid_size;
};
const ThreadContext& current_thread();  // of the kernel that is running

// Runs body() once for each thread of the grid. threads: of a block, a multiple of 32. Error internal if they lock.
void run_grid(Index grid, int threads, size_t shared_bytes, FunctionRef<void()> body);

void block_barrier();         // __syncthreads
std::byte* dynamic_shared();  // the block's dynamic shared memory, filled with 0xff (NaN) before a block starts

// All 32 lanes of the warp call this with their own value; returns those of all lanes, valid until the lane's second
// call after this one. bytes ≤ kMostExchanged.
constexpr size_t kMostExchanged = 64;
const std::byte* exchange_bytes(const void* mine, size_t bytes);  // lane i's at i · kMostExchanged
template <typename T>
const T& exchanged(const std::byte* all, int lane) {
  return *reinterpret_cast<const T*>(all + static_cast<size_t>(lane) * kMostExchanged);
}

}  // namespace quantbench::cuda_emulated
