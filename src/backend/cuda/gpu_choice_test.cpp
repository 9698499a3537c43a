#include "backend/cuda/gpu_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace quantbench::cuda {
namespace {

using testing::HasSubstr;

GpuAnswer hopper() { return {.name = "NVIDIA H100", .uuid = "GPU-1", .major = 9, .minor = 0}; }
DriverAnswer driver(std::vector<GpuAnswer> gpus) { return {13000, 13000, "", std::move(gpus)}; }

std::string message(const DriverAnswer& answer, std::optional<int> wanted, ErrorKind kind = ErrorKind::device) {
  try {
    choose_gpu(answer, wanted);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  return "nothing was refused";
}

TEST(GpuChoice, TakesTheFirstGpuThatCanBeUsed) {
  GpuAnswer pascal = hopper();
  pascal.name = "GTX 1080";
  pascal.major = 6;
  EXPECT_EQ(choose_gpu(driver({pascal, hopper(), hopper()}), std::nullopt), 1);
  EXPECT_EQ(choose_gpu(driver({hopper(), hopper()}), 1), 1);
}

TEST(GpuChoice, SaysThatThereIsNoDriver) {
  EXPECT_THAT(message({0, 13000, "", {}}, std::nullopt), HasSubstr("no NVIDIA driver was found (libcuda.so.1)"));
}

TEST(GpuChoice, SaysThatTheDriverIsTooOldWithBothVersions) {
  const std::string text = message({12040, 13000, "", {}}, std::nullopt);
  EXPECT_THAT(text, HasSubstr("too old: it supports CUDA 12.4, this program was built with 13.0"));
  EXPECT_EQ(choose_gpu({13000, 13020, "", {hopper()}}, std::nullopt), 0);  // within a major version any driver will do
}

TEST(GpuChoice, SaysThatNoGpuCanBeSeenInCudasWords) {
  EXPECT_THAT(message({13000, 13000, "no CUDA-capable device is detected", {}}, std::nullopt),
              HasSubstr("no GPU can be seen: no CUDA-capable device is detected; check nvidia-smi"));
}

TEST(GpuChoice, RefusesACardBeforeTuring) {
  GpuAnswer volta = hopper();
  volta.name = "Tesla V100";
  volta.major = 7;
  EXPECT_THAT(message(driver({volta}), std::nullopt), HasSubstr("Tesla V100 has compute capability 7.0, 7.5 or newer"));
  volta.minor = 5;
  EXPECT_EQ(choose_gpu(driver({volta}), std::nullopt), 0);
}

TEST(GpuChoice, TellsProhibitedFromTakenFromBroken) {
  GpuAnswer gpu = hopper();
  gpu.mode = ComputeMode::prohibited;
  EXPECT_THAT(message(driver({gpu}), 0), HasSubstr("'prohibited'"));
  gpu.mode = ComputeMode::exclusive;
  EXPECT_EQ(choose_gpu(driver({gpu}), 0), 0);
  gpu.opens = false;
  EXPECT_THAT(message(driver({gpu}), 0), HasSubstr("'exclusive process' and another process has it"));
  gpu.mode = ComputeMode::shared;
  gpu.open_error = "uncorrectable ECC error encountered";
  EXPECT_THAT(message(driver({gpu}), 0), HasSubstr("could not be opened: uncorrectable ECC error encountered"));
}

TEST(GpuChoice, GivesEachGpuItsReason) {
  GpuAnswer taken = hopper(), old = hopper();
  taken.mode = ComputeMode::exclusive;
  taken.opens = false;
  old.major = 5;
  const std::string text = message(driver({taken, old}), std::nullopt);
  EXPECT_THAT(text, HasSubstr("cuda:0: NVIDIA H100 is in compute mode"));
  EXPECT_THAT(text, HasSubstr("\ncuda:1: NVIDIA H100 has compute capability 5.0"));
}

TEST(GpuChoice, RefusesANumberThatIsNotThere) {
  EXPECT_THAT(message(driver({hopper()}), 1, ErrorKind::usage),
              HasSubstr("there is no cuda:1: 1 GPU can be seen, cuda:0"));
  EXPECT_THAT(message(driver({hopper(), hopper()}), 2, ErrorKind::usage), HasSubstr("cuda:0 to cuda:1"));
}

}  // namespace
}  // namespace quantbench::cuda
