#include "bench/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quantbench {
namespace {

// Eleven runs, evenly spaced by `step` of the middle one.
std::vector<double> runs(double middle, double step) {
  std::vector<double> samples;
  for (int i = -5; i <= 5; ++i) samples.push_back(middle * (1 + i * step));
  return samples;
}

Comparison compared(const std::vector<double>& base, const std::vector<double>& other, Better better,
                    double threshold = kSameThreshold) {
  return compare(std::vector{SamplePair{base, other, better}}, 1, threshold)[0];
}

TEST(Comparison, IsOneOfFour) {
  const auto base = runs(100, 0.001);
  EXPECT_EQ(compared(base, runs(90, 0.001), Better::lower).difference, Difference::faster);
  EXPECT_EQ(compared(base, runs(110, 0.001), Better::lower).difference, Difference::slower);
  EXPECT_EQ(compared(base, runs(101, 0.001), Better::lower).difference, Difference::same);
  EXPECT_EQ(compared(base, runs(101, 0.05), Better::lower).difference, Difference::ambiguous) << "noise";
}

TEST(Comparison, ARateThatIsHigherIsFasterAsATimeIsThatIsLower) {
  const Comparison time = compared(runs(100, 0.001), runs(80, 0.001), Better::lower);
  EXPECT_EQ(time.difference, Difference::faster);
  EXPECT_DOUBLE_EQ(time.speed.value, 1.25);
  const Comparison rate = compared(runs(80, 0.001), runs(100, 0.001), Better::higher);
  EXPECT_EQ(rate.difference, Difference::faster);
  EXPECT_DOUBLE_EQ(rate.speed.value, 1.25);
}

TEST(Comparison, TheThresholdSaysWhatIsADifference) {
  const auto base = runs(100, 0.0005), other = runs(101, 0.0005);
  EXPECT_EQ(compared(base, other, Better::higher).difference, Difference::same);
  EXPECT_EQ(compared(base, other, Better::higher, 0.005).difference, Difference::faster);
  // Sure to differ, but by as much as the threshold or not: the interval has it within.
  EXPECT_EQ(difference_of({1.018, 1.01, 1.03, 0.0002}, 0.0002, 0.02), Difference::ambiguous);
  EXPECT_EQ(difference_of({1.022, 1.01, 1.03, 0.0002}, 0.0002, 0.02), Difference::faster);
  EXPECT_EQ(difference_of({0.975, 0.96, 0.99, 0.0002}, 0.0002, 0.02), Difference::slower);
  EXPECT_EQ(difference_of({0.9, 0.8, 1.01, 0.06}, 0.06, 0.02), Difference::ambiguous);
}

TEST(Comparison, OfManyCellsIsHarderToClaimThanOfOne) {
  // Samples that overlap: alone significant, among many not.
  const std::vector<double> base = runs(100, 0.012), other = runs(106, 0.012), calm = runs(100, 0.001);
  const double p = compared(base, other, Better::higher).speed.p;
  ASSERT_GT(p, kSignificance / 40);
  ASSERT_LT(p, kSignificance);
  EXPECT_EQ(compared(base, other, Better::higher).difference, Difference::faster);
  std::vector<SamplePair> pairs(40, {calm, calm, Better::higher});
  pairs.push_back({base, other, Better::higher});
  const auto all = compare(pairs, 1);
  EXPECT_EQ(all.back().difference, Difference::ambiguous);
  EXPECT_GT(all.back().adjusted_p, 40 * p / 2) << "about 41 times what it was alone";
  EXPECT_EQ(all.front().difference, Difference::same);
}

TEST(Comparison, WithoutSamplesIsAmbiguousAndIsNotCounted) {
  const auto base = runs(100, 0.001), other = runs(90, 0.001);
  const auto all = compare(std::vector<SamplePair>{{base, {}, Better::lower}, {base, other, Better::lower}}, 1);
  EXPECT_EQ(all[0].difference, Difference::ambiguous);
  EXPECT_EQ(all[1].adjusted_p, all[1].speed.p);
}

TEST(NoiseFloor, IsTheFarthestThatARatioAndItsIntervalReach) {
  std::vector<Comparison> all(3);
  all[0].speed = {1.004, 0.998, 1.007};
  all[1].speed = {0.995, 0.987, 1.001};
  all[2].speed = {1.0, 1.0, 1.0};
  const NoiseFloor floor = noise_floor(all);
  EXPECT_NEAR(floor.largest, 0.005, 1e-15);
  EXPECT_NEAR(floor.threshold, 0.013, 1e-15);
  for (const Comparison& c : all) {
    EXPECT_EQ(difference_of(c.speed, 1, floor.threshold + 1e-12), Difference::same);
  }
  EXPECT_EQ(difference_of(all[1].speed, 1, floor.threshold - 1e-6), Difference::ambiguous);
}

}  // namespace
}  // namespace quantbench
