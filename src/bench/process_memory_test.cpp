#include "bench/process_memory.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/os.h"

namespace quantbench {
namespace {

constexpr size_t kBlock = size_t{64} << 20;
// Page tables, the allocator and the test's own strings move about by less than this.
constexpr int64_t kNoise = int64_t{4} << 20;

TEST(ProcessMemory, SeesABlockComeAndGo) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer of threads keeps four bytes for each of a block";
#endif
  const int64_t before = resident_bytes();
  ASSERT_GT(before, 0);
  {
    const os::Block block(kBlock);
    EXPECT_NEAR(resident_bytes() - before, 0, kNoise) << "untouched pages are not resident";
    std::memset(block.data(), 1, kBlock);
    EXPECT_NEAR(resident_bytes() - before, kBlock, kNoise);
  }
  EXPECT_NEAR(resident_bytes() - before, 0, kNoise);
  EXPECT_GE(peak_resident_bytes() - before, static_cast<int64_t>(kBlock) - kNoise);
}

TEST(ProcessMemory, ThePeakCanBeReset) {
  const int64_t before = resident_bytes();
  {
    const os::Block block(kBlock);
    std::memset(block.data(), 1, kBlock);
  }
  if (!reset_peak_resident()) GTEST_SKIP() << "this kernel does not let a process reset its peak";
  EXPECT_NEAR(peak_resident_bytes() - before, 0, kNoise);
}

TEST(ProcessMemory, ReadsKernelTables) {
  const char* text = "MemTotal:       24566912 kB\nMemFree:  5 kB\nMemAvailable:   20000000 kB\n";
  EXPECT_EQ(find_kilobytes(text, "MemAvailable"), int64_t{20000000} * 1024);
  EXPECT_EQ(find_kilobytes(text, "MemFree"), 5 * 1024);
  EXPECT_FALSE(find_kilobytes(text, "Mem"));
  EXPECT_FALSE(find_kilobytes("", "MemTotal"));
  EXPECT_FALSE(find_kilobytes("MemTotal: much", "MemTotal"));
}

TEST(ProcessMemory, BusyTimeLeavesOutIdleAndWaiting) {
  EXPECT_DOUBLE_EQ(*busy_seconds("cpu  100 20 30 1000 500 5 5 40 7 7\ncpu0 1 1 1", 100), 2.0);
  EXPECT_FALSE(busy_seconds("intr 1 2 3", 100));
  EXPECT_FALSE(busy_seconds("cpu  100 20", 100));
}

}  // namespace
}  // namespace quantbench
