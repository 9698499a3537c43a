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
      if (!text.empty()) splitter->split(text, true, pieces);
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
  EXPECT_THAT(pieces_of(pre_tokenizer.split("a12 b", true)), testing::ElementsAre(" a", " 1", " 2", " b"));
  EXPECT_TRUE(pre_tokenizer.split("", true).views.empty());
}

TEST(PreTokenizer, AnEmptyMatchNeitherHangsNorCutsACharacter) {
  const json component = {{"type", "Split"}, {"pattern", {{"Regex", "x*"}}}, {"behavior", "Isolated"}};
  Pieces pieces;
  make_splitter(component, "test")->split("éxx中", true, pieces);
  std::string joined;
  for (const auto piece : pieces.views) joined += piece;
  EXPECT_EQ(joined, "éxx中");
  EXPECT_THAT(pieces_of(pieces), testing::ElementsAre("é", "xx", "中"));
}

json metaspace(const json& options = json::object()) {
  json component = {{"type", "Metaspace"}, {"replacement", "▁"}};
  component.update(options);
  return component;
}

std::vector<std::string> split(const json& component, const std::string& text, bool at_start = true) {
  return pieces_of(PreTokenizer(component, "test").split(text, at_start));
}

TEST(PreTokenizer, MetaspaceMarksSpacesAndThePiecesStart) {
  using testing::ElementsAre;
  EXPECT_THAT(split(metaspace(), "a  b"), ElementsAre("▁a", "▁", "▁b"));
  EXPECT_THAT(split(metaspace({{"split", false}}), "a  b"), ElementsAre("▁a▁▁b"));
  // Where a mark, or what becomes one, stands already, none is put before it.
  EXPECT_THAT(split(metaspace(), " a"), ElementsAre("▁a"));
  EXPECT_THAT(split(metaspace(), "▁a▁"), ElementsAre("▁a", "▁"));
  EXPECT_THAT(split(metaspace({{"prepend_scheme", "never"}}), "a b"), ElementsAre("a", "▁b"));
  EXPECT_THAT(split(metaspace({{"prepend_scheme", "first"}}), "a b", true), ElementsAre("▁a", "▁b"));
  EXPECT_THAT(split(metaspace({{"prepend_scheme", "first"}}), "a b", false), ElementsAre("a", "▁b"));
  // As files before 2024 have it.
  EXPECT_THAT(split(metaspace({{"add_prefix_space", true}, {"str_rep", "▁"}}), "a b"), ElementsAre("▁a", "▁b"));
  EXPECT_THAT(split(metaspace({{"add_prefix_space", false}}), "a b"), ElementsAre("a", "▁b"));
}

TEST(PreTokenizer, WhitespaceSplitDropsUnicodesWhiteSpace) {
  EXPECT_THAT(split({{"type", "WhitespaceSplit"}}, " a\u0085\u3000b\x1c\u200b "),
              testing::ElementsAre("a", "b\x1c\u200b"));
  EXPECT_THAT(split({{"type", "WhitespaceSplit"}}, " \n"), testing::IsEmpty());
  EXPECT_THAT(split(nullptr, " a b"), testing::ElementsAre(" a b"));
}

TEST(PreTokenizer, RefusesWhatMetaspaceCannotMean) {
  EXPECT_THAT(refusal({{"type", "Metaspace"}}), testing::HasSubstr("\"replacement\" is missing"));
  EXPECT_THAT(refusal(metaspace({{"replacement", "ab"}})), testing::HasSubstr("one character, found \"ab\""));
  EXPECT_THAT(refusal(metaspace({{"replacement", ""}})), testing::HasSubstr("one character"));
  EXPECT_THAT(refusal(metaspace({{"prepend_scheme", "last"}})),
              testing::HasSubstr("unknown \"prepend_scheme\" \"last\""));
  EXPECT_THAT(refusal(metaspace({{"prepend_scheme", "always"}, {"add_prefix_space", false}})),
              testing::HasSubstr("contradict"));
  const json first = metaspace({{"prepend_scheme", "first"}});
  EXPECT_THAT(refusal({{"type", "Sequence"}, {"pretokenizers", {{{"type", "WhitespaceSplit"}}, first}}}),
              testing::HasSubstr("behind another component"));
}

TEST(PreTokenizer, RefusesByNameWhatItDoesNotKnow) {
  EXPECT_THAT(refusal({{"type", "BertPreTokenizer"}}),
              testing::HasSubstr("unknown pre-tokenizer \"BertPreTokenizer\""));
  EXPECT_THAT(refusal({{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Sideways"}}),
              testing::HasSubstr("unknown behavior \"Sideways\""));
  EXPECT_THAT(refusal({{"type", "Split"}, {"pattern", {{"Glob", "a"}}}, {"behavior", "Isolated"}}),
              testing::HasSubstr("\"Regex\" or \"String\""));
  EXPECT_THAT(refusal({{"type", "Split"}, {"pattern", {{"String", ""}}}, {"behavior", "Isolated"}}),
              testing::HasSubstr("empty string"));
  EXPECT_THAT(refusal(json::array()), testing::HasSubstr("expected an object"));
  EXPECT_THAT(refusal({{"type", "ByteLevel"}, {"use_regex", "yes"}}), testing::HasSubstr("true or false"));
}

TEST(PreTokenizer, RefusesByteLevelTwiceOrNotLast) {
  const json byte_level = {{"type", "ByteLevel"}}, digits = {{"type", "Digits"}};
  const auto sequence = [](json::array_t list) { return json{{"type", "Sequence"}, {"pretokenizers", list}}; };
  EXPECT_FALSE(PreTokenizer(digits, "test").byte_level());
  EXPECT_TRUE(PreTokenizer(sequence({digits, byte_level}), "test").byte_level());
  EXPECT_THAT(refusal(sequence({byte_level, digits})), testing::HasSubstr("not last"));
  EXPECT_THAT(refusal(sequence({byte_level, byte_level})), testing::HasSubstr("2 times"));
  EXPECT_EQ(refusal(sequence({digits, sequence({byte_level})})), "accepted");
  json deep = byte_level;
  for (int i = 0; i < 20; ++i) deep = sequence({deep});
  EXPECT_THAT(refusal(deep), testing::HasSubstr("nest deeper"));
}

}  // namespace
}  // namespace quantbench
