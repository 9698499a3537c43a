#include "app/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace quantbench {
namespace {

using testing::ElementsAre;

TEST(Flags, ListsAndCountsAreStrict) {
  EXPECT_THAT(parse_counts("-p", "8,512", 1, 1000), ElementsAre(8, 512));
  for (const char* bad : {"", "8,", ",8", "8,,9", "8x", " 8", "0", "1001", "-1", "9999999999999", "1e2"}) {
    EXPECT_THROW(parse_counts("-p", bad, 1, 1000), Error) << bad;
  }
}

TEST(Flags, PrecisionsHaveTheirNamesAndNoOther) {
  EXPECT_THAT(parse_precisions("fp16,int8,4bit"), ElementsAre(Precision::fp16, Precision::int8, Precision::nf4));
  EXPECT_THAT(parse_precisions("nf4"), ElementsAre(Precision::nf4));
  EXPECT_THAT(parse_precisions("bf16,fp16"), ElementsAre(Precision::bf16, Precision::fp16));
  for (const char* bad : {"FP16", "int4", "fp16,fp16", "4bit,nf4", "bf16,bf16", ""})
    EXPECT_THROW(parse_precisions(bad), Error) << bad;
}

TEST(Flags, SharesArePercentOrFractions) {
  EXPECT_DOUBLE_EQ(parse_share("--target-ci", "1%", 0.0001, 1), 0.01);
  EXPECT_DOUBLE_EQ(parse_share("--target-ci", "0.02", 0.0001, 1), 0.02);
  for (const char* bad : {"0%", "200%", "%", "1 %", "nan", "inf", "-1%", "1", "1.0", "2"}) {
    EXPECT_THROW(parse_share("--target-ci", bad, 0.0001, 1), Error) << bad;
  }
}

TEST(Flags, SeedsUseAll64Bits) {
  EXPECT_EQ(parse_seed("--seed", "18446744073709551615"), 18446744073709551615u);
  EXPECT_THROW(parse_seed("--seed", "18446744073709551616"), Error);
  EXPECT_THROW(parse_seed("--seed", "-1"), Error);
}

}  // namespace
}  // namespace quantbench
