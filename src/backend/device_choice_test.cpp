#include "backend/device_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(Device, IsDescribedByItsCardOrItsThreads) {
  DeviceInfo device{.backend = "cpu", .id = "cpu", .name = "Some CPU", .features = "avx2"};
  EXPECT_EQ(described(device), "Some CPU, avx2, 1 thread");
  device.threads = 8;
  EXPECT_EQ(described(device), "Some CPU, avx2, 8 threads");
  device = {.backend = "cuda", .id = "cuda:1", .name = "Some GPU", .features = "sm_90", .gpu = GpuInfo{}};
  EXPECT_EQ(described(device), "Some GPU, cuda:1, sm_90");
}

TEST(MatrixLibrary, IsDescribedByItsVersionAndFileOrByWhatIsUsedWithoutIt) {
  EXPECT_EQ(described(MatrixLibrary{.version = "13.0.2", .path = "/lib/x.so"}), "13.0.2, /lib/x.so");
  EXPECT_THAT(described(MatrixLibrary{.missing = "it was not found"}), HasSubstr("own kernels"));
}

// A build and machine whose backends are the reference under other names, and say what they were asked for.
struct House {
  bool built_with_cuda = true, gpu_is_there = true;
  std::optional<Error> cuda_fails, cpu_fails;
  std::string made;
  BackendOptions asked;

  DeviceSources sources() {
    DeviceSources all;
    const auto add = [&](const std::string& name, const std::optional<Error>& fails) {
      all.backends.push_back({name, [this, name, fails](const BackendOptions& options) {
                                if (fails) throw Error(*fails);
                                made = name;
                                asked = options;
                                return make_backend("reference", {});
                              }});
    };
    if (built_with_cuda) add("cuda", cuda_fails);
    add("cpu", cpu_fails);
    add("reference", {});
    all.without_cuda = built_without_cuda("there was no nvcc", "install it");
    all.gpu_is_there = [this] { return gpu_is_there; };
    return all;
  }
  // What was taken, and why a GPU was not.
  std::pair<std::string, std::string> choose(std::string_view name, const BackendOptions& options = {}) {
    const ChosenDevice chosen = choose_device(name, options, sources());
    EXPECT_TRUE(chosen.backend);
    return {made, chosen.passed_over};
  }
  Error refused(std::string_view name) {
    try {
      choose(name);
    } catch (const Error& error) {
      return error;
    }
    ADD_FAILURE() << "nothing was refused";
    return {ErrorKind::internal, ""};
  }
};

TEST(DeviceChoice, AutoTakesTheGpuThatCanBeUsed) {
  House house;
  EXPECT_EQ(house.choose("auto", {.threads = 3, .several_processes = true}),
            std::pair(std::string("cuda"), std::string()));
  EXPECT_EQ(house.asked.gpu, std::nullopt);
  EXPECT_EQ(house.asked.threads, 3);
  EXPECT_TRUE(house.asked.several_processes);
}

TEST(DeviceChoice, AutoTakesTheCpuAndSaysWhyTheGpuIsNot) {
  House house;
  for (const ErrorKind kind : {ErrorKind::device, ErrorKind::out_of_memory}) {
    house.cuda_fails = Error(kind, "its driver is too old");
    EXPECT_EQ(house.choose("auto"), std::pair(std::string("cpu"), std::string("its driver is too old")));
  }
  house.built_with_cuda = false;
  const auto [made, why] = house.choose("auto");
  EXPECT_EQ(made, "cpu");
  EXPECT_THAT(why, HasSubstr("built without its CUDA backend; CMake found: there was no nvcc; install it"));
}

TEST(DeviceChoice, AutoSaysNothingWhereThereIsNoGpu) {
  House house;
  house.gpu_is_there = false;
  house.cuda_fails = Error(ErrorKind::device, "no NVIDIA driver was found");
  EXPECT_EQ(house.choose("auto"), std::pair(std::string("cpu"), std::string()));
  house.built_with_cuda = false;
  EXPECT_EQ(house.choose("auto"), std::pair(std::string("cpu"), std::string()));
}

TEST(DeviceChoice, AutoHidesNoFaultOfOurs) {
  House house;
  house.cuda_fails = Error(ErrorKind::internal, "a fault");
  EXPECT_EQ(house.refused("auto").kind(), ErrorKind::internal);
  house.cuda_fails = Error(ErrorKind::device, "no GPU");
  house.cpu_fails = Error(ErrorKind::device, "no AVX2");
  EXPECT_THAT(house.refused("auto").what(), HasSubstr("no AVX2"));
}

TEST(DeviceChoice, AGpuAskedForByNameIsNeverReplaced) {
  House house;
  EXPECT_EQ(house.choose("cuda").first, "cuda");
  EXPECT_EQ(house.asked.gpu, std::nullopt);
  EXPECT_EQ(house.choose("cuda:12").first, "cuda");
  EXPECT_EQ(house.asked.gpu, 12);
  house.cuda_fails = Error(ErrorKind::out_of_memory, "it has no free memory");
  const Error error = house.refused("cuda:0");
  EXPECT_EQ(error.kind(), ErrorKind::out_of_memory);
  EXPECT_STREQ(error.what(), "--device cuda:0: it has no free memory; or use --device cpu");
}

TEST(DeviceChoice, ABuildWithoutCudaSaysSoAndWhatToDo) {
  House house;
  house.built_with_cuda = false;
  const Error error = house.refused("cuda:1");
  EXPECT_EQ(error.kind(), ErrorKind::device);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("--device cuda:1: this program was built without"),
                                  HasSubstr("no nvcc; install it; or use --device cpu")));
}

TEST(DeviceChoice, ThisBuildKnowsWhyItHasNoCuda) {
  const std::vector<std::string> names = backend_names();
  if (std::find(names.begin(), names.end(), "cuda") != names.end()) GTEST_SKIP() << "it has";
  try {
    choose_device("cuda", {});
    FAIL() << "nothing was refused";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::ContainsRegex("CMake found: [^;]*[a-z][^;]*; .*build again"));
  }
  EXPECT_THAT(describe_gpus(), testing::Each(testing::ContainsRegex("CMake found: [^;]*[a-z][^;]*; .*build again")));
}

TEST(DeviceChoice, RefusesNamesThatAreNone) {
  House house;
  for (const char* name : {"cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda:99999", "cuda: 1"}) {
    const Error error = house.refused(name);
    EXPECT_EQ(error.kind(), ErrorKind::usage) << name;
    EXPECT_THAT(error.what(), HasSubstr("names no GPU")) << name;
  }
  for (const char* name : {"tpu", "", "CUDA", "cuda0", "gpu"}) {
    const Error error = house.refused(name);
    EXPECT_EQ(error.kind(), ErrorKind::usage) << name;
    EXPECT_THAT(error.what(), HasSubstr("expected auto, cuda[:N], cpu, reference")) << name;
  }
  house.built_with_cuda = false;  // the help has the name all the same
  EXPECT_THAT(house.refused("gpu").what(), HasSubstr("expected auto, cuda[:N], cpu, reference"));
}

}  // namespace
}  // namespace quantbench
