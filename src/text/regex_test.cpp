#include "text/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include "core/error.h"
#include "text/utf8.h"

namespace quantbench {
namespace {

bool matches(const char* pattern, const std::string& text) {
  const auto end = Regex(pattern, "test").match_at(text, 0);
  return end && *end == text.size();
}

TEST(Regex, WhiteSpaceIsUnicodesAndNothingElse) {
  for (const char* space : {" ", "\t", "\n", "\v", "\f", "\r", "\u0085", "\u00a0", "\u1680", "\u2000", "\u200a",
                            "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"}) {
    EXPECT_TRUE(matches("\\s", space)) << testing::PrintToString(std::string(space));
  }
  for (const char* other : {"\u180e", "\u200b", "\ufeff", "\x1c", "\x1f", "\u200d"}) {
    EXPECT_FALSE(matches("\\s", other)) << testing::PrintToString(std::string(other));
  }
}

TEST(Regex, ClassesAndCaseFollowUnicode) {
  EXPECT_TRUE(matches("\\p{L}+", "aéßЯ中かกא"));
  EXPECT_TRUE(matches("\\p{N}+", "1½Ⅷ٣①"));
  EXPECT_FALSE(matches("\\p{L}", "\u0301"));
  EXPECT_TRUE(matches("(?i:'ll)", "'LL"));
  EXPECT_TRUE(matches("(?i:'s)", "'ſ"));  // the long s folds to s, in Hugging Face's engine too
}

// How many characters each category has in Unicode 16.0, as DerivedGeneralCategory.txt counts them, surrogates and
// unassigned characters apart. The system's Oniguruma may well know an older Unicode.
TEST(Regex, CategoriesAreThoseOfUnicode16) {
  const std::pair<const char*, int> counts[] = {
      {"Lu", 1858}, {"Ll", 2258}, {"Lt", 31},  {"Lm", 404}, {"Lo", 136477}, {"Mn", 2020},  {"Mc", 468}, {"Me", 13},
      {"Nd", 760},  {"Nl", 236},  {"No", 915}, {"P", 855},  {"S", 8514},    {"L", 141028}, {"M", 2501}, {"N", 1911}};
  for (const auto& [name, count] : counts) {
    const Regex inside(fmt::format("\\p{{{}}}", name), "test"), outside(fmt::format("[^\\p{{{}}}]", name), "test"),
        negated(fmt::format("\\P{{{}}}", name), "test");
    int found = 0;
    for (char32_t code = 0; code < 0x110000; ++code) {
      if (code >= 0xd800 && code < 0xe000) continue;
      std::string text;
      utf8::append(text, code);
      const bool matched = inside.match_at(text, 0).has_value();
      found += matched;
      if (code % 16 != 0) continue;
      EXPECT_NE(outside.match_at(text, 0).has_value(), matched) << name << " " << uint32_t{code};
      EXPECT_NE(negated.match_at(text, 0).has_value(), matched) << name << " " << uint32_t{code};
    }
    EXPECT_EQ(found, count) << name;
  }
}

TEST(Regex, FindsFromAPlaceOnAndSeesWhatLiesBefore) {
  const Regex regex("(?<=a)b", "test");
  const auto found = regex.find("abab", 1);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->begin, 1u);
  EXPECT_EQ(regex.find("abab", 2)->begin, 3u);
  EXPECT_EQ(regex.find("abab", 4), std::nullopt);
}

TEST(Regex, RefusesWhatDoesNotCompile) {
  try {
    const Regex unclosed("a(b", "tokenizer.json: pre_tokenizer");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_model);
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("tokenizer.json: pre_tokenizer"),
                                             testing::HasSubstr("a(b"), testing::HasSubstr("parenthesis")));
  }
}

TEST(Regex, GivesUpOnAPatternThatWouldRunForAges) {
  EXPECT_THROW(Regex("(a|aa)+$", "test").find(std::string(60, 'a') + "b", 0), Error);
}

}  // namespace

bool operator==(const Match& a, const Match& b) { return a.begin == b.begin && a.end == b.end; }

}  // namespace quantbench
