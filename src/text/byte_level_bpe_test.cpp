#include "text/byte_level_bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>

#include "text/utf8.h"

namespace quantbench {
namespace {

using nlohmann::json;

// The 256 byte tokens with id = byte, then one token a merge.
json model(const std::vector<std::pair<std::string, std::string>>& merges) {
  json vocab = json::object(), list = json::array();
  int next = 256;
  for (int byte = 0, other = 0x100; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    std::string spelling;
    utf8::append(spelling, printable ? byte : other++);
    vocab[spelling] = byte;
  }
  for (const auto& [left, right] : merges) {
    if (!vocab.contains(left + right)) vocab[left + right] = next++;
    list.push_back({left, right});
  }
  return {{"type", "BPE"}, {"vocab", vocab}, {"merges", list}};
}

std::vector<int32_t> encode(const json& description, std::string_view piece) {
  std::vector<int32_t> ids;
  ByteLevelBpe(description, "test").encode(piece, ids);
  return ids;
}

TEST(ByteLevelBpe, SpellsEveryByteAsGpt2Does) {
  EXPECT_EQ(bytes_of_token("Ġthe"), " the");
  EXPECT_EQ(bytes_of_token("Ċ"), "\n");
  EXPECT_EQ(bytes_of_token("Ã©"), "é");
  EXPECT_EQ(bytes_of_token("ĀŃ"), std::string("\0\xAD", 2));
  EXPECT_EQ(bytes_of_token("a b"), "a b");  // a space is no spelling of a byte: the token stands for itself
  EXPECT_EQ(spelled_bytes("中"), std::nullopt);
}

TEST(ByteLevelBpe, MergesByRankThenFromTheLeft) {
  EXPECT_THAT(encode(model({{"a", "b"}, {"b", "c"}}), "abc"), testing::ElementsAre(256, 'c'));
  EXPECT_THAT(encode(model({{"b", "c"}, {"a", "b"}}), "abc"), testing::ElementsAre('a', 256));
  EXPECT_THAT(encode(model({{"a", "a"}}), "aaa"), testing::ElementsAre(256, 'a'));
  EXPECT_THAT(encode(model({{"a", "a"}, {"aa", "aa"}}), "aaaaaaa"), testing::ElementsAre(257, 256, 'a'));
}

TEST(ByteLevelBpe, DropsCandidatesThatWentStale) {
  // "ab" is offered at 0 and "bc" at 1; after "bc" the first must not merge a with what b became.
  EXPECT_THAT(encode(model({{"b", "c"}, {"a", "b"}, {"a", "bc"}}), "abc"), testing::ElementsAre(258));
  EXPECT_THAT(encode(model({{"b", "c"}, {"a", "b"}, {"bc", "d"}}), "abcd"), testing::ElementsAre('a', 258));
}

TEST(ByteLevelBpe, IgnoreMergesTakesAWholePieceFromTheVocabulary) {
  json description = model({{"a", "b"}});
  description["vocab"]["Ġxyz"] = 300;
  EXPECT_EQ(encode(description, " xyz").size(), 4u);
  description["ignore_merges"] = true;
  EXPECT_THAT(encode(description, " xyz"), testing::ElementsAre(300));
  EXPECT_THAT(encode(description, " xyzab"), testing::ElementsAre(' ', 'x', 'y', 'z', 256));
}

TEST(ByteLevelBpe, TheLaterOfTwoEqualMergesHolds) {
  EXPECT_THAT(encode(model({{"a", "b"}, {"b", "c"}, {"a", "b"}}), "abc"), testing::ElementsAre('a', 257));
}

// Merging by scanning the whole piece for the best pair each time, as the algorithm is defined.
std::vector<int32_t> encode_by_definition(const json& description, const std::string& piece) {
  std::vector<std::string> symbols;
  for (const char c : piece) symbols.emplace_back(1, c);
  for (;;) {
    size_t best_rank = description["merges"].size(), best_at = 0;
    for (size_t at = 0; at + 1 < symbols.size(); ++at) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (description["merges"][rank] == json{symbols[at], symbols[at + 1]}) best_rank = rank, best_at = at;
      }
    }
    if (best_rank == description["merges"].size()) break;
    symbols[best_at] += symbols[best_at + 1];
    symbols.erase(symbols.begin() + best_at + 1);
  }
  std::vector<int32_t> ids;
  for (const std::string& symbol : symbols) ids.push_back(description["vocab"][symbol]);
  return ids;
}

TEST(ByteLevelBpe, TheQueueMergesAsTheDefinitionDoes) {
  std::srand(1);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c"};
    std::vector<std::pair<std::string, std::string>> merges;
    for (int i = 0; i < 12; ++i) {
      const std::string left = tokens[std::rand() % tokens.size()], right = tokens[std::rand() % tokens.size()];
      if (std::find(tokens.begin(), tokens.end(), left + right) != tokens.end()) continue;
      merges.emplace_back(left, right);
      tokens.push_back(left + right);
    }
    const json description = model(merges);
    for (int i = 0; i < 10; ++i) {
      std::string piece;
      for (int n = std::rand() % 24; n >= 0; --n) piece += static_cast<char>('a' + std::rand() % 3);
      EXPECT_EQ(encode(description, piece), encode_by_definition(description, piece)) << piece;
    }
  }
}

TEST(ByteLevelBpe, ALongPieceTakesNoQuadraticTime) {
  json description = model({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}, {"b", "a"}});
  const ByteLevelBpe bpe(description, "test");
  std::vector<int32_t> ids;
  const auto start = std::chrono::steady_clock::now();
  bpe.encode(std::string(2'000'000, 'a'), ids);
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(ids.size(), 250'000u);
  // Quadratic work would take hours; n log n takes under a second even on a slow machine with sanitizers.
  EXPECT_LT(taken.count(), 30.0);
}

}  // namespace
}  // namespace quantbench
