// Unigram and BPE of characters on their own, and the trie below.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>

#include "core/error.h"
#include "text/byte_trie.h"
#include "text/char_bpe.h"
#include "text/unigram.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using Ids = std::vector<int32_t>;

json unigram(const json::array_t& pieces, int unknown = 0, bool byte_fallback = false) {
  return {{"type", "Unigram"}, {"vocab", pieces}, {"unk_id", unknown}, {"byte_fallback", byte_fallback}};
}
json piece(const std::string& text, double score) { return json::array({text, score}); }

Ids encode(const TextModel& model, const std::string& text) {
  Ids ids;
  model.encode(text, ids);
  return ids;
}

TEST(ByteTrie, FindsTheLongestAndTheFirstOfEqualOnes) {
  const ByteTrie trie({{"ab", 1}, {"abcd", 2}, {"b", 3}, {"ab", 4}, {"\xff\xfe", 5}});
  const auto longest = [&](std::string_view text) {
    const auto [value, bytes] = trie.longest(text);
    return std::pair<int, size_t>(value, bytes);
  };
  EXPECT_EQ(longest("abcx"), std::pair(1, size_t{2}));
  EXPECT_EQ(longest("abcdx"), std::pair(2, size_t{4}));
  EXPECT_EQ(longest("\xff\xfe"), std::pair(5, size_t{2}));
  EXPECT_EQ(longest("cab"), std::pair(ByteTrie::kNone, size_t{0}));
  EXPECT_EQ(ByteTrie().longest("a").value, ByteTrie::kNone);
  const std::string long_one(1'000'000, 'a');
  EXPECT_EQ(ByteTrie({{long_one, 1}}).longest(long_one + "b").bytes, long_one.size());
}

TEST(Unigram, TakesTheLikeliestCut) {
  // The example of Kudo's algorithm in tokenizers' documentation.
  const Unigram model(unigram({piece("<unk>", 0), piece("a", 0), piece("b", 0), piece("c", 0), piece("d", 0),
                               piece("cd", 1), piece("ab", 2), piece("abc", 5), piece("abcd", 10)}),
                      "test");
  EXPECT_THAT(encode(model, "abcdacdxx"), ElementsAre(8, 1, 5, 0));
  EXPECT_THAT(encode(model, ""), ElementsAre());
}

TEST(Unigram, OfEqualCutsTheOneFoundFirstStays) {
  // "aa"+"a" and "a"+"aa" score alike; at the end the piece that begins first was offered first.
  const Unigram model(unigram({piece("<unk>", -9), piece("a", -1), piece("aa", -1)}), "test");
  EXPECT_THAT(encode(model, "aaa"), ElementsAre(1, 2));
}

TEST(Unigram, UnknownNeighboursAreOneAndMayFallBackToBytes) {
  json::array_t pieces = {piece("<unk>", 0), piece("a", -1), piece("é", -2)};
  EXPECT_THAT(encode(Unigram(unigram(pieces), "test"), "xya中é"), ElementsAre(0, 1, 0, 2));
  EXPECT_THAT(encode(Unigram(unigram(pieces), "test"), "<unk>"), ElementsAre(0));
  pieces.push_back(piece("<0x78>", -3));
  pieces.push_back(piece("<0x79>", -3));
  EXPECT_THAT(encode(Unigram(unigram(pieces, 0, true), "test"), "xyax"), ElementsAre(3, 4, 1, 3));
  EXPECT_THAT(encode(Unigram(unigram(pieces, 0, true), "test"), "xz"), ElementsAre(0)) << "not all of them have one";
}

// All ways to cut the text, scored as the model is defined.
double best_score(const std::map<std::string, double>& pieces, const std::string& text, double unknown) {
  if (text.empty()) return 0;
  double best = -HUGE_VAL;
  for (size_t size = 1; size <= text.size(); ++size) {
    const auto found = pieces.find(text.substr(0, size));
    if (found != pieces.end()) best = std::max(best, found->second + best_score(pieces, text.substr(size), unknown));
  }
  if (!pieces.contains(text.substr(0, 1))) best = std::max(best, unknown + best_score(pieces, text.substr(1), unknown));
  return best;
}

TEST(Unigram, ScoresAsTheDefinitionDoes) {
  std::srand(2);
  int compared = 0;
  for (int round = 0; round < 200; ++round) {
    std::map<std::string, double> pieces = {{"a", -3}, {"b", -4}};
    for (int i = 0; i < 12; ++i) {
      std::string text;
      for (int n = std::rand() % 4; n >= 0; --n) text += static_cast<char>('a' + std::rand() % 3);
      pieces[text] = -1 - std::rand() % 1000 / 100.0;
    }
    json::array_t list = {piece("<unk>", 0)};
    double least = 0;
    for (const auto& [text, score] : pieces) list.push_back(piece(text, score)), least = std::min(least, score);
    const Unigram model(unigram(list), "test");
    std::string text;
    for (int n = std::rand() % 12; n >= 0; --n) text += static_cast<char>('a' + std::rand() % 4);
    double score = 0;
    int unknown = 0;
    for (const int32_t id : encode(model, text)) id == 0 ? ++unknown : score += list[id][1].get<double>();
    // Of runs of unknown characters only one id is left, so only texts without tell their score.
    if (unknown > 0) continue;
    EXPECT_NEAR(score, best_score(pieces, text, least - 10), 1e-9) << text;
    ++compared;
  }
  EXPECT_GT(compared, 25);
}

// {token: id} in the order given; merges as pairs.
json bpe(const std::vector<std::string>& tokens, const std::vector<std::pair<std::string, std::string>>& merges,
         const json& options = json::object()) {
  json model = {{"type", "BPE"}, {"vocab", json::object()}, {"merges", json::array()}};
  for (const std::string& token : tokens) model["vocab"][token] = model["vocab"].size();
  for (const auto& [left, right] : merges) model["merges"].push_back({left, right});
  model.update(options);
  return model;
}

TEST(CharBpe, MergesCharactersByRank) {
  const CharBpe model(bpe({"a", "é", "中", "aé", "é中"}, {{"é", "中"}, {"a", "é"}}), "test");
  EXPECT_THAT(encode(model, "aé中aé"), ElementsAre(0, 4, 3));
  EXPECT_THAT(encode(model, ""), ElementsAre());
}

TEST(CharBpe, WhatItLacksBecomesBytesOrUnknownOrNothing) {
  const std::vector<std::string> tokens = {"a", "<unk>", "<0xC3>", "<0xA9>", "aa"};
  const std::vector<std::pair<std::string, std::string>> merges = {{"a", "a"}};
  const auto ids = [&](const std::string& text, const json& options) {
    return encode(CharBpe(bpe(tokens, merges, options), "test"), text);
  };
  const json bytes = {{"byte_fallback", true}, {"unk_token", "<unk>"}};
  EXPECT_THAT(ids("aéa", bytes), ElementsAre(0, 2, 3, 0));
  EXPECT_THAT(ids("xx", bytes), ElementsAre(1, 1));
  EXPECT_THAT(ids("axxa", {{"unk_token", "<unk>"}, {"fuse_unk", true}}), ElementsAre(0, 1, 0));
  EXPECT_THAT(ids("axa", json::object()), ElementsAre(4)) << "nothing stands between them";
  // As Hugging Face has it: an unknown one waits for the next that is known, and bytes go before it.
  EXPECT_THAT(ids("xéa", bytes), ElementsAre(2, 3, 1, 0));
  EXPECT_THAT(ids("<unk>", {{"ignore_merges", true}}), ElementsAre(1));
}

TEST(CharBpe, SpellsBytesAsSentencepieceDoes) {
  EXPECT_EQ(byte_token(10), "<0x0A>");
  EXPECT_EQ(byte_of_token("<0x0A>"), 10);
  EXPECT_EQ(byte_of_token("<0xff>"), 255);
  for (const char* other : {"<0x0G>", "<0x0A", "0x0A>", "<0xA>", "<0x00A>", "", "<0X0A>", "<0x+1>"}) {
    EXPECT_EQ(byte_of_token(other), std::nullopt) << other;
  }
}

}  // namespace
}  // namespace quantbench
