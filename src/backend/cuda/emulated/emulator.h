// Runs CUDA kernels on the host, so that their arithmetic and their barriers can be tested where there is no GPU: every
// thread of a block is a fiber; blocks run one after the other, or all at once where they are launched so. A kernel
// that would hang (threads of a block or of a warp that wait for each other for ever) ends as an Error. What it cannot
// show: races between blocks, memory ordering, speed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

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
// The same with all blocks at once, which may wait for one another; some go ahead of others for a while, by chance.
void run_together(int blocks, int threads, size_t shared_bytes, FunctionRef<void()> body);

int64_t launches_made();  // by either, in this process

void block_barrier();             // __syncthreads
void group_barrier(int threads);  // of the first `threads` of the block
// Of the first `threads` of so many blocks, side by side from a multiple of their number on; in run_together() alone.
void cluster_barrier(int blocks, int threads);
std::byte* shared_of_block(int block);  // in run_together() alone
// The block's dynamic shared memory, filled with 0xff (NaN) before a block starts; aligned to kSharedAlignment.
std::byte* dynamic_shared();
constexpr size_t kSharedAlignment = 1024;

// For threads that wait in a loop: lets others go on.
void pause();
// Before such a loop: by chance this thread falls behind the others, far enough that what they do next overtakes it.
void fall_behind();
// Something happened that such a loop may wait for.
void note_progress();
// A copy that nobody waits for here: done at some later time, by chance.
void do_later(std::function<void()> copy);
// Ends the launch with an error.
[[noreturn]] void abandon(const std::string& why);

// All 32 lanes of the warp call this with their own value; returns those of all lanes, valid until the lane's second
// call after this one. bytes ≤ kMostExchanged.
constexpr size_t kMostExchanged = 64;
const std::byte* exchange_bytes(const void* mine, size_t bytes);  // lane i's at i · kMostExchanged
template <typename T>
const T& exchanged(const std::byte* all, int lane) {
  return *reinterpret_cast<const T*>(all + static_cast<size_t>(lane) * kMostExchanged);
}

}  // namespace quantbench::cuda_emulated
