#include "bench/quality_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "bench/statistics.h"

namespace quantbench {
namespace {

constexpr uint64_t kSeed = 7;

// `count` texts of 10 tokens; NLL 20, 21, …, that of the reference 1 less, KL a tenth of it, 9 of the best ids the
// same.
QualityData measured(int count) {
  QualityData data;
  data.text.kind = TextKind::file;
  data.text.name = "'a file'";
  data.text.window = 21;
  data.reference = "fp16";
  for (int i = 0; i < count; ++i) {
    data.scores.texts.push_back(
        {.tokens = 10, .nll = 20.0 + i, .kl = 2 + 0.1 * i, .reference_nll = 19.0 + i, .same_top = 9});
  }
  data.scores.kl_p99 = 1.5;
  return data;
}

TEST(PerToken, OfTextsOfOneLengthIsTheirMeanWithItsInterval) {
  const std::vector<double> sums{20.13, 24.71, 22.02, 28.41, 21.37, 21.36},
      means{2.013, 2.471, 2.202, 2.841, 2.137, 2.136};
  const Estimate e = per_token(sums, std::vector(6, 10), kSeed);
  EXPECT_NEAR(e.value, 2.3, 1e-12);
  const Interval expected = bca_mean(means, kSeed);
  // 720 of 46,656 resamples have every text once, and rounding decides which of them count as below the mean.
  constexpr double kRounding = 5e-3;
  EXPECT_NEAR(e.low.value(), expected.low, kRounding);
  EXPECT_NEAR(e.high.value(), expected.high, kRounding);
  EXPECT_GT(e.high.value() - e.low.value(), 50 * kRounding);
}

TEST(PerToken, LongTextsWeighMore) {
  EXPECT_DOUBLE_EQ(per_token(std::vector<double>{10, 90}, std::vector{10, 30}, kSeed).value, 2.5);
  // Texts that differ in length alone have one value a token, and no spread.
  const std::vector<int> tokens{1, 2, 3, 4, 50, 6};
  std::vector<double> sums;
  for (const int t : tokens) sums.push_back(3.0 * t);
  const Estimate e = per_token(sums, tokens, kSeed);
  EXPECT_NEAR(e.low.value(), 3, 1e-9);
  EXPECT_NEAR(e.high.value(), 3, 1e-9);
}

TEST(PerToken, FewTextsHaveNoInterval) {
  EXPECT_FALSE(per_token(std::vector<double>{1, 2, 3, 4, 5}, std::vector(5, 1), kSeed).low);
  EXPECT_TRUE(per_token(std::vector<double>{1, 2, 3, 4, 5, 6}, std::vector(6, 1), kSeed).low);
}

TEST(QualityRecord, FiguresAreThoseOfAllTokens) {
  const QualityView v = view_of(measured(7), kSeed);
  EXPECT_EQ(v.texts, 7);
  EXPECT_EQ(v.tokens, 70);
  EXPECT_DOUBLE_EQ(v.perplexity.value().value, std::exp(2.3));
  EXPECT_LT(v.perplexity->low.value(), std::exp(2.3));
  EXPECT_GT(v.perplexity->high.value(), std::exp(2.3));
  EXPECT_NEAR(v.perplexity_ratio.value().value, std::exp(0.1), 1e-9);
  EXPECT_NEAR(v.perplexity_ratio->low.value(), std::exp(0.1), 1e-12) << "the same in every text";
  EXPECT_DOUBLE_EQ(v.kl_mean.value().value, 0.23);
  EXPECT_DOUBLE_EQ(v.same_top.value().value, 0.9);
  EXPECT_EQ(v.kl_p99, 1.5);
}

TEST(QualityRecord, SaysNothingThatTheTextDoesNotTell) {
  QualityData data = measured(7);
  data.text.kind = TextKind::own_answer;
  EXPECT_FALSE(view_of(data, kSeed).perplexity);
  EXPECT_FALSE(view_of(data, kSeed).perplexity_ratio);
  EXPECT_TRUE(view_of(data, kSeed).kl_mean);
  EXPECT_TRUE(quality_part(data, kSeed).at("samples").at("nll").is_null());
  data = measured(7);
  data.reference.clear();
  data.no_reference = "there is none";
  EXPECT_TRUE(view_of(data, kSeed).perplexity);
  EXPECT_FALSE(view_of(data, kSeed).kl_mean);
  EXPECT_FALSE(view_of(data, kSeed).same_top);
  EXPECT_EQ(quality_part(data, kSeed).at("no_reference"), "there is none");
  EXPECT_TRUE(quality_part(data, kSeed).at("samples").at("kl").is_null());
}

TEST(QualityRecord, IsReadBackAsItWasWritten) {
  const QualityData data = measured(7);
  const QualityView before = view_of(data, kSeed), after = quality_view_of(quality_part(data, kSeed));
  EXPECT_EQ(after.text_kind, "file");
  EXPECT_EQ(after.text_name, before.text_name);
  EXPECT_EQ(after.tokens, before.tokens);
  EXPECT_EQ(after.reference, "fp16");
  EXPECT_EQ(after.perplexity.value().low, before.perplexity.value().low);
  EXPECT_EQ(after.kl_mean.value().value, before.kl_mean.value().value);
  EXPECT_EQ(after.same_top.value().high, before.same_top.value().high);
  EXPECT_EQ(after.kl_p99, before.kl_p99);
  EXPECT_EQ(after.error, "");
}

TEST(QualityRecord, WhatWasNotMeasuredSaysWhy) {
  QualityData data = measured(0);
  data.error = "no room";
  data.kind = ErrorKind::out_of_memory;
  const Record part = quality_part(data, kSeed);
  EXPECT_EQ(part.at("error"), "no room");
  EXPECT_EQ(part.at("error_kind"), name_of(ErrorKind::out_of_memory));
  EXPECT_TRUE(part.at("perplexity").is_null());
  EXPECT_EQ(quality_view_of(part).error, "no room");
}

}  // namespace
}  // namespace quantbench
