#include "bench/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

// Medians of resamples are counted, not sorted: to the bit what drawing and sorting gives.
TEST(Statistics, RatioOfMediansIsThatOfSortedResamples) {
  SeededNumbers samples(3);
  for (const size_t n : {1u, 2u, 6u, 7u, 30u}) {
    std::vector<double> a(n), b(n + 3);
    for (std::vector<double>* side : {&a, &b}) {
      for (double& x : *side) x = 1 + static_cast<double>(samples.below(9)) / 8;  // some of them twice
    }
    SeededNumbers numbers(n);
    std::vector<double> ratios;
    for (int i = 0; i < 500; ++i) {
      std::vector<double> draw_a(a.size()), draw_b(b.size());
      for (double& x : draw_a) x = a[numbers.below(a.size())];
      for (double& x : draw_b) x = b[numbers.below(b.size())];
      ratios.push_back(median(draw_a) / median(draw_b));
    }
    const Ratio ratio = bootstrap_median_ratio(a, b, n, 0.95, 500);
    EXPECT_EQ(ratio.low, quantile(ratios, 0.025)) << n;
    EXPECT_EQ(ratio.high, quantile(ratios, 0.975)) << n;
  }
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

TEST(Statistics, PValuesOfRatiosAgreeWithTheSharesOfNumPysResamples) {
  const json all = golden();
  int seen = 0;
  for (const char* const part : {"ratios", "p_values"}) {
    for (const json& r : all[part]) {
      const double p = r["p"];
      const Ratio ratio = bootstrap_median_ratio(r["numerator"].get<std::vector<double>>(),
                                                 r["denominator"].get<std::vector<double>>(), 1);
      // Four standard errors of twice a share of 10,000 resamples, and the one that counts beside them.
      const double resamples = kBootstrapResamples;
      EXPECT_NEAR(ratio.p, p, 8 * std::sqrt(p / 2 / resamples) + 2 / (resamples + 1));
      ++seen;
    }
  }
  EXPECT_EQ(seen, 4);
}

TEST(Statistics, APValueIsNeverNothingAndOneWhereNothingDiffers) {
  const std::vector<double> low{1, 2, 3}, high{10, 11, 12};
  EXPECT_DOUBLE_EQ(bootstrap_median_ratio(low, high, 1, 0.95, 99).p, 0.02);  // 2 · (0 + 1) / (99 + 1)
  EXPECT_DOUBLE_EQ(bootstrap_median_ratio(high, low, 1, 0.95, 99).p, 0.02);
  EXPECT_EQ(bootstrap_median_ratio(std::vector<double>{5, 5}, std::vector<double>{5, 5}, 1).p, 1);
}

TEST(Statistics, BootstrapsOfAMeanAgreeWithSciPyOnTheSameResamples) {
  const json means = golden()["means"];
  ASSERT_EQ(means.size(), 3u);
  for (const json& m : means) {
    SCOPED_TRACE(m["name"].get<std::string>());
    const auto samples = m["samples"].get<std::vector<double>>();
    const uint64_t seed = m["seed"];
    const int resamples = m["resamples"];
    const Interval percentile = bootstrap_mean(samples, seed, 0.95, resamples),
                   bca = bca_mean(samples, seed, 0.95, resamples);
    EXPECT_NEAR(percentile.low, m["percentile"][0].get<double>(), kRounding);
    EXPECT_NEAR(percentile.high, m["percentile"][1].get<double>(), kRounding);
    // SciPy's normal distribution is another's: levels that differ by 1e-15, between 2,000 resamples that lie less than
    // 1 apart.
    EXPECT_NEAR(bca.low, m["BCa"][0].get<double>(), 1e-11);
    EXPECT_NEAR(bca.high, m["BCa"][1].get<double>(), 1e-11);
  }
}

TEST(Statistics, BcaOfWhatIsAllTheSameIsThatValue) {
  const Interval interval = bca_mean(std::vector<double>{3, 3, 3}, 1);
  EXPECT_EQ(interval.low, 3);
  EXPECT_EQ(interval.high, 3);
}

TEST(Statistics, NormalDistributionAgreesWithSciPyAndItsQuantileIsItsInverse) {
  const json points = golden()["normal"];
  for (const json& point : points) {
    const double x = point[0], p = point[1];
    EXPECT_NEAR(normal_probability(x), p, 1e-14 * p);  // a few units in the last place
    EXPECT_NEAR(normal_quantile(p), x, 1e-12);
  }
}

TEST(Statistics, HolmsAdjustmentIsThatOfItsDefinition) {
  const json h = golden()["holm"];
  const auto p = h["p"].get<std::vector<double>>(), expected = h["adjusted"].get<std::vector<double>>();
  const std::vector<double> adjusted = holm_adjusted(p);
  ASSERT_EQ(adjusted.size(), expected.size());
  for (size_t i = 0; i < p.size(); ++i) EXPECT_DOUBLE_EQ(adjusted[i], expected[i]) << i;
  // By hand: 4 · 0.005, 3 · 0.01, 2 · 0.03, then 0.04, which must not be below 0.06.
  EXPECT_THAT(holm_adjusted(std::vector<double>{0.01, 0.04, 0.03, 0.005}),
              testing::Pointwise(testing::DoubleEq(), {0.03, 0.06, 0.06, 0.02}));
  EXPECT_THAT(holm_adjusted(std::vector<double>{0.6, 0.7}), testing::ElementsAre(1, 1));
  EXPECT_TRUE(holm_adjusted({}).empty());
}

TEST(Statistics, FencesAgreeWithNumPysQuartiles) {
  const json tukey = golden()["tukey"];
  const auto classes = classify_outliers(tukey["samples"].get<std::vector<double>>());
  std::set<int> seen;
  for (size_t i = 0; i < classes.size(); ++i) {
    EXPECT_EQ(static_cast<int>(classes[i]), tukey["classes"][i].get<int>()) << i;
    seen.insert(static_cast<int>(classes[i]));
  }
  EXPECT_EQ(seen.size(), 3u) << "the sample has some of each class";
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
