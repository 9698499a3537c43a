#include "backend/cuda/emulated/emulator.h"

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"

namespace quantbench::cuda_emulated {
namespace {

namespace context = boost::context;

// Not a power of two, so that the tops of the stacks, which each change of threads touches, lie in different sets of
// the caches.
constexpr size_t kStackBytes = (size_t{128} << 10) + size_t{9} * 64;
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
  const Barrier* barrier = nullptr;  // that it waits at until it has opened more often than
  uint64_t opened = 0;
  int exchanges = 0;
  bool done = false;

  bool can_go_on() const { return !done && (barrier == nullptr || barrier->opened != opened); }
};

class Block {
 public:
  Block(Index grid, int threads, size_t shared_bytes)
      : threads_(static_cast<size_t>(threads)), shared_(ceil_pieces(shared_bytes)) {
    warps_.resize(threads_.size() / kWarpSize);
    for (size_t i = 0; i < threads_.size(); ++i) {
      threads_[i].context.thread.x = static_cast<unsigned>(i);
      threads_[i].context.block_size = {static_cast<unsigned>(threads), 1, 1};
      threads_[i].context.grid_size = grid;
      order_.push_back(i);
    }
  }

  void start(Index index, FunctionRef<void()> body, context::pooled_fixedsize_stack& stacks);
  // Each thread goes on to where it waits next, in an order that changes from pass to pass, so that a missing barrier
  // shows.
  void pass(std::minstd_rand& random);
  size_t left() const { return left_; }

  Thread& running() { return *running_; }
  std::byte* shared() { return reinterpret_cast<std::byte*>(shared_.data()); }
  void wait(Barrier& barrier, int size);
  void pause();
  const std::byte* exchange(const void* mine, size_t bytes);
  void sync() { wait(barrier_, static_cast<int>(threads_.size())); }
  void sync_group(int threads) { wait(group_barrier_, threads); }

 private:
  struct alignas(kSharedAlignment) Piece {
    std::byte bytes[kSharedAlignment];
  };
  static size_t ceil_pieces(size_t bytes) { return (bytes + sizeof(Piece) - 1) / sizeof(Piece); }

  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<Piece> shared_;
  std::vector<size_t> order_;
  unsigned passes_ = 0;
  Barrier barrier_, group_barrier_;
  Thread* running_ = nullptr;
  size_t left_ = 0;
};

// Of the launch at hand.
struct Launch {
  Block* block = nullptr;  // that is running
  std::vector<std::unique_ptr<Block>> together;
  std::vector<Barrier> clusters;              // by their first block
  uint64_t progress = 0;                      // arrivals and ends, and what note_progress() told
  std::vector<std::function<void()>> copies;  // not done yet
  std::string failure;
};
thread_local Launch* launch_here = nullptr;
struct Launching {
  explicit Launching(Launch* launch) { launch_here = launch; }
  ~Launching() { launch_here = nullptr; }
};

void Block::start(Index index, FunctionRef<void()> body, context::pooled_fixedsize_stack& stacks) {
  if (!shared_.empty()) std::memset(shared_.data(), 0xff, shared_.size() * sizeof(Piece));
  barrier_ = group_barrier_ = {};
  for (Warp& warp : warps_) warp.barrier = {};
  for (Thread& t : threads_) {
    t.context.block = index;
    t.barrier = nullptr;
    t.done = false;
    t.exchanges = 0;
    t.fiber = context::fiber(std::allocator_arg, stacks, [&t, body](context::fiber&& scheduler) {
      t.scheduler = std::move(scheduler);
      body();
      t.done = true;
      note_progress();
      return std::move(t.scheduler);
    });
  }
  left_ = threads_.size();
}

void Block::pass(std::minstd_rand& random) {
  launch_here->block = this;
  constexpr unsigned kPassesInOneOrder = 16;  // each from another thread on
  if (passes_++ % kPassesInOneOrder == 0) std::shuffle(order_.begin(), order_.end(), random);
  size_t at = random() % order_.size();
  for (size_t k = 0; k < order_.size(); ++k) {
    if (++at == order_.size()) at = 0;
    Thread& t = threads_[order_[at]];
    if (!t.can_go_on()) continue;
    running_ = &t;
    t.fiber = std::move(t.fiber).resume();
    if (t.done) --left_;
  }
}

void Block::pause() {
  Thread& self = *running_;
  self.scheduler = std::move(self.scheduler).resume();
  running_ = &self;
}

void Block::wait(Barrier& barrier, int size) {
  note_progress();
  if (++barrier.waiting == size) {
    barrier.waiting = 0;
    ++barrier.opened;
    return;
  }
  Thread& self = *running_;
  self.barrier = &barrier;
  self.opened = barrier.opened;
  pause();
  self.barrier = nullptr;
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

std::atomic<int64_t> launches{0};

}  // namespace

int64_t launches_made() { return launches; }

const ThreadContext& current_thread() { return launch_here->block->running().context; }
void block_barrier() { launch_here->block->sync(); }
void group_barrier(int threads) { launch_here->block->sync_group(threads); }
void cluster_barrier(int blocks, int threads) {
  const size_t own = current_thread().block.x, count = static_cast<size_t>(blocks);
  launch_here->block->wait(launch_here->clusters[own / count * count], blocks * threads);
}
std::byte* shared_of_block(int block) { return launch_here->together[static_cast<size_t>(block)]->shared(); }
std::byte* dynamic_shared() { return launch_here->block->shared(); }
const std::byte* exchange_bytes(const void* mine, size_t bytes) { return launch_here->block->exchange(mine, bytes); }
void pause() { launch_here->block->pause(); }
void fall_behind() {
  constexpr unsigned kOneIn = 8000, kMostPasses = 300;
  static thread_local std::minstd_rand random(1);
  if (random() % kOneIn != 0) return;
  for (unsigned passes = random() % kMostPasses; passes > 0; --passes) pause();
}
void note_progress() { ++launch_here->progress; }
void do_later(std::function<void()> copy) { launch_here->copies.push_back(std::move(copy)); }
void abandon(const std::string& why) {
  launch_here->failure = why;
  while (true) pause();
}

void run_grid(Index grid, int threads, size_t shared_bytes, FunctionRef<void()> body) {
  ++launches;
  assert(threads > 0 && threads % kWarpSize == 0 && launch_here == nullptr);
  static thread_local context::pooled_fixedsize_stack stacks(kStackBytes, kMostThreads);
  std::minstd_rand random(1);
  Launch launch;
  const Launching here(&launch);
  Block block(grid, threads, shared_bytes);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block.start({x, y, z}, body, stacks);
        while (block.left() > 0) {
          const uint64_t before = launch.progress;
          block.pass(random);
          if (launch.progress == before) {
            fail(ErrorKind::internal,
                 "emulated kernel: {} threads of block ({}, {}) wait at a barrier that the others passed by",
                 block.left(), x, y);
          }
        }
      }
    }
  }
}

void run_together(int blocks, int threads, size_t shared_bytes, FunctionRef<void()> body) {
  ++launches;
  assert(threads > 0 && threads % kWarpSize == 0 && launch_here == nullptr);
  static thread_local context::pooled_fixedsize_stack stacks(kStackBytes, kMostThreads);
  static thread_local std::minstd_rand random(1);  // goes on from launch to launch, so that each is another order
  constexpr uint64_t kMostPassesInVain = 30'000;   // a kernel that gives a wait up by itself does so before
  Launch launch;
  const Launching here(&launch);
  std::vector<std::unique_ptr<Block>>& together = launch.together;
  launch.clusters.resize(static_cast<size_t>(blocks));
  std::vector<int> held(static_cast<size_t>(blocks));  // passes for which a block does nothing
  for (int x = 0; x < blocks; ++x) {
    together.push_back(std::make_unique<Block>(Index{static_cast<unsigned>(blocks), 1, 1}, threads, shared_bytes));
    together.back()->start({static_cast<unsigned>(x), 0, 0}, body, stacks);
  }
  const auto chance = [](unsigned one_in) { return random() % one_in == 0; };
  uint64_t in_vain = 0;
  for (size_t left = 1; left > 0;) {
    const uint64_t before = launch.progress;
    left = 0;
    for (size_t i = 0; i < together.size(); ++i) {
      if (held[i] > 0) {
        --held[i];
      } else if (chance(200)) {
        held[i] = static_cast<int>(random() % 100);
      } else if (together[i]->left() > 0) {
        together[i]->pass(random);
      }
      left += together[i]->left();
    }
    for (size_t i = 0; i < launch.copies.size();) {
      if (!chance(3)) {
        ++i;
        continue;
      }
      launch.copies[i]();
      launch.copies[i] = std::move(launch.copies.back());
      launch.copies.pop_back();
    }
    if (!launch.failure.empty()) fail(ErrorKind::internal, "emulated kernel: {}", launch.failure);
    in_vain = launch.progress == before ? in_vain + 1 : 0;
    if (in_vain > kMostPassesInVain) {
      fail(ErrorKind::internal, "emulated kernel: {} threads of {} blocks wait for ever", left, blocks);
    }
  }
}

}  // namespace quantbench::cuda_emulated
