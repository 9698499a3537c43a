#include "bench/inter_token.h"

#include <gtest/gtest.h>

#include <cmath>

#include "bench/statistics.h"

namespace quantbench {
namespace {

// So many runs of so many steps; run r is slower by `apart` than the one before.
std::vector<std::vector<double>> runs_of(int runs, int steps, double apart, uint64_t seed = 1) {
  SeededNumbers numbers(seed);
  std::vector<std::vector<double>> all(static_cast<size_t>(runs));
  for (size_t r = 0; r < all.size(); ++r) {
    for (int i = 0; i < steps; ++i) {
      const double uniform = static_cast<double>(numbers.next() >> 11) * 0x1p-53;
      all[r].push_back(100 + apart * static_cast<double>(r) + uniform);
    }
  }
  return all;
}

const Summary* find(const std::vector<Summary>& all, std::string_view name) {
  for (const Summary& s : all) {
    if (s.name == name) return &s;
  }
  return nullptr;
}

TEST(InterToken, PercentilesAreThoseOfAllStepsTogether) {
  const auto runs = runs_of(10, 63, 0.3);
  std::vector<double> pooled;
  for (const auto& run : runs) pooled.insert(pooled.end(), run.begin(), run.end());
  const auto all = inter_token_percentiles(runs, 7);
  ASSERT_EQ(all.size(), kInterTokenPercentiles.size());
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i].name, kInterTokenPercentiles[i].name);
    EXPECT_DOUBLE_EQ(all[i].median, quantile(pooled, kInterTokenPercentiles[i].q));
    EXPECT_EQ(all[i].runs, 10);
    ASSERT_EQ(all[i].samples.size(), 10u);
    EXPECT_DOUBLE_EQ(all[i].samples[3], quantile(runs[3], kInterTokenPercentiles[i].q));
    ASSERT_TRUE(all[i].low && all[i].high);
    EXPECT_LE(*all[i].low, all[i].median);
    EXPECT_GE(*all[i].high, all[i].median);
  }
}

TEST(InterToken, ATailNeedsEnoughStepsOfAllRunsTogether) {
  const auto few = inter_token_percentiles(runs_of(6, 9, 0), 1);  // 54 steps
  EXPECT_TRUE(find(few, "inter_token_pooled_p50"));
  EXPECT_TRUE(find(few, "inter_token_pooled_p90"));
  EXPECT_FALSE(find(few, "inter_token_pooled_p95")) << "59 are needed";
  EXPECT_TRUE(find(inter_token_percentiles(runs_of(6, 10, 0), 1), "inter_token_pooled_p95"));
  EXPECT_FALSE(find(inter_token_percentiles(runs_of(298, 1, 0), 1), "inter_token_pooled_p99"));
  EXPECT_TRUE(find(inter_token_percentiles(runs_of(299, 1, 0), 1), "inter_token_pooled_p99"));
}

// Runs that differ make a wide interval however many steps each has: bootstrapping steps would make a narrow one.
TEST(InterToken, TheIntervalIsOverRunsNotOverSteps) {
  const auto runs = runs_of(10, 1000, 1);
  const Summary p50 = inter_token_percentiles(runs, 1)[0];
  // A mean of 10 runs that are uniform in [100, 110] has a standard deviation of 0.9 (10 / √12 / √10); a median's is
  // no smaller. Of 10,000 independent steps it would be 10 / (2 · √10000) = 0.05.
  EXPECT_GT(*p50.high - *p50.low, 2 * 0.9);
  const Summary alike = inter_token_percentiles(runs_of(10, 1000, 0), 1)[0];
  EXPECT_LT(*alike.high - *alike.low, 0.1);
}

TEST(InterToken, WithFewRunsThereIsNoInterval) {
  EXPECT_FALSE(inter_token_percentiles(runs_of(5, 100, 0), 1)[0].low);
  EXPECT_TRUE(inter_token_percentiles(runs_of(6, 100, 0), 1)[0].low);
}

TEST(InterToken, NothingIsToldWhereARunLacksItsSteps) {
  auto runs = runs_of(10, 63, 0);
  runs[4].clear();
  EXPECT_TRUE(inter_token_percentiles(runs, 1).empty());
  EXPECT_TRUE(inter_token_percentiles({}, 1).empty());
}

}  // namespace
}  // namespace quantbench
