#include "bench/stamp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quantbench {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class StampTest : public testing::Test {
 protected:
  void SetUp() override {
    cell_.test = {TestKind::generation, 2, 3};
    data_.plan.emplace();
    data_.load.emplace();
    data_.plan->predicted[Use::weights] = data_.load->resident[Use::weights] = 100 << 20;
    RunSample run;
    run.report.run.tokens = {7, 8, 9};
    run.report.run.total_ns = 1000;
    data_.runs.assign(10, run);
    build_.optimized = true;
  }
  Stamp stamp() const { return judge(cell_, data_, options_, build_); }

  Cell cell_;
  CellData data_;
  MeasureOptions options_;
  BuildInfo build_;
};

TEST_F(StampTest, ACleanCellIsValid) {
  EXPECT_EQ(stamp().kind, StampKind::valid);
  EXPECT_THAT(stamp().reasons, IsEmpty());
}

TEST_F(StampTest, DifferentIdsAreInvalid) {
  data_.runs[9].report.run.tokens[2] = 1;
  EXPECT_EQ(stamp().kind, StampKind::invalid);
  EXPECT_THAT(stamp().reasons, Contains(HasSubstr("token ids differ")));
}

TEST_F(StampTest, AnotherTuningInALaterProcessIsSaid) {
  data_.tuning_varied = true;
  EXPECT_EQ(stamp().kind, StampKind::flagged);
  EXPECT_THAT(stamp().flags, ElementsAre(HasSubstr("tuning")));
}

TEST_F(StampTest, DifferentIdsInAWarmUpAreInvalidToo) {
  data_.warmup.push_back(data_.runs[0]);
  data_.warmup[0].report.run.tokens[0] = 1;
  EXPECT_EQ(stamp().kind, StampKind::invalid);
}

TEST_F(StampTest, TooFewTokensAreInvalidUnlessGenerationMayStop) {
  for (RunSample& run : data_.runs) run.report.run.tokens.pop_back();
  EXPECT_EQ(stamp().kind, StampKind::invalid);
  cell_.stop_at = {8};
  EXPECT_EQ(stamp().kind, StampKind::flagged);
  EXPECT_THAT(stamp().reasons, Contains(HasSubstr("not comparable")));
}

TEST_F(StampTest, EverySequenceOfABatchMustHaveItsTokens) {
  cell_.test.batch = 2;
  EXPECT_EQ(stamp().kind, StampKind::invalid);
  for (RunSample& run : data_.runs) {
    run.report.run.sequences = 2;
    run.report.run.tokens = {7, 8, 9, 7, 8, 9};
  }
  EXPECT_EQ(stamp().kind, StampKind::valid);
}

TEST_F(StampTest, NonFiniteLogitsAreInvalidWhateverWeightsMayBe) {
  cell_.model.allow_nonfinite = true;
  EXPECT_EQ(stamp().kind, StampKind::flagged) << "odd weights that do no harm";
  for (const bool allowed : {false, true}) {
    cell_.model.allow_nonfinite = allowed;
    data_.runs[4].report.run.finite = false;
    EXPECT_EQ(stamp().kind, StampKind::invalid);
    EXPECT_THAT(stamp().reasons, Contains("non-finite logits"));
  }
}

TEST_F(StampTest, ASecondCopyOfTheWeightsIsInvalid) {
  data_.load->resident[Use::weights] = 200 << 20;
  EXPECT_EQ(stamp().kind, StampKind::invalid);
  EXPECT_THAT(stamp().reasons, Contains(HasSubstr("the format predicts 104857600")));
}

TEST_F(StampTest, NoisyAndShortSeriesAreFlagged) {
  for (size_t i = 0; i < 10; ++i) data_.runs[i].report.run.total_ns = 1000 + 20 * static_cast<int64_t>(i);
  EXPECT_EQ(stamp().kind, StampKind::flagged);
  EXPECT_THAT(stamp().reasons, Contains(HasSubstr("interval target missed")));
  data_.runs.resize(9);
  EXPECT_THAT(stamp().reasons, Contains("9 runs, fewer than 10: the time was up; raise --max-time"));
}

TEST_F(StampTest, ACellThatDidNotEndByItselfHadNotTooLittleTime) {
  data_.runs.resize(4);
  for (const Status status : {Status::interrupted, Status::failed}) {
    data_.outcome.status = status;
    EXPECT_THAT(stamp().reasons, ElementsAre(std::string(name_of(status)), "4 runs, fewer than 10"));
  }
  data_.outcome.status = Status::ok;
  options_.runs = 4;
  EXPECT_THAT(stamp().reasons, ElementsAre("4 runs, fewer than 10")) << "as asked";
}

TEST_F(StampTest, OtherProcessesAreFlagged) {
  for (RunSample& run : data_.runs) run.report.other_cpu = 0.05;
  EXPECT_EQ(stamp().kind, StampKind::valid);
  for (RunSample& run : data_.runs) run.report.other_cpu = 0.4;
  EXPECT_THAT(stamp().reasons, Contains("other processes used 40 % of the CPU"));
}

TEST_F(StampTest, FlagsAreToldFromWhatMakesACellInvalid) {
  data_.runs[9].report.run.finite = false;
  build_.optimized = false;
  EXPECT_EQ(stamp().kind, StampKind::invalid);
  EXPECT_THAT(stamp().reasons, ElementsAre("non-finite logits", HasSubstr("debug build")));
  EXPECT_THAT(stamp().flags, ElementsAre(HasSubstr("debug build")));
}

TEST_F(StampTest, DebugBuildsAreFlagged) {
  build_.optimized = false;
  EXPECT_THAT(stamp().reasons, Contains(HasSubstr("debug build")));
}

TEST_F(StampTest, ACellWithoutATimedRunIsInvalid) {
  data_.runs.clear();
  EXPECT_EQ(stamp().kind, StampKind::invalid);
  EXPECT_THAT(stamp().reasons, ElementsAre("no timed run"));
  data_.outcome.status = Status::interrupted;
  EXPECT_THAT(stamp().reasons, ElementsAre("interrupted")) << "which says why";
}

TEST_F(StampTest, FailedCellsAreInvalidEvenWithSamples) {
  data_.outcome.status = Status::failed;
  EXPECT_EQ(stamp().kind, StampKind::invalid);
}

TEST_F(StampTest, QualityThatWasAskedForAndNotMeasuredFlags) {
  data_.quality.emplace();
  EXPECT_EQ(stamp().kind, StampKind::valid);
  data_.quality->error = "no room";
  EXPECT_EQ(stamp().kind, StampKind::flagged);
  EXPECT_THAT(stamp().reasons, ElementsAre("quality was not measured: no room"));
}

}  // namespace
}  // namespace quantbench
