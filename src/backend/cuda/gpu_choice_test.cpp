#include "backend/cuda/gpu_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace quantbench::cuda {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr size_t kGiB = size_t{1} << 30;

GpuAnswer hopper() {
  return {.name = "NVIDIA H100",
          .uuid = "GPU-1",
          .major = 9,
          .minor = 0,
          .multiprocessors = 132,
          .memory_bytes = 80 * kGiB};
}
GpuAnswer like_hopper(void (*change)(GpuAnswer&)) {
  GpuAnswer gpu = hopper();
  change(gpu);
  return gpu;
}

DriverAnswer driver(std::vector<GpuAnswer> gpus) {
  DriverAnswer answer;
  answer.driver_version = answer.runtime_version = 13000;
  answer.driver = "580.65.06";
  answer.installed = {"NVIDIA H100"};
  answer.code = "75-real,80-real,86-real,89-real,90-real,90-virtual";
  answer.gpus = std::move(gpus);
  return answer;
}

// A GPU with room that opens.
Opened fine(int) { return {.free_bytes = 70 * kGiB, .total_bytes = 80 * kGiB}; }
Opened taken(int) { return {.error = "CUDA-capable device(s) is/are busy or unavailable"}; }

Error refused(const DriverAnswer& answer, const GpuWish& wish = {}, const std::function<Opened(int)>& open = fine) {
  try {
    open_gpu(answer, wish, open);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was refused";
  return {ErrorKind::internal, ""};
}
std::string message(const DriverAnswer& answer, const GpuWish& wish = {}, const std::function<Opened(int)>& open = fine,
                    ErrorKind kind = ErrorKind::device) {
  const Error error = refused(answer, wish, open);
  EXPECT_EQ(error.kind(), kind) << error.what();
  return error.what();
}

TEST(GpuChoice, TakesTheFirstGpuThatCanBeUsed) {
  const GpuAnswer pascal = like_hopper([](GpuAnswer& gpu) { gpu.major = 6; });
  std::vector<int> opened;
  const auto open = [&](int gpu) {
    opened.push_back(gpu);
    return gpu == 1 ? taken(gpu) : fine(gpu);
  };
  EXPECT_EQ(open_gpu(driver({pascal, hopper(), hopper(), hopper()}), {}, open), 2);
  EXPECT_THAT(opened, ElementsAre(1, 2)) << "one that is refused before is left alone, and so is what follows";
}

TEST(GpuChoice, TakesTheOneThatIsNamedAndNoOther) {
  std::vector<int> opened;
  const auto open = [&](int gpu) {
    opened.push_back(gpu);
    return fine(gpu);
  };
  EXPECT_EQ(open_gpu(driver({hopper(), hopper()}), {.number = 1}, open), 1);
  EXPECT_THAT(opened, ElementsAre(1));
  EXPECT_THAT(message(driver({hopper(), hopper()}), {.number = 0}, taken), HasSubstr("cuda:0: NVIDIA H100 could not"));
}

TEST(GpuChoice, SaysThatThereIsNoDriver) {
  DriverAnswer answer = driver({});
  answer.driver_version = 0;
  EXPECT_THAT(message(answer), HasSubstr("NVIDIA H100 is there, but the library of its driver (libcuda.so.1) was not"));
  answer.installed.clear();
  EXPECT_THAT(message(answer), HasSubstr("no NVIDIA driver was found (libcuda.so.1)"));
}

TEST(GpuChoice, SaysThatTheDriverIsTooOldWithBothVersions) {
  DriverAnswer answer = driver({});
  answer.driver_version = 12040;
  answer.driver = "550.54.14";
  EXPECT_THAT(message(answer),
              HasSubstr("driver 550.54.14 is too old: it supports CUDA 12.4, this program was built with 13.0"));
  answer.driver.clear();
  EXPECT_THAT(message(answer), HasSubstr("driver is too old"));
  answer = driver({hopper()});
  answer.runtime_version = 13020;
  EXPECT_EQ(open_gpu(answer, {}, fine), 0) << "within a major version any driver will do";
}

TEST(GpuChoice, SaysThatNoGpuCanBeSeenInCudasWords) {
  DriverAnswer answer = driver({});
  answer.error = "system has unsupported display driver / cuda driver combination";
  const std::string text = message(answer);
  EXPECT_THAT(text,
              HasSubstr("no GPU can be seen: system has unsupported display driver / cuda driver combination; check"));
  EXPECT_THAT(text, Not(HasSubstr("CUDA_VISIBLE_DEVICES"))) << "it is not set";
  answer.visible = "0";
  EXPECT_THAT(message(answer), AllOf(HasSubstr("unsupported display driver"), Not(HasSubstr("hides it"))))
      << "it is set, and not the reason";
}

TEST(GpuChoice, SaysThatTheEnvironmentHidesTheGpu) {
  DriverAnswer answer = driver({});
  answer.visible = "";
  EXPECT_THAT(message(answer), HasSubstr("NVIDIA H100 is there, but CUDA_VISIBLE_DEVICES is '' and hides it; unset"));
}

TEST(GpuChoice, SaysThatACardIsCutIntoSlicesOfWhichNoneIsSeen) {
  DriverAnswer answer = driver({});
  answer.mig_cards = {"NVIDIA H100"};
  EXPECT_THAT(message(answer), HasSubstr("NVIDIA H100 is in MIG mode and no slice of it can be seen"));
}

TEST(GpuChoice, ASliceIsUsedAndSaidToBeOne) {
  const GpuAnswer slice = like_hopper([](GpuAnswer& gpu) {
    gpu.name = "NVIDIA H100 MIG 1g.10gb";
    gpu.uuid = "MIG-7";
    gpu.is_mig_slice = true;
  });
  EXPECT_EQ(open_gpu(driver({slice}), {}, fine), 0);
  EXPECT_THAT(describe(driver({slice})), ElementsAre(AllOf(HasSubstr("MIG-7"), HasSubstr("a part of the card's"))));
}

TEST(GpuChoice, RefusesACardBeforeTuring) {
  GpuAnswer volta = hopper();
  volta.name = "Tesla V100";
  volta.major = 7;
  EXPECT_THAT(message(driver({volta})), HasSubstr("Tesla V100 has compute capability 7.0, 7.5 or newer"));
  volta.minor = 5;
  EXPECT_EQ(open_gpu(driver({volta}), {}, fine), 0);
}

TEST(GpuChoice, RefusesACardThatTheProgramWasNotBuiltFor) {
  DriverAnswer answer = driver({hopper()});
  answer.code = "89-real";
  EXPECT_THAT(message(answer),
              HasSubstr("NVIDIA H100 has compute capability 9.0, for which this program was not built (it "
                        "was for 89-real)"));
}

TEST(GpuChoice, RefusesACardThatAnOlderDriverWouldHaveToCompileFor) {
  DriverAnswer answer = driver({like_hopper([](GpuAnswer& gpu) { gpu.major = 10; })});
  EXPECT_EQ(open_gpu(answer, {}, fine), 0);
  answer.runtime_version = 13010;
  EXPECT_THAT(message(answer), HasSubstr("its driver, of CUDA 13.0, cannot compile for it what CUDA 13.1 made"));
}

TEST(GpuChoice, KnowsWhatCodeRunsOnACard) {
  const auto code = [](const char* targets, int major, int minor) { return code_for(targets, major, minor); };
  EXPECT_EQ(code("86-real", 8, 6), Code::ready);
  EXPECT_EQ(code("80-real", 8, 9), Code::ready) << "within a major version, of an older minor one";
  EXPECT_EQ(code("86-real", 8, 0), Code::none);
  EXPECT_EQ(code("80-real", 9, 0), Code::none);
  EXPECT_EQ(code("80-virtual", 9, 0), Code::to_compile);
  EXPECT_EQ(code("90-virtual", 8, 9), Code::none);
  EXPECT_EQ(code("75-virtual,90-real", 9, 0), Code::ready);
  EXPECT_EQ(code("90-real,75-virtual", 8, 6), Code::to_compile);
  EXPECT_EQ(code("75", 7, 5), Code::ready) << "both kinds";
  EXPECT_EQ(code("75", 8, 0), Code::to_compile);
  EXPECT_EQ(code("100-real,120-real", 12, 1), Code::ready);
  EXPECT_EQ(code("90a-real", 9, 0), Code::ready);
  EXPECT_EQ(code("90a-real,90a-virtual", 10, 0), Code::none) << "of one card alone";
  EXPECT_EQ(code("", 9, 0), Code::none);
}

TEST(GpuChoice, KnowsWhatCardTheCodeWasCompiledFor) {
  const auto compiled_for = [](const char* targets, int major, int minor) {
    int found = -1;
    code_for(targets, major, minor, &found);
    return found;
  };
  EXPECT_EQ(compiled_for("75-virtual", 9, 0), 75);
  EXPECT_EQ(compiled_for("90-real,75-virtual", 9, 0), 90);
  EXPECT_EQ(compiled_for("90-virtual,75-virtual", 10, 0), 90);
  EXPECT_EQ(compiled_for("75-real,80-real", 8, 6), 80);
  EXPECT_EQ(compiled_for("80-real", 9, 0), 0);
}

TEST(GpuChoice, TellsProhibitedFromTakenFromBroken) {
  GpuAnswer gpu = hopper();
  gpu.mode = ComputeMode::prohibited;
  EXPECT_THAT(message(driver({gpu})), HasSubstr("'prohibited'"));
  gpu.mode = ComputeMode::exclusive;
  EXPECT_EQ(open_gpu(driver({gpu}), {}, fine), 0);
  EXPECT_THAT(message(driver({gpu}), {}, taken), HasSubstr("'exclusive process' and another process has it"));
  gpu.mode = ComputeMode::shared;
  EXPECT_THAT(message(driver({gpu}), {}, [](int) { return Opened{.error = "uncorrectable ECC error encountered"}; }),
              HasSubstr("could not be opened: uncorrectable ECC error encountered"));
}

TEST(GpuChoice, RefusesAnExclusiveCardToARunThatTakesSeveralProcesses) {
  const GpuAnswer gpu = like_hopper([](GpuAnswer& g) { g.mode = ComputeMode::exclusive; });
  EXPECT_THAT(message(driver({gpu}), {.several_processes = true}),
              AllOf(HasSubstr("lets one process use it, and a run takes several"), HasSubstr("nvidia-smi -c 0")));
  EXPECT_EQ(open_gpu(driver({gpu, hopper()}), {.several_processes = true}, fine), 1);
}

TEST(GpuChoice, SaysThatAGpuIsFullWithTheFigures) {
  const auto full = [](int) { return Opened{.free_bytes = 10 << 20, .total_bytes = 80 * kGiB}; };
  EXPECT_THAT(message(driver({hopper()}), {}, full, ErrorKind::out_of_memory),
              HasSubstr("NVIDIA H100 has no free memory: 10.0 of 81920.0 MiB are free; end other programs"));
  const auto no_context = [](int) { return Opened{.error = "out of memory", .no_memory = true}; };
  EXPECT_THAT(message(driver({hopper()}), {.number = 0}, no_context, ErrorKind::out_of_memory),
              HasSubstr("NVIDIA H100 has no free memory; end other programs"));
}

TEST(GpuChoice, GivesEachGpuItsReason) {
  const GpuAnswer exclusive = like_hopper([](GpuAnswer& g) { g.mode = ComputeMode::exclusive; });
  const GpuAnswer old = like_hopper([](GpuAnswer& g) { g.major = 5; });
  EXPECT_THAT(message(driver({exclusive, old}), {}, taken),
              AllOf(HasSubstr("cuda:0: NVIDIA H100 is in compute mode"),
                    HasSubstr("; cuda:1: NVIDIA H100 has compute capability 5.0"), Not(HasSubstr("\n"))));
}

TEST(GpuChoice, RefusesANumberThatIsNotThere) {
  EXPECT_THAT(message(driver({hopper()}), {.number = 1}, fine, ErrorKind::usage),
              HasSubstr("there is no cuda:1: 1 GPU can be seen, cuda:0"));
  DriverAnswer answer = driver({hopper(), hopper()});
  EXPECT_THAT(message(answer, {.number = 2}, fine, ErrorKind::usage),
              AllOf(HasSubstr("cuda:0 to cuda:1"), Not(HasSubstr("CUDA_VISIBLE_DEVICES"))));
  answer.visible = "2,3";
  EXPECT_THAT(message(answer, {.number = 2}, fine, ErrorKind::usage),
              HasSubstr("CUDA_VISIBLE_DEVICES is '2,3' and may hide others"));
}

TEST(GpuDescription, IsALineForEveryGpuWithWhyItCannotBeUsed) {
  const GpuAnswer old = like_hopper([](GpuAnswer& g) { g.major = 5; });
  const std::vector<std::string> lines = describe(driver({hopper(), old}));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0],
            "cuda:0: NVIDIA H100, GPU-1, compute capability 9.0, 132 multiprocessors, 80.0 GiB, driver 580.65.06 (CUDA "
            "13.0)");
  EXPECT_THAT(lines[1], HasSubstr("; cannot be used: NVIDIA H100 has compute capability 5.0"));
}

TEST(GpuDescription, SaysWhyThereIsNone) {
  DriverAnswer answer = driver({});
  answer.driver_version = 0;
  answer.installed.clear();
  EXPECT_THAT(describe(answer), ElementsAre(HasSubstr("no NVIDIA driver was found")));
}

}  // namespace
}  // namespace quantbench::cuda
