// `run --quality` as people use it: what is read, what stands in table and records, and what is refused.
#include "app/program_under_test.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

const std::string kBundled = QB_SOURCE_DIR "/models/bundled";

class RunQuality : public testing::Test {
 protected:
  // One quick run of the bundled model, on the backend that needs no bandwidth probe.
  Result bundled(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments{"run", "-n", "2", "--device", "reference", "-r", "1", "--out", folder_ / "out"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  static json record_of(const std::string& text, const std::string& precision) {
    for (const json& record : lines_of(text)) {
      expect_well_formed(record);
      if (record.at("cell").at("precision") == precision) return record;
    }
    return {};
  }
  TestFolder folder_;
};

TEST_F(RunQuality, WithoutAFileTheBuiltInTextIsReadInEveryPrecision) {
  const Result result = run({"run", "-n", "2", "--device", "cpu", "-r", "1", "--out", folder_ / "out", "--quality",
                             "--quality-windows", "1", "-o", "jsonl"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("bundled: quality on the bundled model's validation text, 1 text"));
  const json fp16 = record_of(result.out, "fp16").at("quality"), nf4 = record_of(result.out, "4bit").at("quality");
  EXPECT_EQ(fp16.at("text").at("kind"), "built-in");
  EXPECT_EQ(fp16.at("text").at("scored_tokens"), 255);
  EXPECT_EQ(fp16.at("text").at("window"), 512);
  EXPECT_TRUE(fp16.at("text").at("begins_with_bos"));
  EXPECT_TRUE(fp16.at("reference").is_null());
  EXPECT_EQ(nf4.at("reference"), "fp16");
  EXPECT_EQ(nf4.at("text").at("sha256"), fp16.at("text").at("sha256"));
  // All windows give 31.38 and 0.027; the first has lists of titles.
  EXPECT_GT(fp16.at("perplexity").at("value"), 10);
  EXPECT_LT(fp16.at("perplexity").at("value"), 100);
  EXPECT_TRUE(fp16.at("perplexity").at("low").is_null()) << "of one window";
  EXPECT_GT(nf4.at("kl_mean").at("value"), 0.005);
  EXPECT_LT(nf4.at("kl_mean").at("value"), 0.1);
}

TEST_F(RunQuality, AFileIsReadAndTheTableSaysSo) {
  const std::string text =
      folder_.write("a text.txt", os::read_file(kBundled + "/validation.txt", 1 << 20).substr(9000, 3000));
  const Result result = bundled({"--precision", "fp16", "--quality", text});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("\nQuality\n"), HasSubstr("a text.txt', 255 tokens scored")));
  const auto records = records_in(folder_ / "out");
  ASSERT_THAT(records, SizeIs(1));
  EXPECT_EQ(records[0].at("quality").at("text").at("kind"), "file");
  EXPECT_EQ(records[0].at("quality").at("text").at("bytes"), 3000);
}

TEST_F(RunQuality, PicturesAndRandomWeightsAreComparedWithoutAText) {
  const std::string models = QB_SOURCE_DIR "/testdata/models/";
  const Result picture = run({"run", "--model-id", models + "paligemma", "--pg", "20,2", "--device", "reference", "-r",
                              "1", "--max-new-tokens", "6", "--precision", "fp16,4bit", "--out", folder_ / "picture",
                              "--quality", "-o", "jsonl"});
  // --max-new-tokens belongs to a prompt, and there is none.
  EXPECT_EQ(picture.code, 64) << picture.err;
  const Result answered =
      run({"run", "--model-id", models + "paligemma", "--pg", "20,2", "--device", "reference", "-r", "1", "--precision",
           "fp16,4bit", "--out", folder_ / "picture", "--quality", "-o", "jsonl"});
  ASSERT_EQ(answered.code, 0) << answered.err;
  const json nf4 = record_of(answered.out, "4bit").at("quality");
  EXPECT_EQ(nf4.at("text").at("kind"), "own answer");
  EXPECT_TRUE(nf4.at("perplexity").is_null());
  EXPECT_FALSE(nf4.at("kl_mean").is_null());
  EXPECT_EQ(nf4.at("answer").size(), nf4.at("text").at("scored_tokens"));

  const Result seeded =
      run({"run", "--model-id", models + "t5", "--random-weights", "--pg", "4,2", "--device", "reference", "-r", "1",
           "--out", folder_ / "seeded", "--quality", "--quality-windows", "2", "-o", "jsonl"});
  ASSERT_EQ(seeded.code, 0) << seeded.err;
  const json int8 = record_of(seeded.out, "int8").at("quality");
  EXPECT_EQ(int8.at("text").at("kind"), "seeded ids");
  EXPECT_EQ(int8.at("text").at("texts"), 2);
  EXPECT_TRUE(int8.at("perplexity").is_null());
}

TEST_F(RunQuality, WhatCannotBeReadIsRefusedBeforeAnythingIsMeasured) {
  const auto refused = [&](const std::vector<std::string>& more) {
    const Result result = bundled(more);
    EXPECT_EQ(result.code, 64) << result.err;
    EXPECT_THAT(result.err, Not(HasSubstr("measuring")));
    return result.err;
  };
  EXPECT_THAT(refused({"--quality", folder_ / "none.txt"}), HasSubstr("there is no file"));
  EXPECT_THAT(refused({"--quality", folder_.write("empty.txt", "")}), HasSubstr("is empty"));
  EXPECT_THAT(refused({"--quality", folder_.write("latin.txt", "caf\xe9 au lait")}), HasSubstr("not UTF-8: byte 3"));
  EXPECT_THAT(refused({"--quality", folder_.write("short.txt", "Once upon a time")}),
              HasSubstr("fewer than one window of 512"));
  EXPECT_THAT(refused({"--quality-windows", "3"}), HasSubstr("--quality"));
  EXPECT_THAT(refused({"--quality", "--quality-windows", "none"}), HasSubstr("--quality-windows: 'none'"));
  EXPECT_THAT(refused({"--quality", "--quality-reference", "fp64"}), HasSubstr("expected fp32 or none"));
  const std::string text = folder_.write("text.txt", "a text");
  EXPECT_THAT(refused({"--model-id", kTiny, "--random-weights", "--quality", text}), HasSubstr("have no tokenizer"));
  EXPECT_THAT(refused({"--model-id", QB_SOURCE_DIR "/testdata/models/paligemma", "--quality", text}),
              HasSubstr("reads no text but behind a picture"));
}

TEST_F(RunQuality, LinesWithoutATabAreRefused) {
  const Result result = run({"run", "--model-id", "google/flan-t5-base", "--random-weights", "--tokenizer",
                             kTokenizers + "/t5", "--pg", "4,2", "--out", folder_ / "out", "--quality",
                             folder_.write("lines.txt", "a source\ta target\nno tab here\n")});
  EXPECT_EQ(result.code, 64);
  EXPECT_THAT(result.err, AllOf(HasSubstr("line 2"), HasSubstr("source<TAB>target")));
}

}  // namespace
}  // namespace quantbench
