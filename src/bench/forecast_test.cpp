#include "bench/forecast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/fake_worker.h"

namespace quantbench {
namespace {

using testing::HasSubstr;

Cell cell_of(Test test) {
  Cell cell;
  cell.test = test;
  return cell;
}

// Counted by hand from docs/method.md, "The order of things".
TEST(Forecast, CountsTheGenerationsOfTheProtocol) {
  const ForecastRange r = forecast({}, 0.1, 0.5, true);
  EXPECT_EQ(r.low.generations, 1 + 3 + 10);
  EXPECT_EQ(r.high.generations, 1 + 10 + 30);
  EXPECT_DOUBLE_EQ(r.low.seconds, 14 * 0.1 + 10 * 0.5);
  EXPECT_NEAR(r.high.seconds, 41 * 0.1 + 30 * 0.5, 1e-9);
  EXPECT_EQ(forecast({}, 0.1, 0.5, false).low.generations, 1 + 3 + 2 * 10) << "a fresh process a visit";
  MeasureOptions five;
  five.runs = 5;
  EXPECT_EQ(forecast(five, 0.1, 0, true).low.generations, 1 + 3 + 5);
  EXPECT_EQ(forecast(five, 0.1, 0, true).high.generations, 1 + 10 + 5);
}

TEST(Forecast, StopsWhereTheTimeCapDoes) {
  MeasureOptions options;
  options.max_time_s = 60;
  // Cold and three warm-ups are 40 s, more than a third; two runs reach the cap.
  const ForecastRange r = forecast(options, 10, 0, true);
  EXPECT_EQ(r.low.generations, 6);
  EXPECT_EQ(r.high.generations, 6);
  EXPECT_EQ(forecast(options, 100, 0, true).high.runs, 1) << "one timed run is always made";
}

TEST(Forecast, KnowsWhatEnergyAndExplainingTake) {
  MeasureOptions options;
  const quantbench::Test tg{TestKind::decode, 1, 64}, pp{TestKind::prefill, 512, 1};
  EXPECT_EQ(seconds_after_runs(options, tg, 0.3, true), 0);
  options.energy = true;
  EXPECT_DOUBLE_EQ(seconds_after_runs(options, tg, 0.3, true), 17 * 0.3) << "the first number of runs beyond 5 s";
  EXPECT_DOUBLE_EQ(seconds_after_runs(options, tg, 0.3, false), 18 * 0.3) << "a fresh process makes one before";
  EXPECT_DOUBLE_EQ(seconds_after_runs(options, tg, 20, true), 20) << "one in any case";
  options.energy = false;
  options.explain = true;
  EXPECT_DOUBLE_EQ(seconds_after_runs(options, tg, 0.3, true), 0.3 + 1);
  EXPECT_EQ(seconds_after_runs(options, pp, 0.3, true), 0) << "there is no step to take apart";
}

TEST(Forecast, IsOfTheBytesThatAreRead) {
  FakeWorker worker;  // 2,000,000 bytes of weights a token, 1000 a position
  const Cell tg = cell_of({TestKind::decode, 1, 11});
  EXPECT_DOUBLE_EQ(generation_bytes(tg, worker.plan(tg)), 2e6 + 10 * (2e6 + 1000 * (1 + 5.5)));
  const Cell pp = cell_of({TestKind::prefill, 512, 1});
  EXPECT_DOUBLE_EQ(generation_bytes(pp, worker.plan(pp)), 2e6);
  const Cell batch = cell_of({TestKind::generation, 1024, 3, 100, 4});  // two prompts a call
  EXPECT_DOUBLE_EQ(generation_bytes(batch, worker.plan(batch)), 2 * 2e6 + 2 * (2e6 + 4 * 1000 * (1124 + 1.5)));
}

TEST(Forecast, OfWhatDoesNotFitHasTheFigures) {
  FakeWorker worker;
  worker.use_[Use::weights] = size_t{3} << 30;
  const PlanReport plan = worker.plan({});
  EXPECT_NO_THROW(check_fits(plan, std::nullopt));
  EXPECT_NO_THROW(check_fits(plan, predicted_bytes(plan)));
  try {
    check_fits(plan, predicted_bytes(plan) - 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::out_of_memory);
    EXPECT_THAT(error.what(), HasSubstr("needs 3.02 GiB (weights, cache and buffers), 3.02 GiB are available"));
  }
}

TEST(ExpectedRuns, NarrowTheIntervalByTheRootOfTheirNumber) {
  MeasureOptions options;
  EXPECT_EQ(expected_runs(options, {}, 0), 10);
  EXPECT_EQ(expected_runs(options, std::vector<double>(4, 1e9), 4), 10);
  EXPECT_EQ(expected_runs(options, std::vector<double>(12, 1e9), 12), 12) << "narrow already";
  // Median 100, interval from the 2nd to the 9th of ten: 98.75 to 101.25, so 1.25 times too wide: 10 × 1.25² = 15.6.
  const std::vector<double> wide{97e6, 98.75e6, 99e6, 99e6, 100e6, 100e6, 101e6, 101e6, 101.25e6, 103e6};
  ASSERT_DOUBLE_EQ(relative_half_width(wide), 0.0125);
  EXPECT_EQ(expected_runs(options, wide, 1), 16);
  options.target_ci = 1e-4;
  EXPECT_EQ(expected_runs(options, wide, 1), 30);
  options.max_time_s = 1.25;
  EXPECT_EQ(expected_runs(options, wide, 1), 13) << "a quarter of a second is left, at 0.1 s a run";
  EXPECT_EQ(expected_runs(options, wide, 2), 10);
  options.runs = 7;
  EXPECT_EQ(expected_runs(options, {}, 0), 7);
}

TEST(RoughTime, IsAsCoarseAsAnEstimate) {
  EXPECT_EQ(rough_time(0.2), "1 s");
  EXPECT_EQ(rough_time(41.4), "41 s");
  EXPECT_EQ(rough_time(100), "2 min");
  EXPECT_EQ(rough_time(3600), "60 min");
  EXPECT_EQ(rough_time(7200), "2 h");
  EXPECT_EQ(rough_time(7500), "2 h 5 min");
}

}  // namespace
}  // namespace quantbench
