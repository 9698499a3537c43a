#include "backend/cuda/nvml_telemetry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "core/os.h"

namespace quantbench::cuda {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class NvmlTelemetry : public testing::Test {
 protected:
  static OpenedTelemetry open(const std::string& trace, const std::string& uuid = "GPU-one") {
    ::setenv("QB_FAKE_NVML_TRACE", (QB_SOURCE_DIR "/testdata/telemetry/" + trace + ".trace").c_str(), 1);
    return open_nvml_telemetry(uuid, QB_FAKE_NVML);
  }
  void TearDown() override {
    at(0);
    ::unsetenv("QB_FAKE_NVML_TRACE");
    os::Library::open(QB_FAKE_NVML)->find<int()>("nvmlInit_v2")();  // forgets the trace
  }
  static void at(double s) { os::Library::open(QB_FAKE_NVML)->find<void(double)>("qb_fake_nvml_now")(s); }
};

TEST_F(NvmlTelemetry, TellsWhatTheCardSaysAtTheTime) {
  const OpenedTelemetry opened = open("throttling");
  ASSERT_TRUE(opened.telemetry) << opened.missing;
  CardReading now = opened.telemetry->read();
  EXPECT_EQ(now.sm_mhz, 1980);
  EXPECT_EQ(now.memory_mhz, 2619);
  EXPECT_EQ(now.temperature_c, 45);
  EXPECT_EQ(now.power_w, 310);
  EXPECT_EQ(now.reasons, 0u) << "told, and none";
  at(0.1);
  now = opened.telemetry->read();
  EXPECT_EQ(now.sm_mhz, 1095);
  EXPECT_EQ(now.reasons, 0x40u);
}

TEST_F(NvmlTelemetry, TellsEnergyErrorsModeAndProcesses) {
  const OpenedTelemetry opened = open("ecc");
  EXPECT_EQ(opened.telemetry->state().ecc_uncorrected, 3);
  EXPECT_EQ(opened.telemetry->state().mig_mode, false);
  EXPECT_EQ(opened.telemetry->state().energy_j, 0);
  ASSERT_TRUE(opened.telemetry->processes());
  EXPECT_THAT(*opened.telemetry->processes(), ElementsAre(1000u, 1001u));
  EXPECT_EQ(open("energy").telemetry->state().energy_j, 5);
}

TEST_F(NvmlTelemetry, WhatIsNotSupportedIsNothingAndNeverZero) {
  const OpenedTelemetry opened = open("unsupported");
  ASSERT_TRUE(opened.telemetry);
  const CardReading now = opened.telemetry->read();
  EXPECT_FALSE(now.sm_mhz || now.memory_mhz || now.temperature_c || now.power_w || now.reasons);
  const CardState state = opened.telemetry->state();
  EXPECT_FALSE(state.energy_j || state.ecc_uncorrected || state.mig_mode);
  EXPECT_FALSE(opened.telemetry->processes());
}

TEST_F(NvmlTelemetry, ASliceHasTheClocksOfItsCardAndNoPowerOfItsOwn) {
  const OpenedTelemetry opened = open("steady", "MIG-of-two");
  ASSERT_TRUE(opened.telemetry) << opened.missing;
  const CardReading now = opened.telemetry->read();
  EXPECT_EQ(now.sm_mhz, 1980);
  EXPECT_EQ(now.reasons, 0u);
  EXPECT_FALSE(now.power_w);
  EXPECT_FALSE(opened.telemetry->state().energy_j);
  EXPECT_FALSE(opened.telemetry->processes()) << "the fake allows it of cards alone";
}

TEST_F(NvmlTelemetry, WithoutTheLibraryOrTheCardItSaysWhy) {
  EXPECT_FALSE(open_nvml_telemetry("GPU-one", "libno-such-thing.so.1").telemetry);
  EXPECT_THAT(open_nvml_telemetry("GPU-one", "libno-such-thing.so.1").missing, HasSubstr("libno-such-thing.so.1"));
  EXPECT_THAT(open_nvml_telemetry("GPU-one", "libm.so.6").missing, HasSubstr("lacks nvmlInit_v2"));
  EXPECT_THAT(open("steady", "GPU-three").missing, HasSubstr("does not know GPU-three"));
  ::setenv("QB_FAKE_NVML_FAILS", "1", 1);
  EXPECT_THAT(open("steady").missing, HasSubstr("nvmlInit_v2 answers 999"));
  ::unsetenv("QB_FAKE_NVML_FAILS");
}

}  // namespace
}  // namespace quantbench::cuda
