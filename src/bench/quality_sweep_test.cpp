#include "bench/quality_sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/fake_worker.h"

namespace quantbench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct Quiet : Progress {
  std::vector<std::string> lines;
  void line(const std::string& text) override { lines.push_back(text); }
  void status(const std::string&) override {}
};

// A worker that notes what it is asked, and fails where the test says.
class QualitySweepTest : public testing::Test {
 protected:
  struct Asked : FakeWorker {
    explicit Asked(QualitySweepTest* test) : test_(test) {}
    QualityReport quality(const QualityRequest& request, const OnProgress& progress) override {
      std::string models;
      for (size_t m = 0; m < request.models.size(); ++m) {
        models += fmt::format("{}{}@{}>{}", m > 0 ? " " : "", name_of(request.models[m].precision),
                              request.models[m].engine.device, request.references[m]);
      }
      test_->asked_.push_back(models);
      test_->fail_if_(request);
      return FakeWorker::quality(request, progress);
    }
    QualitySweepTest* test_;
  };

  QualitySweepTest() {
    text_.name = "'some text'";
    text_.texts.assign(2, {.ids = {1, 2, 3}, .first_row = 1, .targets = {3}});
    for (const Precision p : {Precision::fp16, Precision::int8, Precision::nf4}) cells_.push_back(cell(p));
  }
  static Cell cell(Precision precision, const std::string& folder = QB_SOURCE_DIR "/testdata/models/llama-gqa") {
    Cell c;
    c.model.name = "m";
    c.model.folder = folder;
    c.precision = precision;
    c.engine.device = "cuda:0";
    return c;
  }
  std::vector<QualityData> measure(QualitySweep& sweep) {
    return sweep.measure(
        cells_, text_, [this](const Cell*) { return std::make_unique<Asked>(this); }, quiet_);
  }

  std::vector<Cell> cells_;
  QualityText text_;
  Quiet quiet_;
  std::vector<std::string> asked_;
  std::function<void(const QualityRequest&)> fail_if_ = [](const QualityRequest&) {};
};

TEST_F(QualitySweepTest, AllPrecisionsAreComparedWithFp16InOneProcess) {
  QualitySweep sweep(false);
  const auto found = measure(sweep);
  EXPECT_THAT(asked_, ElementsAre("fp16@cuda:0>-1 int8@cuda:0>0 4bit@cuda:0>0"));
  EXPECT_EQ(found[0].reference, "");
  EXPECT_NE(found[0].no_reference, "");
  EXPECT_EQ(found[1].reference, "fp16");
  EXPECT_DOUBLE_EQ(found[1].scores.texts.at(0).kl, 0.1) << "model 1 of the fake";
  EXPECT_DOUBLE_EQ(found[2].scores.texts.at(0).kl, 0.2);
  EXPECT_EQ(found[2].text.name, "'some text'");
  EXPECT_THAT(found[2].text.texts, IsEmpty()) << "ids are not kept";
}

TEST_F(QualitySweepTest, AModelIsMeasuredOnceForAllItsTests) {
  QualitySweep sweep(false);
  measure(sweep);
  cells_.erase(cells_.begin());
  EXPECT_DOUBLE_EQ(measure(sweep)[1].scores.texts.at(0).kl, 0.2);
  EXPECT_EQ(asked_.size(), 1u);
}

TEST_F(QualitySweepTest, Fp16IsThereForTheOthersWhereItIsNotMeasured) {
  cells_ = {cell(Precision::nf4)};
  QualitySweep sweep(true);
  EXPECT_EQ(measure(sweep)[0].reference, "fp16");
  EXPECT_THAT(asked_, ElementsAre("fp16@cuda:0>-1 4bit@cuda:0>0"));
}

TEST_F(QualitySweepTest, Fp16IsComparedWithFp32OnRequestAndTheOthersStillWithFp16) {
  QualitySweep sweep(true);
  const auto found = measure(sweep);
  EXPECT_THAT(asked_, ElementsAre("fp16@cpu>-1 fp16@cuda:0>0 int8@cuda:0>1 4bit@cuda:0>1"));
  EXPECT_THAT(found[0].reference, HasSubstr("fp32"));
  EXPECT_EQ(found[1].reference, "fp16");
}

TEST_F(QualitySweepTest, WhatDoesNotFitTogetherIsComparedOneByOne) {
  fail_if_ = [](const QualityRequest& r) {
    if (r.models.size() > 2) fail(ErrorKind::out_of_memory, "three are too many");
  };
  QualitySweep sweep(false);
  const auto found = measure(sweep);
  EXPECT_THAT(asked_, ElementsAre("fp16@cuda:0>-1 int8@cuda:0>0 4bit@cuda:0>0", "fp16@cuda:0>-1",
                                  "fp16@cuda:0>-1 int8@cuda:0>0", "fp16@cuda:0>-1 4bit@cuda:0>0"));
  for (const QualityData& data : found) EXPECT_EQ(data.error, "");
  EXPECT_EQ(found[2].reference, "fp16");
  EXPECT_THAT(quiet_.lines, testing::Contains(HasSubstr("three are too many")));
}

TEST_F(QualitySweepTest, OneThatFailsCostsTheOthersNothing) {
  fail_if_ = [](const QualityRequest& r) {
    if (r.models.back().precision == Precision::nf4) fail(ErrorKind::device, "not finite");
  };
  QualitySweep sweep(false);
  const auto found = measure(sweep);
  EXPECT_EQ(found[0].error, "");
  EXPECT_EQ(found[1].error, "");
  EXPECT_THAT(found[2].error, HasSubstr("not finite"));
  EXPECT_EQ(found[2].kind, ErrorKind::device);
}

TEST_F(QualitySweepTest, AStopGoesFurtherUp) {
  fail_if_ = [](const QualityRequest&) { fail(ErrorKind::interrupted, "by a signal"); };
  QualitySweep sweep(false);
  EXPECT_THROW(measure(sweep), Error);
  EXPECT_EQ(asked_.size(), 1u);
}

TEST_F(QualitySweepTest, ACheckpointThatIsStoredQuantisedHasNoReference) {
  cells_ = {cell(Precision::int8, QB_SOURCE_DIR "/testdata/models/llama-gqa-int8")};
  QualitySweep sweep(false);
  const auto found = measure(sweep);
  EXPECT_THAT(asked_, ElementsAre("int8@cuda:0>-1"));
  EXPECT_EQ(found[0].reference, "");
  EXPECT_THAT(found[0].no_reference, HasSubstr("stored quantised"));
  // Without likelihoods nothing is left to say.
  text_.kind = TextKind::own_answer;
  QualitySweep other(false);
  EXPECT_THAT(measure(other)[0].error, HasSubstr("stored quantised"));
}

TEST(QualityProtocol, RequestsAndReportsArriveAsTheyWereSent) {
  QualityRequest request;
  request.models.resize(2);
  request.models[1].precision = Precision::int8;
  request.references = {-1, 0};
  request.texts = {{{9, 8}, {1, 2, 3}, 1, {3, 4}}};
  request.answer_tokens = 12;
  request.answers = 1;
  const QualityRequest got = protocol::quality_request_from(protocol::to_json(request));
  EXPECT_EQ(got.models.at(1).precision, Precision::int8);
  EXPECT_EQ(got.references, request.references);
  EXPECT_EQ(got.texts.at(0).prompt, request.texts[0].prompt);
  EXPECT_EQ(got.texts[0].ids, request.texts[0].ids);
  EXPECT_EQ(got.texts[0].first_row, 1);
  EXPECT_EQ(got.texts[0].targets, request.texts[0].targets);
  EXPECT_EQ(got.answer_tokens, 12);
  EXPECT_EQ(got.answers, 1);
  QualityReport report;
  report.answer = {5, 6};
  report.models.resize(2);
  report.models[1].texts = {{.tokens = 2, .nll = 0.1, .kl = 1e-9, .reference_nll = 0.3, .same_top = 1}};
  report.models[1].kl_p99 = 0.7;
  const QualityReport back = protocol::quality_report_from(protocol::to_json(report));
  EXPECT_EQ(back.answer, report.answer);
  EXPECT_FALSE(back.models.at(0).kl_p99);
  EXPECT_EQ(back.models.at(1).kl_p99, 0.7);
  const TextScore& score = back.models[1].texts.at(0);
  EXPECT_EQ(score.tokens, 2);
  EXPECT_EQ(score.nll, 0.1);
  EXPECT_EQ(score.kl, 1e-9);
  EXPECT_EQ(score.reference_nll, 0.3);
  EXPECT_EQ(score.same_top, 1);
}

}  // namespace
}  // namespace quantbench
