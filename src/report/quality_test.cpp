#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "report/report.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

RecordView view(const std::string& precision, const std::string& test) {
  RecordView v;
  v.model = "org/model";
  v.precision = precision;
  v.test = test;
  v.status = "ok";
  QualityView q{.text_kind = "file", .text_name = "'a file'", .texts = 40, .tokens = 10200};
  q.perplexity = Estimate{12.345, 12.0, 12.7};
  if (precision != "fp16") {
    q.reference = "fp16";
    q.perplexity_ratio = Estimate{1.0211, 1.0191, 1.0231};
    q.kl_mean = Estimate{0.02697, 0.026, 0.028};
    q.same_top = Estimate{0.8776, 0.8736, 0.8816};
    q.kl_p99 = 0.1372;
  }
  v.quality = q;
  return v;
}
size_t lines_of(const std::string& text) { return static_cast<size_t>(std::count(text.begin(), text.end(), '\n')); }

TEST(QualityTable, ShowsEachFigureWithItsInterval) {
  const std::vector<RecordView> views{view("fp16", "tg64"), view("4bit", "tg64")};
  const std::string text = quality_text(views);
  EXPECT_THAT(text,
              AllOf(HasSubstr("12.345 ± 0.350"), HasSubstr("+2.11 % ± 0.20"), HasSubstr("0.02697 ± 0.001"),
                    HasSubstr("0.1372"), HasSubstr("87.76 % ± 0.40"), HasSubstr("'a file', 10200 tokens scored")));
  EXPECT_THAT(quality_markdown(views), HasSubstr("| 87.76 % ± 0.40 |"));
}

TEST(QualityTable, HasARowForEachModelAndPrecisionWhateverTheTests) {
  EXPECT_EQ(lines_of(quality_text(std::vector{view("fp16", "tg64"), view("4bit", "tg64")})), 4u);
  EXPECT_EQ(lines_of(quality_text(
                std::vector{view("fp16", "tg64"), view("4bit", "tg64"), view("fp16", "pp512"), view("4bit", "pp512")})),
            4u);
}

TEST(QualityTable, CsvHasTheFiguresInColumnsThatAreAlwaysThere) {
  RecordView without = view("fp16", "tg64");
  without.quality.reset();
  const std::string text = csv(std::vector{view("4bit", "tg64"), without}, CsvSchema::own);
  EXPECT_THAT(text, HasSubstr(",perplexity,perplexity_low,perplexity_high,"));
  EXPECT_THAT(text,
              HasSubstr(",12.345,12,12.7,1.0211,1.0191,1.0231,0.02697,0.026,0.028,0.8776,0.8736,0.8816,0.1372,fp16,"));
  EXPECT_THAT(text, HasSubstr(",,,,,,,,,,,,,\n"));
}

TEST(QualityTable, SaysWhatWasNotMeasuredAndIsNotThereWhereNothingWas) {
  RecordView failed = view("4bit", "tg64");
  failed.quality->error = "no room";
  EXPECT_THAT(quality_text(std::vector{failed}), AllOf(HasSubstr("not measured"), Not(HasSubstr("0.02697"))));
  failed.quality.reset();
  EXPECT_EQ(quality_text(std::vector{failed}), "");
}

}  // namespace
}  // namespace quantbench
