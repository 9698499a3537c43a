#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

Summary series(std::string name, Better better, double median) {
  Summary s{std::move(name), Unit::per_second, better, 10, median, 0.999 * median, 1.001 * median, 0.9785};
  for (int i = 0; i < 10; ++i) s.samples.push_back(median * (1 + 0.0002 * (i - 4.5)));
  return s;
}

RecordView view(const std::string& precision, double rate, double gigabytes, double share) {
  RecordView v;
  v.model = "org/model";
  v.precision = precision;
  v.test = "tg64";
  v.status = "ok";
  v.device = "NVIDIA Card";
  v.engine = "graph";
  v.metrics = {series("tokens_per_second", Better::higher, 0.9 * rate),
               series("decode_tokens_per_second", Better::higher, rate), series("read_share", Better::higher, share),
               series("total_latency", Better::lower, 64e9 / rate), series("host_overhead", Better::lower, 1e5)};
  ExplainView e;
  e.launches = 113;
  e.read_bytes_per_second = 3.1e12;
  e.bytes_per_step = gigabytes * 1e9;
  e.engine = "graph";
  e.part_shares = {{"qkv", 0.17}, {"output_linear", 0.28}, {"mlp", 0.55}};
  v.explain = e;
  return v;
}

TEST(Explanations, SayHowManyTimesAsFastAndWhy) {
  std::vector<RecordView> views{view("fp16", 1117, 2.47, 0.89), view("int8", 1736, 1.5, 0.84)};
  views[1].explain->outlier_share = 0.0012;
  views[1].explain->outlier_shares = {{"qkv", 0.003}, {"mlp", 0.001}};
  const auto lines = explanations(views);
  ASSERT_THAT(lines, SizeIs(3));
  EXPECT_EQ(lines[0], "org/model, tg64, on NVIDIA Card:");
  EXPECT_EQ(
      lines[1],
      "  fp16 decodes 1117 tokens/s: it reads 2.47 GB a token, at 89 % of the 3.10 TB/s that this device reads. "
      "Bytes are what it waits for. A step is 113 kernels. Of a step's time: mlp 55 %, output linear 28 %, qkv 17 "
      "%.");
  EXPECT_EQ(
      lines[2],
      "  int8 decodes 1.55 × as fast as fp16: it reads 1.50 GB a token instead of 2.47 GB, at 84 % against 89 % of "
      "the 3.10 TB/s that this device reads. Bytes are what it waits for. A step is 113 kernels. Of a step's "
      "time: mlp 55 %, output linear 28 %, qkv 17 %. 0.12 % of the columns that int8 products read are outliers "
      "(qkv 0.3 %, mlp 0.1 %).");
}

TEST(Explanations, NameWhatAStepWaitsFor) {
  const auto says = [](const RecordView& v) { return explanations(std::vector{v}).at(1); };
  // A step of 500 µs, of which reading would take 250: the rest is 2.212 µs for each of 113 kernels.
  RecordView v = view("fp16", 2000, 0.775, 0.5);
  EXPECT_THAT(says(v),
              HasSubstr("Launches are what it waits for: of a step's 500.0 µs reading would take 250.0 µs, and "
                        "the rest is 2.212 µs for each of 113 kernels."));
  v.explain->launches = 1;
  EXPECT_THAT(says(v), AllOf(HasSubstr("not bound by bytes"), HasSubstr("A step is 1 kernel.")));
  v.metrics.back() = series("host_overhead", Better::lower, 8e6);
  EXPECT_THAT(says(v), HasSubstr("The host is what it waits for: 25 % of a run"));
  v.in_cache = true;
  EXPECT_THAT(says(v), AllOf(HasSubstr("which a cache holds"), Not(HasSubstr("3.10 TB/s"))));
}

TEST(Explanations, ClaimNothingThatTheRunsCannotTell) {
  const auto says = [](double rate) {
    return explanations(std::vector{view("fp16", 1000, 2, 0.8), view("4bit", rate, 0.7, 0.3)}).at(2);
  };
  EXPECT_THAT(says(1000), HasSubstr("4bit decodes as fast as fp16:"));
  EXPECT_THAT(says(800), HasSubstr("4bit decodes slower than fp16, 0.80 × as fast:"));
  std::vector<RecordView> few{view("fp16", 1000, 2, 0.8), view("4bit", 2000, 0.7, 0.3)};
  few[1].metrics[0].low.reset();  // of one run or so
  EXPECT_THAT(explanations(few).at(2), HasSubstr("these runs cannot tell (2.00 ×)"));
}

TEST(Explanations, SayWhoseKernelsTheSharesAreOfAndWhatIsPredicted) {
  RecordView v = view("4bit", 2000, 0.7, 0.45);
  v.engine = "persistent";
  v.explain->predictions = {{"RTX 2080 Ti", 616e9, 396, false}, {"L40S", 864e9, 555.4, true}};
  const auto lines = explanations(std::vector{v});
  ASSERT_THAT(lines, SizeIs(3));
  EXPECT_THAT(lines[1], HasSubstr("Of a step's time by the graph engine's kernels (this cell's is one): mlp"));
  EXPECT_EQ(lines[2],
            "    Predicted, not measured, for 4bit at the same 45 % of a card's published bandwidth: RTX 2080 Ti (616 "
            "GB/s) too small for it; L40S (864 GB/s) 555.4 tokens/s.");
}

TEST(Explanations, NeitherExplainNorCompareWithWhatIsInvalid) {
  std::vector<RecordView> views{view("fp16", 1000, 2, 0.8), view("int8", 2000, 1, 0.8)};
  views[0].stamp.kind = StampKind::invalid;
  const auto lines = explanations(views);
  ASSERT_THAT(lines, SizeIs(3));
  EXPECT_EQ(lines[1], "  fp16 is INVALID, so its figures are not explained.");
  EXPECT_THAT(lines[2], AllOf(HasSubstr("int8 decodes 2000 tokens/s: "), Not(HasSubstr("fp16"))));
  views[0].stamp.kind = StampKind::flagged;
  EXPECT_THAT(explanations(views).at(2), HasSubstr("2.00 × as fast as fp16"));
}

TEST(Explanations, LeaveOutCellsWithoutDecodeSteps) {
  RecordView v = view("fp16", 1000, 2, 0.8);
  v.explain.reset();
  EXPECT_THAT(explanations(std::vector{v}), IsEmpty());
}

TEST(Format, CountsTrafficInThousands) {
  EXPECT_EQ(format_decimal(1.5e9), "1.50 GB");
  EXPECT_EQ(format_decimal(999.9e9), "1.00 TB");
  EXPECT_EQ(format_decimal(616e9), "616 GB");
  EXPECT_EQ(format_decimal(12.34e6), "12.3 MB");
}

}  // namespace
}  // namespace quantbench
