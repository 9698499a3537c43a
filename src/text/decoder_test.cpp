#include "text/decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "testing/test_folder.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const json kReplace = {{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
const json kBytes = {{"type", "ByteFallback"}}, kFuse = {{"type", "Fuse"}};

json sequence(const json::array_t& parts) { return {{"type", "Sequence"}, {"decoders", parts}}; }
json strip(int start, int stop) { return {{"type", "Strip"}, {"content", " "}, {"start", start}, {"stop", stop}}; }

std::string decode(const json& component, const std::vector<std::string>& tokens) {
  const Decoder decoder(component, "test");
  Decoder::State state;
  std::string out;
  for (const std::string& token : tokens) decoder.push(token, state, out);
  decoder.finish(state, out);
  return out;
}

std::string refused(const json& component) {
  return refusal([&] { Decoder(component, "tokenizer.json: decoder"); });
}

TEST(Decoder, MetaspaceDropsWhatWasPutBeforeTheFirstToken) {
  const json always = {{"type", "Metaspace"}, {"replacement", "▁"}, {"add_prefix_space", true}};
  const json never = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "never"}};
  EXPECT_EQ(decode(always, {"▁a▁b", "▁c"}), "ab c") << "all of the first token's, as Hugging Face has it";
  EXPECT_EQ(decode(never, {"▁a▁b", "▁c"}), " a b c");
}

TEST(Decoder, ARunOfBytesIsOneTextOrNone) {
  EXPECT_EQ(decode(kBytes, {"a", "<0xE2>", "<0x82>", "<0xAC>", "b"}), "a€b");
  EXPECT_EQ(decode(kBytes, {"<0x41>", "<0xE2>", "<0x82>", "b"}), "\uFFFD\uFFFD\uFFFDb");
  EXPECT_EQ(decode(kBytes, {"<0x41>"}), "A");
  EXPECT_EQ(decode(sequence({kBytes, kReplace}), {"<0xE2>", "<0x96>", "<0x81>"}), " ");
  EXPECT_EQ(decode(sequence({kReplace, kBytes}), {"<0xE2>", "<0x96>", "<0x81>"}), "▁");
}

TEST(Decoder, StripTakesFromEachTokenOrBehindFuseFromTheText) {
  EXPECT_EQ(decode(strip(1, 0), {"  a ", " b"}), " a b");
  EXPECT_EQ(decode(strip(1, 1), {" a  ", " b"}), "a b");
  const json fused = sequence({kReplace, kBytes, kFuse, strip(2, 0)});
  EXPECT_EQ(decode(fused, {"▁", "▁▁a", "▁b"}), " a b");
  EXPECT_EQ(decode(fused, {"▁", "a", "▁b"}), "a b");
  EXPECT_EQ(decode(fused, {"a", "▁b"}), "a b");
  EXPECT_EQ(decode(fused, {"", "▁", "", "▁b"}), "b");
}

TEST(Decoder, RefusesWhatCannotBeToldTokenByToken) {
  EXPECT_THAT(refused(nullptr), HasSubstr("null"));
  EXPECT_THAT(refused({{"type", "WordPiece"}}), HasSubstr("unknown decoder \"WordPiece\""));
  EXPECT_THAT(refused(sequence({kFuse, kReplace})), HasSubstr("Replace behind Fuse"));
  EXPECT_THAT(refused(sequence({kFuse, strip(0, 1)})), HasSubstr("\"stop\" is 1 behind Fuse"));
  EXPECT_THAT(refused(sequence({{{"type", "ByteLevel"}}, kFuse})), HasSubstr("ByteLevel alone"));
  EXPECT_THAT(refused(strip(-1, 0)), HasSubstr("\"start\" is -1"));
  EXPECT_THAT(refused({{"type", "Strip"}, {"content", "ab"}, {"start", 0}, {"stop", 0}}), HasSubstr("one character"));
  EXPECT_THAT(refused({{"type", "Metaspace"}}), HasSubstr("\"replacement\" is missing"));
  EXPECT_EQ(refused(sequence({sequence({kReplace}), kFuse, kFuse})), "accepted");
  json deep = kFuse;
  for (int i = 0; i < 20; ++i) deep = sequence({deep});
  EXPECT_THAT(refused(deep), HasSubstr("nest deeper"));
}

}  // namespace
}  // namespace quantbench
