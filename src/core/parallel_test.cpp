#include "core/parallel.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/os.h"

namespace quantbench {
namespace {

TEST(ThreadPool, RunsEveryThreadOncePerSectionManyTimes) {
  ThreadPool pool(3);
  std::vector<std::atomic<int>> calls(3);
  for (int section = 0; section < 2000; ++section) pool.run([&](int thread) { ++calls[thread]; });
  for (const auto& count : calls) EXPECT_EQ(count.load(), 2000);
}

TEST(ThreadPool, WakesUpAfterSleeping) {
  ThreadPool pool(2);
  std::atomic<int> calls{0};
  for (int i = 0; i < 5; ++i) {
    pool.run([&](int) { ++calls; });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // longer than the workers spin
  }
  EXPECT_EQ(calls.load(), 10);
}

TEST(ThreadPool, ChunksCoverEveryElementOnce) {
  ThreadPool pool(2);
  for (size_t count : {0u, 1u, 7u, 64u, 1000u}) {
    for (size_t grain : {1u, 3u, 64u, 5000u}) {
      std::vector<std::atomic<int>> seen(count);
      pool.for_chunks(count, grain, [&](size_t begin, size_t end, int) {
        EXPECT_LE(end - begin, grain);
        for (size_t i = begin; i < end; ++i) ++seen[i];
      });
      for (const auto& times : seen) EXPECT_EQ(times.load(), 1);
    }
  }
}

TEST(ThreadPool, RunsCoverEveryElementOnceAndShrinkToOne) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (size_t count : {0u, 1u, 2u, 7u, 64u, 1000u}) {
      for (size_t most : {0u, 1u, 5u, 64u, 5000u}) {
        std::vector<std::atomic<int>> seen(count);
        std::atomic<size_t> shortest{count};
        pool.for_runs(count, most, [&](size_t begin, size_t end, int) {
          EXPECT_LT(begin, end);
          EXPECT_LE(end - begin, std::max<size_t>(most, 1));
          for (size_t old = shortest.load(); end - begin < old && !shortest.compare_exchange_weak(old, end - begin);) {
          }
          for (size_t i = begin; i < end; ++i) ++seen[i];
        });
        for (const auto& times : seen) EXPECT_EQ(times.load(), 1);
        EXPECT_TRUE(threads == 1 || count <= 1 || shortest.load() == 1) << count << " by " << most;
      }
    }
  }
}

TEST(ThreadPool, RethrowsAndStaysUsable) {
  ThreadPool pool(2);
  for (int thrower : {0, 1}) {
    EXPECT_THROW(pool.run([&](int thread) {
      if (thread == thrower) throw std::runtime_error("from a section");
    }),
                 std::runtime_error);
  }
  std::atomic<int> calls = 0;
  pool.run([&](int thread) { calls += thread == 0; });
  EXPECT_EQ(calls, 1);
}

int allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  return CPU_COUNT(&set);
}

// While it lives QUANTBENCH_PIN_THREADS has this value, or none.
class PinThreads {
 public:
  explicit PinThreads(const char* value) : before_(os::environment(kName)) { set(value); }
  ~PinThreads() { set(before_ ? before_->c_str() : nullptr); }
  PinThreads(const PinThreads&) = delete;
  PinThreads& operator=(const PinThreads&) = delete;

 private:
  static constexpr const char* kName = "QUANTBENCH_PIN_THREADS";
  static void set(const char* value) {
    if (value)
      setenv(kName, value, 1);
    else
      unsetenv(kName);
  }
  std::optional<std::string> before_;
};

TEST(ThreadPool, PinsItsMakerUnlessToldNotToAndGivesTheCpusBack) {
  const int before = allowed_cpus();
  {
    const PinThreads pins(nullptr);
    const ThreadPool pool(2);
    EXPECT_TRUE(pool.pins());
    EXPECT_EQ(allowed_cpus(), 1);
  }
  EXPECT_EQ(allowed_cpus(), before);
  {
    const PinThreads pins("0");
    const ThreadPool pool(2);
    EXPECT_FALSE(pool.pins());
    EXPECT_EQ(allowed_cpus(), before);
  }
}

TEST(ThreadPool, OneBesideAnotherHasAsManyThreadsWhicheverEndsFirst) {
  const PinThreads pins(nullptr);
  const int before = allowed_cpus(), cores = physical_cores();
  auto first = std::make_unique<ThreadPool>(2);
  const ThreadPool alone(0);
  EXPECT_EQ(alone.size(), cores) << "not of the one CPU that its maker is pinned to";
  EXPECT_EQ(physical_cores(), cores);
  {
    const ThreadPool second(2);
    first.reset();
  }
  EXPECT_EQ(allowed_cpus(), cores > 1 ? 1 : before) << "`alone` is still there";
}

TEST(ThreadPool, AfterTheLastTheMakerHasItsCpusAgain) {
  const PinThreads pins(nullptr);
  const int before = allowed_cpus();
  auto first = std::make_unique<ThreadPool>(2);
  {
    const ThreadPool second(2);
    first.reset();
    EXPECT_EQ(allowed_cpus(), 1);
  }
  EXPECT_EQ(allowed_cpus(), before);
}

TEST(ThreadPool, FindsAtLeastOneCore) { EXPECT_GE(physical_cores(), 1); }

}  // namespace
}  // namespace quantbench
