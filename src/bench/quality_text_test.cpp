#include "bench/quality_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/identity.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

constexpr int32_t kBos = 4094;  // of the bundled tokenizer

const Tokenizer& bundled() {
  static const Tokenizer tokenizer = Tokenizer::from_file(QB_SOURCE_DIR "/models/bundled/tokenizer.json");
  return tokenizer;
}
const Tokenizer& t5() {
  static const Tokenizer tokenizer = Tokenizer::from_file(QB_SOURCE_DIR "/testdata/tokenizers/t5/tokenizer.json");
  return tokenizer;
}
Shape decoder(int positions) {
  Shape shape;
  shape.architecture = "LlamaForCausalLM";
  shape.vocab = 4096;
  shape.max_positions = positions;
  shape.bos = {kBos};
  return shape;
}
Shape encoder_and_decoder() {
  Shape shape = decoder(24);
  shape.architecture = "T5ForConditionalGeneration";
  shape.decoder_start = 0;
  shape.bos = {};
  shape.encoder = EncoderShape{.max_tokens = 24};
  return shape;
}
TextSource file(const std::string& text) { return {TextKind::file, "'text'", text}; }
std::string words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += " of the house";
  return text;
}
std::string refused(const std::string& text, const Tokenizer& tokenizer, const Shape& shape) {
  return refusal([&] { text_for(file(text), tokenizer, shape, 0); }, ErrorKind::usage);
}

TEST(QualityText, WindowsDoNotOverlapAndAreScoredBehindTheirHalf) {
  constexpr int kWindow = 8;
  const std::string text = words(9);
  const std::vector<int32_t> ids = bundled().encode(text, true);
  const QualityText q = text_for(file(text), bundled(), decoder(kWindow), 0);
  EXPECT_EQ(q.kind, TextKind::file);
  EXPECT_EQ(q.bytes, static_cast<int64_t>(text.size()));
  EXPECT_EQ(q.sha256, sha256_hex(text));
  EXPECT_EQ(q.tokens, static_cast<int64_t>(ids.size()));
  EXPECT_EQ(q.window, kWindow);
  EXPECT_TRUE(q.begins_with_bos);
  ASSERT_THAT(q.texts, SizeIs(ids.size() / kWindow));
  ASSERT_GE(q.texts.size(), 3u);
  for (size_t w = 0; w < q.texts.size(); ++w) {
    std::vector<int32_t> expected(ids.begin() + static_cast<std::ptrdiff_t>(w * kWindow),
                                  ids.begin() + static_cast<std::ptrdiff_t>((w + 1) * kWindow));
    expected.front() = kBos;  // in place of what stands there
    EXPECT_EQ(q.texts[w].ids, expected);
    EXPECT_EQ(q.texts[w].first_row, 4);
    EXPECT_THAT(q.texts[w].targets, ElementsAre(expected[5], expected[6], expected[7]));
  }
  EXPECT_NE(ids[kWindow], kBos) << "else nothing was replaced";
  EXPECT_THAT(text_for(file(text), bundled(), decoder(kWindow), 2).texts, SizeIs(2));
}

TEST(QualityText, AWindowIs512TokensWhereTheModelReadsSoMany) {
  const QualityText q = text_for(file(words(400)), bundled(), decoder(1024), 1);
  EXPECT_EQ(q.window, 512);
  EXPECT_THAT(q.texts.at(0).targets, SizeIs(255)) << "as llama.cpp counts: 512 - 256 - 1";
}

TEST(QualityText, NothingIsReplacedWhereTheTokenizerBeginsNoText) {
  Shape shape = decoder(8);
  shape.bos = {1};  // named by the configuration, but not what the tokenizer begins with
  const QualityText q = text_for(file(words(9)), bundled(), shape, 0);
  EXPECT_FALSE(q.begins_with_bos);
  EXPECT_EQ(q.texts.at(1).ids.front(), bundled().encode(words(9), true).at(8));
}

TEST(QualityText, WhatCannotBeMeasuredIsRefusedWithTheReason) {
  EXPECT_THAT(refused("", bundled(), decoder(8)), HasSubstr("'text' is empty"));
  EXPECT_THAT(refused("good\xff" + words(9), bundled(), decoder(8)), HasSubstr("not UTF-8: byte 4"));
  EXPECT_THAT(refused("of the", bundled(), decoder(8)), AllOf(HasSubstr("fewer than one window of 8"), HasSubstr("3")));
  EXPECT_THAT(refusal([] { read_text("/nowhere/at/all.txt"); }, ErrorKind::usage), HasSubstr("there is no file"));
  const TestFolder folder;
  EXPECT_THAT(refusal([&] { read_text(folder.path()); }, ErrorKind::usage), HasSubstr("there is no file"));
}

TEST(QualityText, LinesAreSourceAndTarget) {
  const QualityText q = text_for(file("a house\tder See\r\n\nthe lake\tein Haus\n"), t5(), encoder_and_decoder(), 0);
  ASSERT_THAT(q.texts, SizeIs(2)) << "an empty line is none";
  EXPECT_EQ(q.window, 0);
  EXPECT_FALSE(q.begins_with_bos);
  EXPECT_EQ(q.texts[0].prompt, t5().encode("a house", true));
  const std::vector<int32_t> target = t5().encode("der See", true);
  EXPECT_EQ(q.texts[0].targets, target);
  EXPECT_EQ(target.back(), 1) << "the end of the sequence is scored too";
  std::vector<int32_t> fed{0};
  fed.insert(fed.end(), target.begin(), target.end() - 1);
  EXPECT_EQ(q.texts[0].ids, fed);
  EXPECT_EQ(q.texts[0].first_row, 0);
  EXPECT_THAT(text_for(file("a\tb\nc\td\n"), t5(), encoder_and_decoder(), 1).texts, SizeIs(1));
}

TEST(QualityText, LinesThatAreNoPairAreRefusedWithTheirNumber) {
  const Shape shape = encoder_and_decoder();
  for (const char* line : {"no tab", "\tno source", "no target\t", "two\ttabs\there"}) {
    EXPECT_THAT(refused(std::string("a\tb\n") + line + "\n", t5(), shape),
                AllOf(HasSubstr("line 2"), HasSubstr("source<TAB>target")));
  }
  EXPECT_THAT(refused(words(20) + "\tb\n", t5(), shape), AllOf(HasSubstr("line 1"), HasSubstr("source of")));
  EXPECT_THAT(refused("a\t" + words(20), t5(), shape), AllOf(HasSubstr("target of"), HasSubstr("1 to 24")));
  EXPECT_THAT(refused("\n\n", t5(), shape), HasSubstr("has no line"));
}

TEST(QualityText, BuiltInTextsCanBeRead) {
  const TextSource source = read_built_in(QB_SOURCE_DIR "/models/bundled/validation.txt");
  EXPECT_LE(source.text.size(), kBuiltInTextBytes);
  EXPECT_GT(source.text.size(), kBuiltInTextBytes - 200) << "a line";
  EXPECT_EQ(source.text.back(), '\n');
  EXPECT_EQ(text_for(source, bundled(), decoder(1024), 0).kind, TextKind::built_in);
  Shape shape = encoder_and_decoder();
  shape.max_positions = shape.encoder->max_tokens = 512;
  const QualityText lines = text_for(built_in_lines(), t5(), shape, 0);
  EXPECT_GE(lines.texts.size(), 6u) << "enough for an interval";
  EXPECT_TRUE(lines.has_perplexity());
}

TEST(QualityText, SeededIdsAreOfTheVocabularyAndTheSameForASeed) {
  const QualityText q = seeded_text(decoder(1024), 5, 0);
  ASSERT_THAT(q.texts, SizeIs(kSeededTexts));
  EXPECT_FALSE(q.has_perplexity());
  for (const ForcedText& text : q.texts) {
    EXPECT_THAT(text.ids, SizeIs(kSeededTokens));
    EXPECT_THAT(text.ids, Each(testing::AllOf(testing::Ge(0), testing::Lt(4096))));
  }
  EXPECT_NE(q.texts[0].ids, q.texts[1].ids);
  EXPECT_EQ(seeded_text(decoder(1024), 5, 0).sha256, q.sha256);
  EXPECT_NE(seeded_text(decoder(1024), 6, 0).sha256, q.sha256);
  const QualityText lines = seeded_text(encoder_and_decoder(), 5, 3);
  ASSERT_THAT(lines.texts, SizeIs(3));
  EXPECT_THAT(lines.texts[0].prompt, SizeIs(24));
  EXPECT_EQ(lines.texts[0].ids.front(), 0);
  EXPECT_EQ(lines.texts[0].ids.size(), lines.texts[0].targets.size());
}

}  // namespace
}  // namespace quantbench
