#include "report/compare_records.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "report/test_record.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

FoundRecords side(const std::vector<TestRecord>& cells) {
  FoundRecords found;
  for (const TestRecord& cell : cells) {
    found.records.push_back(test_record(cell));
    found.paths.push_back(fmt::format("{}.json", found.records.size()));
  }
  return found;
}

RecordsCompared compared(const std::vector<TestRecord>& a, const std::vector<TestRecord>& b,
                         const CompareOptions& o = {}) {
  return compare_records(side(a), side(b), o);
}

TEST(CompareRecords, ThePlantedRegressionAndNoOtherIsFound) {
  // Spread 0.1 %: a change of 5 % is beyond the threshold of 2 %, one of 0.5 % within it.
  const RecordsCompared c = compared(
      {{.precision = "fp16"}, {.precision = "int8"}, {.precision = "4bit"}},
      {{.precision = "fp16", .rate = 95}, {.precision = "int8", .rate = 100.5}, {.precision = "4bit", .rate = 105}});
  ASSERT_THAT(c.pairs, SizeIs(3));
  EXPECT_EQ(c.pairs[0].speed->difference, Difference::slower);
  EXPECT_EQ(c.pairs[0].first_token->difference, Difference::slower)
      << "the made time to first token goes with the rate";
  EXPECT_EQ(c.pairs[1].speed->difference, Difference::same);
  EXPECT_EQ(c.pairs[2].speed->difference, Difference::faster);
  EXPECT_NEAR(c.pairs[0].speed->ratio, 0.95, 1e-12);
  EXPECT_NEAR(c.pairs[2].first_token->ratio, 1.05, 1e-12) << "above 1 is better for times, too";
  EXPECT_EQ(c.outcome, Outcome::regression);
  EXPECT_EQ(c.pairs[1].outcome, Outcome::fine);
  EXPECT_THAT(c.pairs[0].reasons, Contains("speed: 0.95 times as fast"));
}

TEST(CompareRecords, TwoMeasurementsOfOneThingAreTheSame) {
  const RecordsCompared c = compared({{.spread = 0.005}}, {{.rate = 100.1, .spread = 0.005}});
  EXPECT_EQ(c.pairs.at(0).speed->difference, Difference::same);
  EXPECT_EQ(c.outcome, Outcome::fine);
  EXPECT_EQ(exit_code(c.outcome), 0);
}

TEST(CompareRecords, TwoProcessesThatDifferByMoreThanTheirRunsAreFlagged) {
  // Within 2 % and yet far outside intervals of 0.1 %.
  RecordsCompared c = compared({{.spread = 0.001}}, {{.rate = 101, .spread = 0.001}});
  EXPECT_EQ(c.pairs.at(0).speed->difference, Difference::same);
  EXPECT_EQ(c.count_outside(), 1);
  EXPECT_THAT(c.pairs[0].notes, Contains(HasSubstr("FLAGGED: tokens_per_second: a median lies outside")));
  EXPECT_THAT(comparison_text(c), HasSubstr("1 the same within 2 % (1 flagged: see the notes)"));
  EXPECT_EQ(c.outcome, Outcome::fine);
  c = compared({{.spread = 0.005}}, {{.rate = 100.1, .spread = 0.005}});
  EXPECT_EQ(c.count_outside(), 0);
  EXPECT_THAT(c.pairs.at(0).notes, Not(Contains(HasSubstr("FLAGGED"))));
  c = compared({{.spread = 0.001}}, {{.rate = 110, .spread = 0.001}});
  EXPECT_EQ(c.count_outside(), 0) << "what is faster says so itself";
}

TEST(CompareRecords, NoiseIsAmbiguousUnlessItCannotHideARegression) {
  RecordsCompared c = compared({{.spread = 0.2}}, {{.rate = 97, .spread = 0.2}});
  EXPECT_EQ(c.pairs.at(0).speed->difference, Difference::ambiguous);
  EXPECT_EQ(exit_code(c.outcome), 2);
  // 2.1 to 2.3 % faster with the threshold at 2.2 %: either the same or faster.
  c = compared({{.spread = 0.0005}}, {{.rate = 102.2, .spread = 0.0005}}, {.threshold = 0.022});
  EXPECT_EQ(c.pairs.at(0).speed->difference, Difference::ambiguous);
  EXPECT_EQ(c.outcome, Outcome::fine);
}

TEST(CompareRecords, TooFewRunsHaveARatioAndNoVerdict) {
  const RecordsCompared c = compared({{.runs = 5}}, {{.rate = 50, .runs = 5}});
  EXPECT_NEAR(c.pairs.at(0).speed->ratio, 0.5, 1e-12);
  EXPECT_FALSE(c.pairs[0].speed->low);
  EXPECT_EQ(c.outcome, Outcome::ambiguous);
  EXPECT_THAT(c.pairs[0].notes, Contains(HasSubstr("too few runs")));
}

TEST(CompareRecords, InvalidCellsAreRefusedWithTheReason) {
  const RecordsCompared c = compared(
      {{.precision = "fp16"}, {.precision = "int8"}, {.precision = "4bit"}},
      {{.precision = "fp16"}, {.precision = "int8", .stamp = "INVALID"}, {.precision = "4bit", .status = "failed"}});
  EXPECT_THAT(c.pairs, SizeIs(1));
  ASSERT_THAT(c.refused, SizeIs(2));
  EXPECT_THAT(c.refused[0].reason, HasSubstr("B: INVALID"));
  EXPECT_THAT(c.refused[1].reason, HasSubstr("failed: it failed"));
  EXPECT_EQ(exit_code(c.outcome), 3);
}

TEST(CompareRecords, UnlikeCellsAreRefusedAndLonelyOnesListed) {
  FoundRecords a = side({{.precision = "fp16"}, {.model = "org/other"}}), b = side({{.precision = "fp16", .batch = 8}});
  const RecordsCompared c = compare_records(a, b);
  EXPECT_THAT(c.pairs, IsEmpty());
  ASSERT_THAT(c.refused, SizeIs(1));
  EXPECT_THAT(c.refused[0].reason, HasSubstr("batch 1 against 8"));
  EXPECT_THAT(c.only_a, ElementsAre("org/other fp16 p8+n64"));
  EXPECT_EQ(c.outcome, Outcome::not_comparable);
}

TEST(CompareRecords, AnotherModelIsNotTheNearestCell) {
  const RecordsCompared c = compared({{}}, {{.model = "org/other"}});
  EXPECT_THAT(c.refused, IsEmpty());
  EXPECT_THAT(c.only_a, ElementsAre("org/model fp16 p8+n64"));
  EXPECT_THAT(c.only_b, ElementsAre("org/other fp16 p8+n64"));
}

TEST(CompareRecords, ANewCellIsNoObjectionAMissingOneIs) {
  EXPECT_EQ(compared({{}}, {{}, {.model = "org/new", .test = "tg9"}}).outcome, Outcome::fine);
  EXPECT_EQ(compared({{}, {.model = "org/gone", .test = "tg9"}}, {{}}).outcome, Outcome::not_comparable);
}

TEST(CompareRecords, ARegressionOutweighsWhatIsMissing) {
  EXPECT_EQ(compared({{}, {.precision = "int8"}}, {{.rate = 50}}).outcome, Outcome::regression);
}

TEST(CompareRecords, ModelsOfOneNameWithOtherConfigsAreNotOne) {
  FoundRecords a = side({{}}), b = side({{}});
  a.records[0]["cell"]["model"]["config_sha256"] = "aaaa";
  EXPECT_THAT(compare_records(a, b).pairs, SizeIs(1)) << "what one side does not say is no difference";
  b.records[0]["cell"]["model"]["config_sha256"] = "bbbb";
  EXPECT_THAT(compare_records(a, b).refused.at(0).reason, HasSubstr("config.json aaaa against bbbb"));
  // A folder and the Hub's name of the same files.
  b.records[0]["cell"]["model"]["config_sha256"] = "aaaa";
  b.records[0]["cell"]["model"]["name"] = "/models/model/";
  EXPECT_THAT(compare_records(a, b).pairs, SizeIs(1));
  b.records[0]["cell"]["model"].erase("config_sha256");
  EXPECT_THAT(compare_records(a, b).refused.at(0).reason, HasSubstr("/models/model/"));
}

TEST(CompareRecords, OfSeveralDevicesAndEnginesEachFindsItsOwn) {
  const TestRecord cpu{}, graph{.rate = 300, .device = "a GPU", .device_id = "cuda:0", .engine = "graph"},
      persistent{.rate = 400, .device = "a GPU", .device_id = "cuda:0", .engine = "persistent"};
  RecordsCompared c = compared({cpu, graph, persistent}, {persistent, cpu, graph});
  ASSERT_THAT(c.pairs, SizeIs(3));
  for (const ComparedPair& pair : c.pairs) {
    EXPECT_EQ(pair.a.view.engine, pair.b.view.engine);
    EXPECT_EQ(pair.speed->difference, Difference::same);
  }
  // One each: on whatever device; a gate does not judge that unless it is told to.
  c = compared({cpu}, {graph});
  EXPECT_EQ(c.pairs.at(0).speed->difference, Difference::faster);
  EXPECT_EQ(c.outcome, Outcome::not_comparable);
  EXPECT_THAT(c.circumstances, Contains("device: a CPU against a GPU"));
  EXPECT_THAT(c.pairs[0].notes, Contains("engine: native against graph"));
  EXPECT_EQ(compared({cpu}, {graph}, {.any_device = true}).outcome, Outcome::fine);
  // The same cell twice: which of them?
  EXPECT_THAT(compared({cpu, cpu}, {cpu}).refused.at(0).reason, HasSubstr("2 times on the one side (1.json, 2.json)"));
}

TEST(CompareRecords, MemoryHasAThresholdOfItsOwn) {
  EXPECT_EQ(compared({{}}, {{.peak_bytes = 1.04e9}}).outcome, Outcome::fine);
  const RecordsCompared c = compared({{}}, {{.peak_bytes = 1.06e9}});
  EXPECT_EQ(c.pairs.at(0).memory->effect, Effect::worse);
  EXPECT_EQ(c.outcome, Outcome::regression);
  EXPECT_EQ(compared({{}}, {{.peak_bytes = 1.06e9}}, {.memory_threshold = 0.1}).outcome, Outcome::fine);
}

// Eight texts of 100 tokens each; nll and kl a token.
void add_quality(FoundRecords* found, double nll, double kl, const std::string& sha256 = "text") {
  Record nlls = Record::array(), kls = Record::array();
  for (int i = 0; i < 8; ++i) {
    nlls.push_back(100 * (nll + 0.1 * i));  // texts differ far more than the sides do
    kls.push_back(100 * (kl + 1e-5 * i));
  }
  const auto figure = [](double value) { return Record{{"value", value}, {"low", nullptr}, {"high", nullptr}}; };
  found->records[0]["quality"] = {
      {"text", {{"kind", "windows"}, {"name", "a text"}, {"sha256", sha256}, {"texts", 8}, {"scored_tokens", 800}}},
      {"reference", "fp16"},
      {"error", nullptr},
      {"perplexity", figure(std::exp(nll + 0.35))},
      {"perplexity_ratio", nullptr},
      {"kl_mean", figure(kl + 3.5e-5)},
      {"kl_p99", nullptr},
      {"same_top", nullptr},
      {"samples", {{"tokens", std::vector<int>(8, 100)}, {"nll", nlls}, {"kl", kls}}}};
}

TEST(CompareRecords, QualityIsComparedTextByText) {
  FoundRecords a = side({{}}), b = side({{}});
  add_quality(&a, 3, 0.01);
  add_quality(&b, 3 + std::log(1.02), 0.03);
  const RecordsCompared c = compare_records(a, b);
  // exp of the mean difference; the interval has no width though the texts differ by e^0.7.
  EXPECT_NEAR(c.pairs.at(0).perplexity->change, 0.02, 1e-12);
  EXPECT_NEAR(*c.pairs[0].perplexity->high, 0.02, 1e-9);
  EXPECT_EQ(c.pairs[0].perplexity->effect, Effect::worse);
  EXPECT_NEAR(c.pairs[0].kl->change, 0.02, 1e-12);
  EXPECT_EQ(c.pairs[0].kl->effect, Effect::worse);
  EXPECT_EQ(c.outcome, Outcome::regression);
  EXPECT_EQ(compare_records(b, a).outcome, Outcome::fine) << "better is no regression";
  EXPECT_EQ(compare_records(a, b, {.quality_threshold = 0.03, .kl_threshold = 0.03}).outcome, Outcome::fine);
  add_quality(&b, 9, 9, "another");
  EXPECT_FALSE(compare_records(a, b).pairs[0].perplexity);
  EXPECT_THAT(compare_records(a, b).pairs[0].notes, Contains(HasSubstr("different texts")));
}

TEST(CompareRecords, EveryFormatSaysTheSame) {
  const RecordsCompared c =
      compared({{}, {.precision = "int8"}}, {{.rate = 90}, {.precision = "int8", .stamp = "INVALID"}},
               {.name_a = "BASE", .name_b = "NEW"});
  EXPECT_THAT(comparison_text(c), AllOf(HasSubstr("0.900 [0.8"), HasSubstr("slower"), HasSubstr("NEW: INVALID"),
                                        HasSubstr("1 slower"), Not(HasSubstr("regression"))));
  EXPECT_THAT(gate_text(c), AllOf(HasSubstr("quantbench gate: regression"), HasSubstr("1 cell refused")));
  EXPECT_THAT(gate_markdown(c), AllOf(HasSubstr("### quantbench gate: regression\n"), HasSubstr("| regression |"),
                                      HasSubstr("**not compared**\n\n- org/model int8 p8+n64: NEW: INVALID")));
  EXPECT_THAT(gate_markdown(c, 200), AllOf(HasSubstr("too many"), HasSubstr("regression")));
  EXPECT_EQ(gate_json(c).at("exit_code"), 1);
  EXPECT_EQ(comparison_json(c).at("cells").at(0).at("speed").at("verdict"), "slower");
  // A heading and a line for each of the two cells, all of as many columns.
  const std::string csv = comparison_csv(c);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 3);
  const std::string first = csv.substr(0, csv.find('\n')), second = csv.substr(first.size() + 1);
  EXPECT_EQ(std::count(first.begin(), first.end(), ','),
            std::count(second.begin(), second.begin() + static_cast<long>(second.find('\n')), ','));
}

TEST(CompareRecords, NamesCannotWriteMarkdown) {
  const TestRecord odd{.model = "a|b<img src=x>*c*"};
  EXPECT_THAT(comparison_markdown(compared({odd}, {odd})),
              AllOf(HasSubstr("| a\\|b&lt;img src=x>\\*c\\* |"), Not(HasSubstr("<img"))));
}

}  // namespace
}  // namespace quantbench
