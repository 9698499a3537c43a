#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "core/error.h"
#include "core/json.h"

namespace quantbench {
namespace {

using nlohmann::json;

std::string folder(const std::string& form) { return QB_SOURCE_DIR "/testdata/tokenizers/" + form; }

class TokenizerGolden : public testing::TestWithParam<const char*> {
 protected:
  static std::string file() {
    const std::string form = GetParam();
    return (form == "bundled" ? QB_SOURCE_DIR "/models/bundled" : folder(form)) + "/tokenizer.json";
  }

  const Tokenizer tokenizer_ = Tokenizer::from_file(file());
  const json golden_ = read_json_file(folder(GetParam()) + "/golden.json");
};

TEST_P(TokenizerGolden, GivesTheIdsOfHuggingFace) {
  ASSERT_GT(golden_["encode"].size(), 400u);
  const auto front = golden_["special"]["front"].get<std::vector<int32_t>>();
  const auto back = golden_["special"]["back"].get<std::vector<int32_t>>();
  for (const json& entry : golden_["encode"]) {
    const std::string text = entry["text"];
    const std::string shown = json(text.substr(0, 80)).dump(-1, ' ', true, json::error_handler_t::replace);
    const auto ids = entry["ids"].get<std::vector<int32_t>>();
    ASSERT_EQ(tokenizer_.encode(text, false), ids) << shown;
    std::vector<int32_t> with_special = front;
    with_special.insert(with_special.end(), ids.begin(), ids.end());
    with_special.insert(with_special.end(), back.begin(), back.end());
    ASSERT_EQ(tokenizer_.encode(text, true), with_special) << shown;
  }
}

TEST_P(TokenizerGolden, DecodesToTheTextOfHuggingFace) {
  for (const json& entry : golden_["encode"]) {
    const std::string decoded = entry.contains("decoded") ? entry["decoded"] : entry["text"];
    ASSERT_EQ(tokenizer_.decode(entry["ids"].get<std::vector<int32_t>>(), false), decoded);
  }
  for (const json& entry : golden_["decode"]) {
    const auto ids = entry["ids"].get<std::vector<int32_t>>();
    ASSERT_EQ(tokenizer_.decode(ids, entry["skip_special"]), entry["text"].get<std::string>()) << entry["ids"];
  }
}

TEST_P(TokenizerGolden, StreamsTheSameTextInWholeCharacters) {
  for (const json& entry : golden_["decode"]) {
    StreamDecoder stream(tokenizer_, entry["skip_special"]);
    std::string text;
    for (const int32_t id : entry["ids"].get<std::vector<int32_t>>()) {
      const std::string part = stream.push(id);
      // One character may be split over parts only if a part is no valid UTF-8; parse_json refuses such a string.
      EXPECT_NO_THROW(parse_json(json(part).dump(), "part"));
      text += part;
    }
    ASSERT_EQ(text + stream.finish(), entry["text"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, TokenizerGolden, testing::Values("llama3", "phi2", "variants", "bundled"),
                         [](const auto& form) { return std::string(form.param); });

TEST(Tokenizer, KnowsSpecialTokensByTheirContent) {
  const Tokenizer tokenizer = Tokenizer::from_file(folder("llama3") + "/tokenizer.json");
  const auto bos = tokenizer.id_of("<|begin_of_text|>");
  ASSERT_TRUE(bos);
  EXPECT_TRUE(tokenizer.is_special(*bos));
  EXPECT_THAT(tokenizer.encode("", true), testing::ElementsAre(*bos));
  EXPECT_TRUE(tokenizer.id_of("Ġthe"));
  EXPECT_FALSE(tokenizer.is_special(*tokenizer.id_of("Ġthe")));
  EXPECT_EQ(tokenizer.id_of("<|nonsense|>"), std::nullopt);
  EXPECT_EQ(tokenizer.size(), 1415);
}

TEST(Tokenizer, PrintsIdsWithoutText) {
  const Tokenizer tokenizer = Tokenizer::from_file(folder("phi2") + "/tokenizer.json");
  const std::vector<int32_t> ids = {*tokenizer.id_of("a"), tokenizer.size(), 51199, -3};
  EXPECT_EQ(tokenizer.decode(ids, true), fmt::format("a<id:{}><id:51199><id:-3>", tokenizer.size()));
}

TEST(StreamDecoder, HoldsBackUnfinishedCharacters) {
  const Tokenizer tokenizer = Tokenizer::from_file(folder("phi2") + "/tokenizer.json");
  StreamDecoder stream(tokenizer);
  const std::vector<int32_t> euro = {*tokenizer.id_of("â"), *tokenizer.id_of("Ĥ"), *tokenizer.id_of("¬")};
  EXPECT_EQ(stream.push(euro[0]), "");
  EXPECT_EQ(stream.push(euro[1]), "");
  EXPECT_EQ(stream.push(euro[2]), "€");
  EXPECT_EQ(stream.push(euro[0]), "");
  EXPECT_EQ(stream.push(*tokenizer.id_of("a")), "\uFFFDa");
  EXPECT_EQ(stream.push(euro[0]), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8WithTheOffset) {
  const Tokenizer tokenizer = Tokenizer::from_file(folder("phi2") + "/tokenizer.json");
  for (const std::string tail : {"\xFF", "\xC3", "\xED\xA0\x80"}) {
    try {
      tokenizer.encode("naïve " + tail, false);
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(error.what(), testing::HasSubstr("at offset 7 of"));
    }
  }
}

TEST(Tokenizer, LongTextsTakeNoQuadraticTime) {
  // Runs that make a pattern step back, single long pieces, added tokens packed tight: 300 kB each.
  for (const char* form : {"llama3", "phi2", "variants"}) {
    const Tokenizer tokenizer = Tokenizer::from_file(folder(form) + "/tokenizer.json");
    for (const std::string unit : {"a", " ", "\n", " \n", "é", "!", "<|endoftext|>", "<left> ", "   ", "'s", "1"}) {
      std::string text;
      while (text.size() < 300'000) text += unit;
      const auto start = std::chrono::steady_clock::now();
      EXPECT_FALSE(tokenizer.encode(text, false).empty());
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      // Quadratic work would take minutes; this takes well under a second, with sanitizers too.
      EXPECT_LT(taken.count(), 20.0) << form << " " << json(unit);
    }
  }
}

}  // namespace
}  // namespace quantbench
