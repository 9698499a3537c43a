#include "backend/cuda/emulated/emulator.h"

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <random>
#include <vector>

#include "core/error.h"

namespace quantbench::cuda_emulated {
namespace {

namespace context = boost::context;

constexpr size_t kStackBytes = size_t{128} << 10;
constexpr size_t kMostThreads = 1024;  // of a block

// Threads that wait for each other: a barrier opens when all have come.
struct Barrier {
  int waiting = 0;
  uint64_t opened = 0;
};

struct Warp {
  Barrier barrier;
  alignas(64) std::byte slots[2][kWarpSize * kMostExchanged];
};

struct Thread {
  ThreadContext context;
  context::fiber fiber, scheduler;
  int exchanges = 0;
  bool done = false;
};

class Block {
 public:
  Block(Index grid, int threads, size_t shared_bytes)
      : threads_(static_cast<size_t>(threads)), shared_((shared_bytes + 15) / 16) {
    warps_.resize(threads_.size() / kWarpSize);
    for (size_t i = 0; i < threads_.size(); ++i) {
      threads_[i].context.thread.x = static_cast<unsigned>(i);
      threads_[i].context.block_size = {static_cast<unsigned>(threads), 1, 1};
      threads_[i].context.grid_size = grid;
      order_.push_back(i);
    }
  }

  // Threads go on in an order that changes from pass to pass, so that a missing barrier shows.
  void run(Index index, FunctionRef<void()> body, context::pooled_fixedsize_stack& stacks, std::minstd_rand& random);

  Thread& running() { return *running_; }
  std::byte* shared() { return reinterpret_cast<std::byte*>(shared_.data()); }
  void wait(Barrier& barrier, int size);
  const std::byte* exchange(const void* mine, size_t bytes);
  void sync() { wait(barrier_, static_cast<int>(threads_.size())); }

 private:
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  struct alignas(16) Piece {
    std::byte bytes[16];
  };
  std::vector<Piece> shared_;
  std::vector<size_t> order_;
  Barrier barrier_;
  Thread* running_ = nullptr;
  uint64_t progress_ = 0;  // arrivals and ends
};

thread_local Block* block_here = nullptr;

void Block::run(Index index, FunctionRef<void()> body, context::pooled_fixedsize_stack& stacks,
                std::minstd_rand& random) {
  if (!shared_.empty()) std::memset(shared_.data(), 0xff, shared_.size() * sizeof(Piece));
  barrier_ = {};
  for (Warp& warp : warps_) warp.barrier = {};
  for (Thread& t : threads_) {
    t.context.block = index;
    t.done = false;
    t.exchanges = 0;
    t.fiber = context::fiber(std::allocator_arg, stacks, [&t, this, body](context::fiber&& scheduler) {
      t.scheduler = std::move(scheduler);
      body();
      t.done = true;
      ++progress_;
      return std::move(t.scheduler);
    });
  }
  for (size_t left = threads_.size(); left > 0;) {
    std::shuffle(order_.begin(), order_.end(), random);
    const uint64_t before = progress_;
    for (const size_t i : order_) {
      Thread& t = threads_[i];
      if (t.done) continue;
      running_ = &t;
      t.fiber = std::move(t.fiber).resume();
      if (t.done) --left;
    }
    if (progress_ == before) {
      fail(ErrorKind::internal,
           "emulated kernel: {} threads of block ({}, {}) wait at a barrier that the others passed by", left, index.x,
           index.y);
    }
  }
}

void Block::wait(Barrier& barrier, int size) {
  ++progress_;
  Thread& self = *running_;
  if (++barrier.waiting == size) {
    barrier.waiting = 0;
    ++barrier.opened;
    return;
  }
  const uint64_t opened = barrier.opened;
  while (barrier.opened == opened) {
    self.scheduler = std::move(self.scheduler).resume();
    running_ = &self;
  }
}

const std::byte* Block::exchange(const void* mine, size_t bytes) {
  assert(bytes <= kMostExchanged);
  Thread& self = *running_;
  const size_t index = self.context.thread.x;
  Warp& warp = warps_[index / kWarpSize];
  std::byte* const slots = warp.slots[self.exchanges++ % 2];
  std::memcpy(slots + index % kWarpSize * kMostExchanged, mine, bytes);
  wait(warp.barrier, kWarpSize);
  return slots;
}

}  // namespace

const ThreadContext& current_thread() { return block_here->running().context; }
void block_barrier() { block_here->sync(); }
std::byte* dynamic_shared() { return block_here->shared(); }
const std::byte* exchange_bytes(const void* mine, size_t bytes) { return block_here->exchange(mine, bytes); }

void run_grid(Index grid, int threads, size_t shared_bytes, FunctionRef<void()> body) {
  assert(threads > 0 && threads % kWarpSize == 0 && block_here == nullptr);
  static thread_local context::pooled_fixedsize_stack stacks(kStackBytes, kMostThreads);
  std::minstd_rand random(1);
  Block block(grid, threads, shared_bytes);
  struct Here {
    explicit Here(Block* b) { block_here = b; }
    ~Here() { block_here = nullptr; }
  } here(&block);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) block.run({x, y, z}, body, stacks, random);
    }
  }
}

}  // namespace quantbench::cuda_emulated
