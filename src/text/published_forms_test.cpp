// The forms of Flan-T5 and PaliGemma, from tokenizer.json and from their models of sentencepiece, against what Hugging
// Face's tokenizers and sentencepiece make of the same texts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "core/json.h"
#include "testing/test_folder.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer.h"

namespace quantbench {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

const std::string kFolder = QB_SOURCE_DIR "/testdata/tokenizers/";

Tokenizer from_model(const std::string& form) {
  if (form == "t5") return Tokenizer::from_sentencepiece({kFolder + "t5/spiece.model", {}, {}});
  return Tokenizer::from_sentencepiece(
      {kFolder + "gemma/tokenizer.model", kFolder + "gemma/tokenizer_config.json", std::nullopt});
}

class PublishedForm : public testing::TestWithParam<const char*> {
 protected:
  std::string folder() const { return kFolder + GetParam() + "/"; }

  // Each text gives the golden's ids, or where `other` has it by its number, those.
  void expect_ids(const Tokenizer& tokenizer, const json& other, size_t step = 1) const {
    for (size_t i = 0; i < texts_.size(); i += step) {
      const json& ids = other.contains(std::to_string(i)) ? other[std::to_string(i)] : golden_["ids"][i];
      ASSERT_EQ(tokenizer.encode(texts_[i].get<std::string>(), false), ids.get<Ids>()) << texts_[i].dump(-1, ' ', true);
    }
  }

  // What the ids of a text decode to: the text itself unless the golden has another.
  std::string decoded(size_t i) const {
    const json& other = golden_["decoded"];
    return other.contains(std::to_string(i)) ? other[std::to_string(i)] : texts_[i];
  }

  const json document_ = read_json_file(folder() + "tokenizer.json");
  const json golden_ = read_json_file(folder() + "golden.json");
  const json texts_ = read_json_file(kFolder + "hard_texts.json");
};

TEST_P(PublishedForm, GivesTheIdsOfHuggingFace) {
  ASSERT_GT(texts_.size(), 450u);
  const Tokenizer tokenizer = Tokenizer::from_file(folder() + "tokenizer.json");
  expect_ids(tokenizer, json::object());
  EXPECT_EQ(tokenizer.encode(golden_["special"]["text"].get<std::string>(), true),
            golden_["special"]["ids"].get<Ids>());
}

TEST_P(PublishedForm, DecodesToTheTextOfHuggingFace) {
  const Tokenizer tokenizer = Tokenizer::from_file(folder() + "tokenizer.json");
  for (size_t i = 0; i < texts_.size(); ++i) {
    ASSERT_EQ(tokenizer.decode(golden_["ids"][i].get<Ids>(), false), decoded(i));
  }
  ASSERT_GE(golden_["decode"].size(), 60u);
  for (const json& entry : golden_["decode"]) {
    const auto ids = entry["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.decode(ids, false), entry["text"].get<std::string>()) << entry["ids"];
    EXPECT_EQ(tokenizer.decode(ids, true), entry["skipped"].get<std::string>()) << entry["ids"];
    StreamDecoder stream(tokenizer);
    std::string text;
    for (const int32_t id : ids) {
      const std::string part = stream.push(id);
      EXPECT_NO_THROW(parse_json(json(part).dump(), "part")) << "a character was cut";
      text += part;
    }
    EXPECT_EQ(text + stream.finish(), entry["skipped"].get<std::string>());
  }
}

TEST_P(PublishedForm, FollowsHuggingFaceWithOtherComponentsAndOptions) {
  ASSERT_EQ(golden_["variants"].size(), 5u);
  for (const json& variant : golden_["variants"]) {
    json document = document_, change = variant["change"];
    if (change.contains("model")) {
      if (change["model"].contains("vocab")) {  // byte tokens that are none, but those named
        const std::string kept = change["model"]["vocab"];
        json vocab = json::object();
        for (const auto& [token, id] : document["model"]["vocab"].items()) {
          const bool renamed = token.starts_with("<0x") && kept.find(token) == kept.npos;
          vocab[renamed ? "[0x" + token.substr(3) : token] = id;
        }
        change["model"]["vocab"] = vocab;
      }
      document["model"].update(change["model"]);
      change.erase("model");
    }
    document.update(change);
    const Tokenizer tokenizer = Tokenizer::from_json(document, "variant");
    SCOPED_TRACE(variant["change"].dump().substr(0, 300));
    const size_t step = variant["every"];
    expect_ids(tokenizer, variant["ids"], step);
    for (size_t i = 0; i < texts_.size(); i += step) {
      const json& other = variant["decoded"];
      const std::string number = std::to_string(i), text = other.contains(number) ? other[number] : json(decoded(i));
      ASSERT_EQ(tokenizer.decode(golden_["ids"][i].get<Ids>(), false), text);
    }
  }
}

TEST_P(PublishedForm, TheModelOfSentencepieceGivesItsIds) {
  if (!has_sentencepiece()) GTEST_SKIP() << "built without libsentencepiece";
  const Tokenizer tokenizer = from_model(GetParam());
  expect_ids(tokenizer, golden_["from_model"]);
  EXPECT_EQ(tokenizer.encode(golden_["special"]["text"].get<std::string>(), true),
            golden_["special"]["ids"].get<Ids>());
}

TEST_P(PublishedForm, TheModelOfSentencepieceKnowsTheSameTokens) {
  if (!has_sentencepiece()) GTEST_SKIP() << "built without libsentencepiece";
  const Tokenizer model = from_model(GetParam()), whole = Tokenizer::from_file(folder() + "tokenizer.json");
  ASSERT_EQ(model.size(), whole.size());
  for (const json& added : document_["added_tokens"]) {
    const std::string content = added["content"];
    EXPECT_EQ(model.id_of(content), added["id"].get<int32_t>()) << content;
    EXPECT_EQ(model.is_special(added["id"]), added["special"].get<bool>()) << content;
  }
  for (const json& entry : golden_["decode"]) {
    EXPECT_EQ(model.decode(entry["ids"].get<Ids>(), true), entry["skipped"].get<std::string>());
  }
}

TEST_P(PublishedForm, LongTextsTakeNoQuadraticTime) {
  // A megabyte of what T5 cuts into words and Gemma takes as one piece.
  const Tokenizer tokenizer = Tokenizer::from_file(folder() + "tokenizer.json");
  for (const std::string unit : {"a", " ", "tion", "the quick ", "\n", "\u0301", "😀", "ꙮ", "ﬁ", "▁", "<unk>"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    const auto start = std::chrono::steady_clock::now();
    tokenizer.encode(text, false);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    // Quadratic work would take minutes; this takes 0.3 s at the most, with sanitizers a few.
    EXPECT_LT(taken.count(), 30.0) << unit;
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, PublishedForm, testing::Values("t5", "gemma"),
                         [](const auto& form) { return std::string(form.param); });

TEST(PublishedForms, TheImageTokenIsOneWhereverItStands) {
  const Tokenizer tokenizer = Tokenizer::from_file(kFolder + "gemma/tokenizer.json");
  const int32_t image = *tokenizer.id_of("<image>"), bos = *tokenizer.id_of("<bos>");
  const Ids ids = tokenizer.encode("<image><image><bos>a\n", false);
  EXPECT_THAT(ids, testing::ElementsAre(image, image, bos, *tokenizer.id_of("a"), *tokenizer.id_of("\n")));
  EXPECT_EQ(tokenizer.decode(ids, true), "a\n");
}

TEST(PublishedForms, BytesOfACharacterAreHeldBackUntilTheRunEnds) {
  const Tokenizer tokenizer = Tokenizer::from_file(kFolder + "gemma/tokenizer.json");
  StreamDecoder stream(tokenizer);
  const auto push = [&](const char* token) { return stream.push(*tokenizer.id_of(token)); };
  EXPECT_EQ(push("<0xE2>"), "");
  EXPECT_EQ(push("<0x82>"), "");
  EXPECT_EQ(push("<0xAC>"), "");  // more may follow, and what is no UTF-8 as a whole is none in part
  EXPECT_EQ(push("a"), "€a");
  EXPECT_EQ(push("<0xE2>"), "");
  EXPECT_EQ(push("<0x82>"), "");
  EXPECT_EQ(push("a"), "\uFFFD\uFFFDa");
  EXPECT_EQ(push("<0x41>"), "");
  EXPECT_EQ(stream.finish(), "A");
  EXPECT_EQ(stream.finish(), "");
}

TEST(PublishedForms, RefusesHalvesThatDoNotFit) {
  const auto refused = [](const char* form, const json& change) {
    json document = read_json_file(kFolder + form + "/tokenizer.json");
    document.merge_patch(change);
    return refusal([&] { Tokenizer::from_json(document, "tokenizer.json"); });
  };
  using testing::HasSubstr;
  const json byte_level = {{"type", "ByteLevel"}};
  EXPECT_THAT(refused("gemma", {{"decoder", byte_level}}), HasSubstr("ByteLevel is the decoder but not"));
  EXPECT_THAT(refused("t5", {{"pre_tokenizer", byte_level}}), HasSubstr("a Unigram model behind a ByteLevel"));
  EXPECT_THAT(refused("gemma", {{"decoder", nullptr}}), HasSubstr("decoder: null"));
  EXPECT_THAT(refused("gemma", {{"model", {{"unk_token", "<none>"}}}}),
              HasSubstr("\"unk_token\" \"<none>\" is not in"));
  EXPECT_THAT(refused("gemma", {{"model", {{"merges", nullptr}}}}), HasSubstr("\"merges\" is missing"));
  EXPECT_THAT(refused("gemma", {{"model", {{"merges", json::array({"a zzzzz"})}}}}),
              HasSubstr("merges[0]: the right token \"zzzzz\""));
  EXPECT_THAT(refused("t5", {{"normalizer", {{"type", "NFKC"}}}}), HasSubstr("unknown normalizer \"NFKC\""));
  json first = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}, {"pretokenizers", nullptr}};
  EXPECT_THAT(refused("t5", {{"pre_tokenizer", first}}), HasSubstr("behind a normalizer"));
  EXPECT_THAT(refused("t5", {{"model", {{"unk_id", nullptr}}}}), HasSubstr("\"unk_id\" is missing"));
  for (const json& bad : {json(-1), json(700), json(1.5), json("2")}) {
    EXPECT_THAT(refused("t5", {{"model", {{"unk_id", bad}}}}), HasSubstr("expected the position of one")) << bad;
  }
  for (const json& bad : {json::array({"a"}), json::array({"a", "b"}), json::array({1, 2}), json("a")}) {
    EXPECT_THAT(refused("t5", {{"model", {{"vocab", json::array({bad})}}}}), HasSubstr("expected [piece, score]"));
  }
  const json twice = json::array({json::array({"a", 0}), json::array({"b", 0}), json::array({"a", 1})});
  EXPECT_THAT(refused("t5", {{"model", {{"vocab", twice}}}}), HasSubstr("stands already at [0]"));
}

}  // namespace
}  // namespace quantbench
