// What a tokenizer.json may not hold; each refusal names the part.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "core/error.h"
#include "core/json.h"
#include "text/tokenizer.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::AnyOf;
using testing::EndsWith;
using testing::HasSubstr;

// Reads the Phi-2 form with one change made to it.
std::string refusal(const std::function<void(json&)>& change) {
  json document = read_json_file(QB_SOURCE_DIR "/testdata/tokenizers/phi2/tokenizer.json");
  change(document);
  try {
    Tokenizer::from_json(document, "tokenizer.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_model);
    EXPECT_THAT(error.what(),
                AnyOf(EndsWith("; take the file that came with the model"), EndsWith("; choose another model")));
    return error.what();
  }
  return "accepted";
}

TEST(TokenizerRefusal, AcceptsTheFileUnchanged) {
  EXPECT_EQ(refusal([](json&) {}), "accepted");
}

TEST(TokenizerRefusal, MergesMissing) {
  EXPECT_THAT(refusal([](json& d) { d["model"].erase("merges"); }),
              AllOf(HasSubstr("model"), HasSubstr("\"merges\" is missing")));
  EXPECT_THAT(refusal([](json& d) { d["model"]["merges"] = "a b"; }), HasSubstr("should be a list"));
}

TEST(TokenizerRefusal, MergeOfTokensNotInTheVocabulary) {
  EXPECT_THAT(refusal([](json& d) { d["model"]["merges"][3] = "a zzzzz"; }),
              AllOf(HasSubstr("merges[3]"), HasSubstr("the right token \"zzzzz\"")));
  EXPECT_THAT(refusal([](json& d) { d["model"]["merges"][3] = "zzzzz a"; }), HasSubstr("the left token \"zzzzz\""));
  EXPECT_THAT(refusal([](json& d) { d["model"]["merges"][3] = {"~", "~"}; }), HasSubstr("the merged token \"~~\""));
}

TEST(TokenizerRefusal, MergesOfAnotherShape) {
  for (const json& bad :
       {json("ab"), json("a b c"), json(3), json::array({"a"}), json::array({"a", 1}), json(nullptr)}) {
    EXPECT_THAT(refusal([&](json& d) { d["model"]["merges"][0] = bad; }), HasSubstr("merges[0]: expected")) << bad;
  }
}

TEST(TokenizerRefusal, UnknownComponents) {
  const json unknown = {{"type", "Frobnicate"}};
  EXPECT_THAT(refusal([&](json& d) { d["normalizer"] = {{"type", "NFC"}}; }), HasSubstr("unknown normalizer \"NFC\""));
  EXPECT_THAT(refusal([&](json& d) { d["pre_tokenizer"] = unknown; }),
              HasSubstr("unknown pre-tokenizer \"Frobnicate\""));
  EXPECT_THAT(refusal([&](json& d) { d["post_processor"] = unknown; }),
              HasSubstr("unknown post-processor \"Frobnicate\""));
  EXPECT_THAT(refusal([&](json& d) { d["decoder"] = unknown; }), HasSubstr("unknown decoder \"Frobnicate\""));
  EXPECT_THAT(refusal([&](json& d) { d["decoder"] = nullptr; }), HasSubstr("decoder: null"));
  EXPECT_THAT(refusal([&](json& d) { d["model"]["type"] = "WordPiece"; }),
              HasSubstr("unknown model type \"WordPiece\""));
  EXPECT_THAT(refusal([&](json& d) { d.erase("model"); }), HasSubstr("\"model\" is missing"));
  EXPECT_THAT(refusal([&](json& d) { d = json::array(); }), HasSubstr("expected an object"));
}

TEST(TokenizerRefusal, AnotherFileOfTheModel) {
  EXPECT_THAT(refusal([](json& d) {
                d = {{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}};
              }),
              HasSubstr("this file is no tokenizer.json"));
}

TEST(TokenizerRefusal, SaysWhetherAnotherFileOrAnotherModelHelps) {
  EXPECT_THAT(refusal([](json& d) { d["normalizer"] = {{"type", "NFC"}}; }), EndsWith("choose another model"));
  EXPECT_THAT(refusal([](json& d) { d["model"].erase("merges"); }), EndsWith("that came with the model"));
}

TEST(TokenizerRefusal, OptionsThatMeanAnotherAlgorithm) {
  const auto with = [](const char* key, const json& value) {
    return refusal([&](json& d) { d["model"][key] = value; });
  };
  EXPECT_THAT(with("dropout", 0.1), HasSubstr("\"dropout\" is 0.1"));
  EXPECT_THAT(with("byte_fallback", true), HasSubstr("\"byte_fallback\" is true"));
  EXPECT_THAT(with("continuing_subword_prefix", "##"), HasSubstr("\"continuing_subword_prefix\" is \"##\""));
  EXPECT_THAT(with("end_of_word_suffix", "</w>"), HasSubstr("\"end_of_word_suffix\" is \"</w>\""));
  EXPECT_EQ(with("dropout", nullptr), "accepted");
  EXPECT_EQ(with("dropout", 0.0), "accepted");
  EXPECT_EQ(with("end_of_word_suffix", ""), "accepted");
}

TEST(TokenizerRefusal, DuplicateIds) {
  EXPECT_THAT(refusal([](json& d) { d["model"]["vocab"]["Ġthe"] = 5; }), HasSubstr("duplicate id 5"));
  EXPECT_THAT(refusal([](json& d) { d["added_tokens"][1]["id"] = d["added_tokens"][2]["id"]; }),
              HasSubstr("duplicate id"));
  EXPECT_THAT(refusal([](json& d) { d["added_tokens"][1]["id"] = 5; }), HasSubstr("duplicate id 5"));
  EXPECT_THAT(refusal([](json& d) { d["added_tokens"][0]["id"] = 5; }), HasSubstr("must agree"));
  EXPECT_THAT(refusal([](json& d) { d["added_tokens"].push_back(d["added_tokens"][0]); }),
              HasSubstr("stands already at [0]"));
}

TEST(TokenizerRefusal, IdsThatAreNone) {
  for (const json& bad :
       {json(-1), json(1 << 24), json(1e9), json("7"), json(4294967296), json(18446744073709551615ull)}) {
    EXPECT_THAT(refusal([&](json& d) { d["model"]["vocab"]["Ġthe"] = bad; }), HasSubstr("expected a token id")) << bad;
    EXPECT_THAT(refusal([&](json& d) { d["added_tokens"][0]["id"] = bad; }), HasSubstr("expected a token id")) << bad;
  }
}

TEST(TokenizerRefusal, AVocabularyWithoutAByte) {
  EXPECT_THAT(refusal([](json& d) {
                d["model"]["vocab"].erase("Ģ");
                d["model"]["merges"] = json::array();
              }),
              AllOf(HasSubstr("\"Ģ\""), HasSubstr("0x80")));
}

TEST(TokenizerRefusal, AddedTokensOfAnotherShape) {
  EXPECT_THAT(refusal([](json& d) { d["added_tokens"] = 3; }), HasSubstr("should be a list"));
  EXPECT_THAT(refusal([](json& d) { d["added_tokens"][0].erase("content"); }),
              HasSubstr("added_tokens[0]: \"content\" is missing"));
  EXPECT_THAT(refusal([](json& d) { d["added_tokens"][1]["content"] = ""; }), HasSubstr("a content of 0 bytes"));
  EXPECT_THAT(refusal([](json& d) { d["added_tokens"][1]["content"] = std::string(2000, 'x'); }),
              HasSubstr("2000 bytes"));
  EXPECT_THAT(refusal([](json& d) { d["added_tokens"][1]["lstrip"] = 1; }),
              HasSubstr("\"lstrip\" should be true or false"));
}

TEST(TokenizerRefusal, ATemplateThatCannotBeFollowed) {
  const auto with = [](const json::array_t& single) {
    return refusal([&](json& d) {
      d["post_processor"] = {
          {"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", {{"<s>", {{"ids", {1}}}}}}};
    });
  };
  const json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, b = {{"Sequence", {{"id", "B"}}}};
  const json known = {{"SpecialToken", {{"id", "<s>"}}}}, unknown = {{"SpecialToken", {{"id", "<t>"}}}};
  EXPECT_EQ(with({known, a, known}), "accepted");
  EXPECT_THAT(with({unknown, a}), HasSubstr("\"<t>\" is missing"));
  EXPECT_THAT(with({known}), HasSubstr("does not name the sequence A"));
  EXPECT_THAT(with({a, a}), HasSubstr("expected A once"));
  EXPECT_THAT(with({b}), HasSubstr("expected A once"));
  EXPECT_THAT(with({json("A")}), HasSubstr("expected an object"));
  EXPECT_THAT(refusal([&](json& d) {
                d["post_processor"] = {{"type", "TemplateProcessing"},
                                       {"single", {a, known}},
                                       {"special_tokens", {{"<s>", {{"ids", {60'000}}}}}}};
              }),
              HasSubstr("its template has the id 60000, which no token has"));
}

}  // namespace
}  // namespace quantbench
