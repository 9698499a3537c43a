#include "text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/json.h"

namespace quantbench {
namespace {

using nlohmann::json;

std::vector<std::string> pieces_of(const Pieces& pieces) { return {pieces.views.begin(), pieces.views.end()}; }

std::string refusal(const json& component) {
  try {
    PreTokenizer(component, "tokenizer.json: pre_tokenizer");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_model);
    return error.what();
  }
  return "accepted";
}

TEST(PreTokenizer, SplitsAsHuggingFaceForEveryBehaviorAndSense) {
  const json golden = read_json_file(QB_SOURCE_DIR "/testdata/tokenizers/splits.json");
  ASSERT_EQ(golden["cases"].size(), 42u);
  for (const json& entry : golden["cases"]) {
    const auto splitter = make_splitter(entry["split"], "test");
    for (size_t i = 0; i < entry["texts"].size(); ++i) {
      const std::string text = entry["texts"][i];
      Pieces pieces;
      if (!text.empty()) splitter->split(text, pieces);
      EXPECT_EQ(pieces_of(pieces), entry["pieces"][i].get<std::vector<std::string>>())
          << entry["split"] << " of " << text;
    }
  }
}

TEST(PreTokenizer, PutsASpaceBeforeEachPieceThatLacksOne) {
  const json component = {{"type", "Sequence"},
                          {"pretokenizers",
                           {{{"type", "Digits"}, {"individual_digits", true}},
                            {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", false}}}}};
  const PreTokenizer pre_tokenizer(component, "test");
  EXPECT_THAT(pieces_of(pre_tokenizer.split("a12 b")), testing::ElementsAre(" a", " 1", " 2", " b"));
  EXPECT_TRUE(pre_tokenizer.split("").views.empty());
}

TEST(PreTokenizer, AnEmptyMatchNeitherHangsNorCutsACharacter) {
  const json component = {{"type", "Split"}, {"pattern", {{"Regex", "x*"}}}, {"behavior", "Isolated"}};
  Pieces pieces;
  make_splitter(component, "test")->split("éxx中", pieces);
  std::string joined;
  for (const auto piece : pieces.views) joined += piece;
  EXPECT_EQ(joined, "éxx中");
  EXPECT_THAT(pieces_of(pieces), testing::ElementsAre("é", "xx", "中"));
}

TEST(PreTokenizer, RefusesByNameWhatItDoesNotKnow) {
  EXPECT_THAT(refusal({{"type", "Metaspace"}}), testing::HasSubstr("unknown pre-tokenizer \"Metaspace\""));
  EXPECT_THAT(refusal({{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Sideways"}}),
              testing::HasSubstr("unknown behavior \"Sideways\""));
  EXPECT_THAT(refusal({{"type", "Split"}, {"pattern", {{"Glob", "a"}}}, {"behavior", "Isolated"}}),
              testing::HasSubstr("\"Regex\" or \"String\""));
  EXPECT_THAT(refusal({{"type", "Split"}, {"pattern", {{"String", ""}}}, {"behavior", "Isolated"}}),
              testing::HasSubstr("empty string"));
  EXPECT_THAT(refusal(nullptr), testing::HasSubstr("ByteLevel"));
  EXPECT_THAT(refusal(json::array()), testing::HasSubstr("expected an object"));
  EXPECT_THAT(refusal({{"type", "ByteLevel"}, {"use_regex", "yes"}}), testing::HasSubstr("true or false"));
}

TEST(PreTokenizer, RefusesByteLevelMissingOrNotLast) {
  const json byte_level = {{"type", "ByteLevel"}}, digits = {{"type", "Digits"}};
  const auto sequence = [](json::array_t list) { return json{{"type", "Sequence"}, {"pretokenizers", list}}; };
  EXPECT_THAT(refusal(digits), testing::HasSubstr("one ByteLevel as the last"));
  EXPECT_THAT(refusal(sequence({byte_level, digits})), testing::HasSubstr("not last"));
  EXPECT_THAT(refusal(sequence({byte_level, byte_level})), testing::HasSubstr("2 times"));
  EXPECT_EQ(refusal(sequence({digits, sequence({byte_level})})), "accepted");
  json deep = byte_level;
  for (int i = 0; i < 20; ++i) deep = sequence({deep});
  EXPECT_THAT(refusal(deep), testing::HasSubstr("nest deeper"));
}

}  // namespace
}  // namespace quantbench
