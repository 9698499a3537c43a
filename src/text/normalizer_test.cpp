#include "text/normalizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "testing/test_folder.h"
#include "text/charsmap.h"
#include "text/graphemes.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string normal(const json& component, const std::string& text) { return Normalizer(component, "test").apply(text); }

json replace(const char* kind, const char* pattern, const char* content) {
  return {{"type", "Replace"}, {"pattern", {{kind, pattern}}}, {"content", content}};
}

TEST(Normalizer, ReplacesStringsAndMatches) {
  EXPECT_EQ(normal(replace("String", " ", "▁"), "a  b"), "a▁▁b");
  EXPECT_EQ(normal(replace("Regex", " {2,}", "▁"), "a   b c"), "a▁b c");
  EXPECT_EQ(normal(replace("String", "aa", "a"), "aaaaa"), "aaa");
  EXPECT_EQ(normal(replace("Regex", "(l)(e)", "$1 $2"), "le"), "$1 $2") << "as tokenizers 0.23 has it";
  EXPECT_EQ(normal(replace("Regex", "x*", "-"), "axxb"), "-a-b-") << "as tokenizers 0.23 has it";
}

TEST(Normalizer, PrependsAndStrips) {
  EXPECT_EQ(normal({{"type", "Prepend"}, {"prepend", "▁"}}, "a"), "▁a");
  EXPECT_EQ(normal({{"type", "Prepend"}, {"prepend", "▁"}}, ""), "");
  const auto strip = [](bool left, bool right) {
    return json{{"type", "Strip"}, {"strip_left", left}, {"strip_right", right}};
  };
  EXPECT_EQ(normal(strip(true, true), " \u0085\u3000a b\n\x1c "), "a b\n\x1c");
  EXPECT_EQ(normal(strip(false, true), " a "), " a");
  EXPECT_EQ(normal(strip(true, false), " a "), "a ");
  EXPECT_EQ(normal(strip(true, true), " \n "), "");
}

TEST(Normalizer, TakesTheStepsOfASequenceInOrder) {
  const json steps = {{"type", "Sequence"},
                      {"normalizers", {replace("String", "a", "b"), replace("String", "b", "c")}}};
  EXPECT_EQ(normal(steps, "ab"), "cc");
  EXPECT_EQ(normal(nullptr, "ab"), "ab");
  EXPECT_TRUE(Normalizer(json{{"type", "Sequence"}, {"normalizers", json::array()}}, "test").changes_nothing());
}

TEST(Normalizer, StepsThatMakeMuchOfLittleAreRefused) {
  json steps = json::array();
  for (int i = 0; i < 12; ++i) steps.push_back(replace("String", "e", "eeeeeeeeee"));
  EXPECT_THAT(refusal([&] {
                normal({{"type", "Sequence"}, {"normalizers", steps}}, "Hello");
              }),
              HasSubstr("makes more than 65696 bytes of a text of 5"));
}

TEST(Normalizer, RefusesByNameWhatItDoesNotKnow) {
  const auto refused = [](const json& component) {
    return refusal([&] { Normalizer(component, "tokenizer.json: normalizer"); });
  };
  for (const char* name : {"NFC", "NFKC", "NFD", "Lowercase", "BertNormalizer", "StripAccents", "ByteLevel", "Nmt"}) {
    EXPECT_THAT(refused({{"type", name}}), HasSubstr(fmt::format("unknown normalizer \"{}\"", name)));
  }
  EXPECT_THAT(refused({{"type", "Replace"}, {"content", ""}}), HasSubstr("\"pattern\" is missing"));
  EXPECT_THAT(refused(replace("String", "", "x")), HasSubstr("empty string"));
  EXPECT_THAT(refused(replace("Glob", "a", "x")), HasSubstr("\"Regex\" or \"String\""));
  EXPECT_THAT(refused({{"type", "Prepend"}, {"prepend", std::string(2000, 'x')}}), HasSubstr("2000 bytes"));
  json deep = replace("String", "a", "b");
  for (int i = 0; i < 20; ++i) deep = {{"type", "Sequence"}, {"normalizers", {deep}}};
  EXPECT_THAT(refused(deep), HasSubstr("unknown normalizer \"Sequence\""));
}

// The charsmap that the T5 form of testdata has; tools/goldens_sentencepiece.py lists its rules.
const json& t5_charsmap() {
  static const json component = read_json_file(QB_SOURCE_DIR "/testdata/tokenizers/t5/tokenizer.json")["normalizer"];
  return component;
}

TEST(Precompiled, ReplacesShortClustersWholeAndLongOnesByCharacter) {
  EXPECT_EQ(normal(t5_charsmap(), "oﬃce Ａ①ﷺ"), "office A1صلى الله");
  // The mark falls away with a cluster of 5 bytes, and stays in one of 7; both as Hugging Face has it.
  EXPECT_EQ(normal(t5_charsmap(), "ﬁ\u0301"), "fi");
  EXPECT_EQ(normal(t5_charsmap(), "ﬁ\u0301\u0301"), "fi\u0301\u0301");
  EXPECT_EQ(normal(t5_charsmap(), "\r\n"), " ");
  EXPECT_EQ(normal(t5_charsmap(), "\n\r"), "  ");
  EXPECT_EQ(normal(t5_charsmap(), std::string("a\0b", 3)), std::string("a\0b", 3));
}

std::string charsmap_blob() { return decode_base64(t5_charsmap()["precompiled_charsmap"].get<std::string>(), "test"); }

TEST(Charsmap, RefusesATableThatIsCutOff) {
  const std::string blob = charsmap_blob();
  ASSERT_EQ(refusal([&] { Charsmap(blob, "test"); }), "accepted");
  for (size_t size = 0; size < blob.size(); ++size) {
    const std::string text = refusal([&] { Charsmap(blob.substr(0, size), "test"); });
    // Cut behind a whole replacement, those that follow are missed where the array leads to them.
    ASSERT_NE(text, "accepted") << size;
  }
}

TEST(Charsmap, NeitherDamageNorHostileTextLeadsOutOfIt) {
  const std::string blob = charsmap_blob();
  const std::string text = "aﬁ\u0301Ａ\uff76\uff9e e\u0301\u1100\u1161\u11a8ﷺ\xff\xfe\x80";
  int accepted = 0;
  for (size_t at = 0; at < blob.size(); ++at) {
    std::string damaged = blob;
    damaged[at] ^= static_cast<char>(1 << at % 8);
    try {
      const Charsmap charsmap(damaged, "test");
      for (size_t from = 0; from < text.size(); ++from) charsmap.shortest(std::string_view(text).substr(from));
      ++accepted;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_LT(accepted, static_cast<int>(blob.size()) - 100);
}

TEST(Charsmap, RefusesArraysThatGoRoundOrOut) {
  const auto blob = [](const std::vector<uint32_t>& units, const std::string& replacements) {
    std::string out;
    const auto put = [&](uint32_t word) {
      for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(word >> shift));
    };
    put(static_cast<uint32_t>(units.size() * 4));
    for (const uint32_t unit : units) put(unit);
    return out + replacements;
  };
  const std::string end("x\0", 2);
  std::vector<uint32_t> units(256);
  EXPECT_EQ(refusal([&] { Charsmap(blob(units, end), "test"); }), "accepted") << "an empty tree";
  units['a'] = 'a' | 1 << 8 | 'a' << 10;  // "a", its value at unit 0
  EXPECT_THAT(refusal([&] { Charsmap(blob(units, end), "test"); }), HasSubstr("goes round"));
  units.assign(256, 0);
  units['a'] = 'a' | 256u << 10;
  EXPECT_THAT(refusal([&] { Charsmap(blob(units, end), "test"); }), HasSubstr("leads out of its array"));
  units.assign(512, 0);
  units['a'] = 'a' | 1 << 8 | 256u << 10;
  units['a' ^ 256] = 1;
  EXPECT_EQ(Charsmap(blob(units, end), "test").shortest("ab"), "");
  units['a' ^ 256] = 2;
  EXPECT_THAT(refusal([&] { Charsmap(blob(units, end), "test"); }), HasSubstr("byte 2 of 2"));
  EXPECT_THAT(refusal([&] { Charsmap(blob(units, "xyz"), "test"); }), HasSubstr("has no end"));
  EXPECT_THAT(refusal([&] { Charsmap(blob(units, "\xff"), "test"); }), HasSubstr("not UTF-8"));
  EXPECT_THAT(refusal([&] { Charsmap(blob(units, std::string("xy") + std::string(2000, 'z') + '\0'), "test"); }),
              HasSubstr("more than 1024 bytes"));
  EXPECT_THAT(refusal([&] { Charsmap("abcdefgh", "test"); }), HasSubstr("the charsmap has 8 bytes"));
}

TEST(Base64, DecodesAndRefuses) {
  EXPECT_EQ(decode_base64("", "test"), "");
  EXPECT_EQ(decode_base64("/+8A", "test"), std::string("\xff\xef\0", 3));
  EXPECT_EQ(decode_base64("Zg==", "test"), "f");
  EXPECT_EQ(decode_base64("Zm8=", "test"), "fo");
  for (const char* bad : {"Zg", "Zg=", "Z===", "====", "Zh==", "Zm9=", "Z g=", "Zg==Zg==", "Zm8-"}) {
    EXPECT_NE(refusal([&] { decode_base64(bad, "test"); }), "accepted") << bad;
  }
}

// One case for each rule of UAX 29 that joins; the whole of Unicode was compared with Hugging Face's by hand.
TEST(Graphemes, JoinWhatAReaderCountsAsOne) {
  const std::pair<std::string, size_t> first_clusters[] = {
      {"ab", 1},
      {"\r\n\n", 2},
      {"\n\r", 1},
      {"\u200b\u0301", 3},  // a control character joins nothing
      {"a\u0301\u0323b", 5},
      {"a\u200d\u0301b", 6},
      {"\u0915\u093e\u0915", 6},        // a spacing mark
      {"\u0600a", 3},                   // prepended
      {"\u1100\u1161\u11a8\u1100", 9},  // Hangul
      {"\uac00\u11a8\u1161", 6},
      {"\uac01\u1161", 3},
      {"\U0001f1e6\U0001f1e7\U0001f1e8", 8},  // flags, two by two
      {"\U0001f469\u200d\U0001f467x", 11},    // pictographs with a joiner
      {"\U0001f469\u0301\u200d\U0001f467x", 13},
      {"a\u200d\U0001f467", 4},
      {"\u0915\u094d\u0937\u0915", 9},  // an Indic conjunct
      {"\u0915\u0937", 3},
  };
  for (const auto& [text, bytes] : first_clusters)
    EXPECT_EQ(grapheme_bytes(text), bytes) << json(text).dump(-1, ' ', true);
}

}  // namespace
}  // namespace quantbench
