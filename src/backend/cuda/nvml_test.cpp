#include "backend/cuda/nvml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

namespace quantbench::cuda {
namespace {

TEST(Nvml, TellsDriverCardsAndTheirMode) {
  const auto nvml = open_nvml(QB_FAKE_NVML);
  ASSERT_TRUE(nvml);
  EXPECT_EQ(nvml->driver(), "580.65.06");
  const std::vector<Nvml::Card> cards = nvml->cards();
  ASSERT_EQ(cards.size(), 2u);
  EXPECT_EQ(cards[0].name, "Fake H100");
  EXPECT_FALSE(cards[0].mig_mode);
  EXPECT_TRUE(cards[1].mig_mode);
  EXPECT_TRUE(nvml->knows("MIG-of-two"));
  EXPECT_FALSE(nvml->knows("MIG-one"));
}

TEST(Nvml, TellsMemoryAndWhatAProcessHas) {
  const auto nvml = open_nvml(QB_FAKE_NVML);
  ASSERT_TRUE(nvml);
  const auto memory = nvml->memory("GPU-one");
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->total_bytes, int64_t{80} << 30);
  EXPECT_EQ(memory->used_bytes, int64_t{20} << 30);
  EXPECT_EQ(nvml->process_bytes("GPU-one", 1039), int64_t{39} << 20) << "more processes than were made room for";
  EXPECT_EQ(nvml->process_bytes("GPU-one", 999), std::nullopt);
}

TEST(Nvml, WhatItDoesNotTellIsNothingAndNeverZero) {
  const auto nvml = open_nvml(QB_FAKE_NVML);
  ASSERT_TRUE(nvml);
  EXPECT_EQ(nvml->process_bytes("GPU-one", 7), std::nullopt);
  EXPECT_EQ(nvml->process_bytes("MIG-of-two", 1000), std::nullopt);
  EXPECT_FALSE(nvml->memory("MIG-of-two"));
  EXPECT_FALSE(nvml->memory("GPU-none"));
}

TEST(Nvml, IsNeverNeeded) {
  EXPECT_FALSE(open_nvml("libno-such-thing.so.1"));
  EXPECT_FALSE(open_nvml("libm.so.6")) << "a library without its functions";
  ::setenv("QB_FAKE_NVML_FAILS", "1", 1);
  EXPECT_FALSE(open_nvml(QB_FAKE_NVML)) << "as where the driver was updated and not restarted";
  ::unsetenv("QB_FAKE_NVML_FAILS");
}

}  // namespace
}  // namespace quantbench::cuda
