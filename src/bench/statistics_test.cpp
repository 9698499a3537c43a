#include "bench/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "core/json.h"

namespace quantbench {
namespace {

using nlohmann::json;

json golden() { return read_json_file(QB_SOURCE_DIR "/testdata/statistics/golden.json"); }

// SciPy and we add in different orders: a few units in the last place, no more.
constexpr double kRounding = 1e-12;

TEST(Statistics, AgreesWithSciPyOnEveryCase) {
  const json cases = golden()["cases"];  // kept, or the loop would walk through a value that is gone
  for (const json& c : cases) {
    SCOPED_TRACE(c["name"].get<std::string>());
    const auto samples = c["samples"].get<std::vector<double>>();
    EXPECT_DOUBLE_EQ(median(samples), c["median"]);
    EXPECT_NEAR(median_absolute_deviation(samples), c["mad"], kRounding);
    for (const auto& [q, value] : c["quantiles"].items()) {
      EXPECT_NEAR(quantile(samples, std::stod(q)), value, kRounding * 100) << q;
    }
    const auto interval = median_interval(samples);
    ASSERT_EQ(interval.has_value(), !c["interval"].is_null());
    if (!interval) continue;
    EXPECT_EQ(interval->low, c["interval"]["low"]);
    EXPECT_EQ(interval->high, c["interval"]["high"]);
    EXPECT_EQ(interval->low_rank, c["interval"]["low_rank"]);
    EXPECT_EQ(interval->high_rank, c["interval"]["high_rank"]);
    EXPECT_NEAR(interval->coverage, c["interval"]["coverage"].get<double>(), 1e-10);  // we sum logarithms
  }
}

TEST(Statistics, TenRunsGiveTheSecondToTheNinthValue) {
  const std::vector<double> samples{10, 9, 8, 7, 6, 5, 4, 3, 2, 1};
  const auto interval = median_interval(samples);
  ASSERT_TRUE(interval);
  EXPECT_EQ(interval->low, 2);
  EXPECT_EQ(interval->high, 9);
  EXPECT_NEAR(interval->coverage, 0.978515625, 1e-12);  // 1 − 2·(1 + 10)/1024
}

TEST(Statistics, TheIntervalOfTheMedianCoversAsOftenAsItSays) {
  // Uniform samples have the median 0.5: count how often the interval holds it.
  SeededNumbers numbers(7);
  constexpr int kTrials = 20000;
  int covered = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<double> x(10);
    for (double& value : x) value = static_cast<double>(numbers.next() >> 11) * 0x1p-53;
    const auto interval = median_interval(x);
    covered += interval->low <= 0.5 && 0.5 <= interval->high;
  }
  EXPECT_NEAR(covered / static_cast<double>(kTrials), 0.9785, 0.004);  // 4 standard errors of a 2.15 % share
}

TEST(Statistics, RatioOfMediansAgreesWithSciPysBootstrap) {
  const json ratios = golden()["ratios"];
  for (const json& r : ratios) {
    const auto a = r["numerator"].get<std::vector<double>>(), b = r["denominator"].get<std::vector<double>>();
    const Ratio ratio = bootstrap_median_ratio(a, b, 1);
    EXPECT_DOUBLE_EQ(ratio.value, r["value"]);
    // Both are random: 200,000 resamples there, 10,000 here. The bounds sit on few distinct medians; 0.4 % is their
    // spacing in these samples.
    EXPECT_NEAR(ratio.low, r["low"].get<double>(), 0.004 * ratio.value);
    EXPECT_NEAR(ratio.high, r["high"].get<double>(), 0.004 * ratio.value);
  }
}

TEST(Statistics, TheSameSeedGivesTheSameInterval) {
  const std::vector<double> a{1, 2, 3, 4, 5, 6}, b{2, 3, 4, 5, 6, 7};
  const Ratio first = bootstrap_median_ratio(a, b, 5), again = bootstrap_median_ratio(a, b, 5);
  EXPECT_EQ(first.low, again.low);
  EXPECT_EQ(first.high, again.high);
}

TEST(Statistics, TailQuantilesNeedEnoughSamples) {
  EXPECT_EQ(samples_for_quantile(0.90), 29);
  EXPECT_EQ(samples_for_quantile(0.95), 59);
  EXPECT_EQ(samples_for_quantile(0.99), 299);
  std::vector<double> samples(58, 1.0);
  EXPECT_FALSE(tail_quantile(samples, 0.95));
  samples.push_back(1.0);
  EXPECT_TRUE(tail_quantile(samples, 0.95));
}

TEST(Statistics, OutliersAreNamedByTukeysFences) {
  // Quartiles 3 and 7, range 4: mild beyond −3 and 13, severe beyond −9 and 19.
  const std::vector<double> samples{1, 2, 3, 4, 5, 6, 7, 8, 9};
  EXPECT_THAT(classify_outliers(samples), testing::Each(Outlier::none));
  const std::vector<double> with_tail{1, 2, 3, 4, 5, 6, 7, 14, 30};
  const auto classes = classify_outliers(with_tail);
  EXPECT_EQ(classes[6], Outlier::none);
  EXPECT_EQ(classes[7], Outlier::mild);
  EXPECT_EQ(classes[8], Outlier::severe);
}

TEST(Statistics, ShufflesAreFairAndReproducible) {
  EXPECT_EQ(shuffled(5, 3), shuffled(5, 3));
  std::map<std::vector<int>, int> seen;
  constexpr int kDraws = 60000;
  for (int i = 0; i < kDraws; ++i) ++seen[shuffled(3, derived_seed(42, static_cast<uint64_t>(i)))];
  ASSERT_EQ(seen.size(), 6u);
  for (const auto& [order, count] : seen) EXPECT_NEAR(count, kDraws / 6, 400);  // 4 standard errors of 91
}

TEST(Statistics, GeneratorIsSplitMix64) {
  // The first values of seed 1234567 as published with the generator's C reference (Vigna).
  SeededNumbers numbers(1234567);
  EXPECT_EQ(numbers.next(), 6457827717110365317u);
  EXPECT_EQ(numbers.next(), 3203168211198807973u);
  EXPECT_EQ(numbers.next(), 9817491932198370423u);
}

}  // namespace
}  // namespace quantbench
