#include "backend/cuda/shared_limits.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace quantbench::cuda {
namespace {

constexpr char kKernels[2] = {};

TEST(SharedLimits, OfAKernelAndADeviceTheMostStands) {
  SharedLimits limits;
  std::vector<size_t> set;
  const auto raise = [&](int device, int kernel, size_t bytes) {
    limits.raise(device, kKernels + kernel, bytes, [&] { set.push_back(bytes); });
  };
  raise(0, 0, 100);
  raise(0, 0, 50);  // would lower it
  raise(0, 0, 100);
  raise(0, 1, 60);  // another kernel
  raise(1, 0, 40);  // another device
  raise(0, 0, 101);
  EXPECT_EQ(set, (std::vector<size_t>{100, 60, 40, 101}));
}

TEST(SharedLimits, WhatFailedWasNotAskedFor) {
  SharedLimits limits;
  EXPECT_THROW(limits.raise(0, kKernels, 100, [] { throw std::runtime_error("too much"); }), std::runtime_error);
  bool is_set = false;
  limits.raise(0, kKernels, 50, [&] { is_set = true; });
  EXPECT_TRUE(is_set);
}

TEST(SharedLimits, ThreadsDoNotLowerIt) {
  SharedLimits limits;
  std::atomic<size_t> now = 0;  // as CUDA keeps it: the last word counts
  std::vector<std::thread> threads;
  constexpr size_t kThreads = 8, kTimes = 200;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < kTimes; ++i) {
        const size_t bytes = i * kThreads + t;
        limits.raise(0, kKernels, bytes, [&] {
          const size_t before = now;
          std::this_thread::yield();  // another thread, were there one, would set it now
          EXPECT_EQ(now, before);
          now = bytes;
        });
        EXPECT_GE(now, bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(now, kTimes * kThreads - 1);
}

}  // namespace
}  // namespace quantbench::cuda
