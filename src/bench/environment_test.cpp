#include "bench/environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quantbench {
namespace {

constexpr const char* kCpuInfo =
    "processor\t: 0\nmodel name\t: Some CPU @ 3.0 GHz\nflags\t\t: fpu sse2 fma avx2 f16c avx512f hypervisor\n"
    "\nprocessor\t: 1\nmodel name\t: Some CPU @ 3.0 GHz\n";

TEST(Environment, ReadsCpuInfo) {
  EXPECT_EQ(cpuinfo_value(kCpuInfo, "model name"), "Some CPU @ 3.0 GHz");
  EXPECT_FALSE(cpuinfo_value(kCpuInfo, "model"));
  EXPECT_THAT(known_features(kCpuInfo), testing::ElementsAre("avx2", "fma", "f16c", "avx512f"));
}

TEST(Environment, ReadsCacheSizes) {
  EXPECT_EQ(parse_cache_size("32768K"), 32 << 20);
  EXPECT_EQ(parse_cache_size("1M"), 1 << 20);
  EXPECT_EQ(parse_cache_size("?"), 0);
}

TEST(Environment, DescribesThisMachine) {
  const Environment e = read_environment();
  EXPECT_GE(e.logical_cpus, e.physical_cores);
  EXPECT_GE(e.physical_cores, 1);
  EXPECT_FALSE(e.kernel.empty());
}

TEST(BuildInfo, KnowsVersionAndCommit) {
  const BuildInfo info = build_info();
  EXPECT_FALSE(info.version.empty());
  EXPECT_FALSE(info.git_commit.empty());
  EXPECT_FALSE(info.compiler.empty());
}

}  // namespace
}  // namespace quantbench
