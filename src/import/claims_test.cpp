// Here, and not beside claims.cpp, since the predecessor's numbers are read by import.
#include "report/claims.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/os.h"
#include "import/import.h"
#include "report/test_record.h"

namespace quantbench {
namespace {

using testing::HasSubstr;

constexpr const char* kFaster = R"({"claims": [{"id": "x", "says": "4-bit is faster", "compare": "precisions",
  "metric": "tokens_per_second", "precision": "4bit", "against": ["fp16"], "above": 1}]})";

ClaimResult faster(double rate, double spread, int runs = 10, const std::string& test = "p8+n64") {
  const std::vector<Record> records{
      test_record({.precision = "fp16", .spread = spread, .runs = runs}),
      test_record({.precision = "4bit", .test = test, .rate = rate, .spread = spread, .runs = runs})};
  return test_claims(records, kFaster, "claims").at(0);
}

// fp16 makes 100 tokens a second.
TEST(Claims, AreSupportedRefutedOrUndecided) {
  EXPECT_EQ(faster(150, 0.01).verdict, Verdict::supported);
  EXPECT_EQ(faster(70, 0.01).verdict, Verdict::refuted);
  EXPECT_EQ(faster(100.5, 0.001).verdict, Verdict::refuted) << "the same within 2 % is no faster";
  EXPECT_EQ(faster(105, 0.3).verdict, Verdict::undecided) << "the interval holds 1";
  EXPECT_EQ(faster(150, 0, 1).verdict, Verdict::undecided) << "one run of ours has no interval";
  EXPECT_THAT(faster(150, 0.01).cases.at(0).evidence, HasSubstr("4bit 150.0; fp16 100.0: 1."));
  const ClaimResult unlike = faster(150, 0.01, 10, "p8+n32");
  EXPECT_EQ(unlike.verdict, Verdict::undecided);
  EXPECT_THAT(unlike.cases.at(0).evidence, HasSubstr("unlike cells"));
  EXPECT_EQ(test_claims({}, kFaster, "claims").at(0).reason, "no cells to test it on");
}

TEST(Claims, OfAnotherFormAreRefused) {
  const auto refusal = [](const std::string& text) -> std::string {
    try {
      test_claims({}, text, "mine.json");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      return error.what();
    }
    return "it was taken";
  };
  EXPECT_THAT(refusal("{"), HasSubstr("mine.json"));
  EXPECT_THAT(refusal("{}"), HasSubstr("expected \"claims\""));
  EXPECT_THAT(refusal(R"({"claims": [{"id": "x", "says": "y", "compare": "moods", "precision": "4bit"}]})"),
              HasSubstr("claim 'x': \"compare\" is 'moods'"));
  const std::string runs = R"({"claims": [{"id": "x", "says": "y", "precision": "4bit", "compare": )";
  EXPECT_THAT(refusal(runs + R"("runs", "moods": 1}]})"),
              HasSubstr("mine.json, claim 'x': found \"moods\", expected only above, "));
  EXPECT_THAT(refusal(R"({"claims": [], "device_clases": []})"), HasSubstr("mine.json: found \"device_clases\""));
  EXPECT_THAT(refusal(R"({"claims": [], "families": [{"name": "x", "names": [], "compute": []}]})"),
              HasSubstr("mine.json, families: found \"compute\""));
  EXPECT_THAT(refusal(runs + R"("runs", "on": "tpu"}]})"), HasSubstr("\"on\" is 'tpu', expected cpu or gpu"));
  EXPECT_THAT(refusal(runs + R"("precisions", "metric": "no_such", "against": ["fp16"], "above": 1}]})"),
              HasSubstr("\"metric\" is 'no_such'"));
  EXPECT_THAT(refusal(runs + R"("precisions", "metric": "memory_peak", "against": [], "above": 3, "below": 1}]})"),
              HasSubstr("\"above\" is 3, expected less than \"below\", 1"));
}

TEST(Claims, OfGpusCountNoCpuAndARecordThatIsThereTwiceCountsOnce) {
  constexpr const char* kRuns =
      R"({"claims": [{"id": "x", "says": "y", "compare": "runs", "precision": "4bit", "on": "gpu"}]})";
  const auto cases = [](const Record& id, const std::string& device = "a GPU") {
    Record record = test_record({.precision = "4bit", .device = device});
    record["devices"][0]["id"] = id;
    return test_claims(std::vector{record, record}, kRuns, "claims").at(0).cases.size();
  };
  EXPECT_EQ(cases("cuda:0"), 1);
  EXPECT_EQ(cases("cpu"), 0);
  EXPECT_EQ(cases("reference"), 0) << "which runs on the CPU";
  EXPECT_EQ(cases(nullptr), 1) << "imported";
  EXPECT_EQ(cases(nullptr, "a CPU"), 0) << "imported, and named as the machine's CPU";
  Record untold = test_record({.precision = "4bit"});
  untold["devices"] = Record::array();
  EXPECT_TRUE(test_claims(std::vector{untold}, kRuns, "claims").at(0).cases.empty());
}

// Of prompts alone the rate is that of the prompt's tokens.
TEST(Claims, JudgeAPromptByItsTokens) {
  std::vector<Record> records{test_record({.precision = "fp16"}), test_record({.precision = "4bit", .rate = 50})};
  for (Record& record : records) {
    record["cell"]["kind"] = "prefill";
    record["metrics"]["prefill_tokens_per_second"] = test_record({.rate = 1000}).at("metrics").at("tokens_per_second");
  }
  records[1]["metrics"]["prefill_tokens_per_second"] =
      test_record({.rate = 1500}).at("metrics").at("tokens_per_second");
  EXPECT_EQ(test_claims(records, kFaster, "claims").at(0).verdict, Verdict::supported);
}

// What README.md says of the predecessor's own numbers.
TEST(Claims, OfThePredecessorOnItsOwnNumbers) {
  const std::string path = QB_SOURCE_DIR "/docs/reference/predecessor_results.csv";
  const std::vector<Record> records = import_results(os::read_file(path, 1 << 20), path, {});
  std::vector<std::string> verdicts;
  const std::vector<ClaimResult> results = test_claims(records, own_claims(), "claims.json");
  for (const ClaimResult& r : results) verdicts.push_back(r.id + ": " + std::string(name_of(r.verdict)));
  EXPECT_THAT(verdicts,
              testing::ElementsAre("4bit-fastest: refuted", "4bit-smallest: refuted", "4bit-runs: supported",
                                   "int8-faster-ada: refuted", "int8-slower-turing: undecided", "l40s-2-4x: undecided",
                                   "fp16-most-accurate: undecided", "fp16-most-predictable: undecided",
                                   "decoder-gains-most: refuted", "multimodal-large-gains: refuted",
                                   "encoder-decoder-int8-less: undecided"));
  EXPECT_EQ(results[0].reason, "of 13 cases: 4 support, 6 refute, 3 undecided");
  EXPECT_THAT(claims_markdown(results), HasSubstr("| 4-bit is the fastest precision"));
  EXPECT_EQ(claims_json(results)["claims"].size(), 11);
}

}  // namespace
}  // namespace quantbench
