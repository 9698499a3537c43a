#include "text/sentencepiece_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/error.h"
#include "core/os.h"
#include "testing/test_folder.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using Type = SentencePieceFile::PieceType;

std::string read(const std::string& name) {
  return os::read_file(QB_SOURCE_DIR "/testdata/tokenizers/" + name, 1 << 20);
}
const char* const kFiles[] = {"t5/spiece.model", "gemma/tokenizer.model"};

std::string refusal_of(const std::string& bytes) {
  return refusal([&] { parse_sentencepiece(bytes, "spiece.model"); });
}

// Of both kinds, with every type of piece and a charsmap: few bytes, so that every one of them can be damaged.
SentencePieceFile small(SentencePieceFile::Kind kind) {
  SentencePieceFile file;
  file.kind = kind;
  const bool bpe = kind == SentencePieceFile::Kind::bpe;
  file.pieces = {{"<unk>", 0, Type::unknown},
                 {"</s>", 0, Type::control},
                 {"▁", -1},
                 {"a", -2},
                 {"b", -3},
                 {"ab", -1.5f},
                 {"▁a", -2},
                 {"▁ab", -2.5f},
                 {"<x>", 0, Type::user_defined},
                 {"<x><x>", 0, Type::user_defined},
                 {"ba", -4, Type::unused}};
  file.byte_fallback = bpe;
  for (int byte = 0; bpe && byte < 256; ++byte) file.pieces.push_back({fmt::format("<0x{:02X}>", byte), 0, Type::byte});
  if (!bpe) file.charsmap = parse_sentencepiece(read("t5/spiece.model"), "test").charsmap;
  return file;
}

// Whatever the file holds, it is refused with an Error, or encodes.
void expect_survived(const std::string& bytes, int& accepted) {
  try {
    const SentencePieceFile file = parse_sentencepiece(bytes, "damaged");
    const auto model = make_sentencepiece_model(file, "damaged");
    std::vector<int32_t> ids;
    for (const char* text : {"a ab  ba<x><x><x>b", "ﬁ Ａ\uff76\uff9e e\u0301 ab", "中\U0001f600\n", " "}) {
      model->encode(text, ids);
    }
    for (const int32_t id : ids) ASSERT_LT(static_cast<size_t>(id), file.pieces.size());
    ++accepted;
  } catch (const Error& error) {
    ASSERT_EQ(error.kind(), ErrorKind::bad_model) << error.what();
  }
}

TEST(SentencePieceFile, ReadsWhatSentencepieceWrites) {
  const SentencePieceFile t5 = parse_sentencepiece(read("t5/spiece.model"), "test");
  EXPECT_EQ(t5.kind, SentencePieceFile::Kind::unigram);
  EXPECT_EQ(t5.pieces.size(), 600u);
  EXPECT_EQ(t5.pieces[2].text, "<unk>");
  EXPECT_EQ(t5.pieces[2].type, Type::unknown);
  EXPECT_EQ(t5.eos, "</s>");
  EXPECT_GT(t5.charsmap.size(), 1000u);
  EXPECT_TRUE(t5.add_dummy_prefix && t5.remove_extra_whitespaces && !t5.byte_fallback);
  const SentencePieceFile gemma = parse_sentencepiece(read("gemma/tokenizer.model"), "test");
  EXPECT_EQ(gemma.kind, SentencePieceFile::Kind::bpe);
  EXPECT_EQ(gemma.pieces.size(), 700u);
  EXPECT_EQ(gemma.bos, "<bos>");
  EXPECT_TRUE(!gemma.add_dummy_prefix && !gemma.remove_extra_whitespaces && gemma.byte_fallback);
}

TEST(SentencePieceFile, ReadsBackWhatItWrites) {
  for (const char* name : kFiles) {
    const SentencePieceFile file = parse_sentencepiece(read(name), "test");
    const std::string bytes = file.serialized();
    const SentencePieceFile again = parse_sentencepiece(bytes, "test");
    EXPECT_EQ(again.serialized(), bytes) << name;
    EXPECT_EQ(again.pieces.size(), file.pieces.size());
    EXPECT_EQ(again.charsmap, file.charsmap);
  }
}

TEST(SentencePieceFile, RefusesAFileThatIsCutOffAnywhere) {
  for (const char* name : kFiles) {
    const std::string bytes = read(name);
    ASSERT_EQ(refusal_of(bytes), "accepted");
    size_t refused = 0;
    for (size_t size = 0; size < bytes.size(); ++size) {
      const std::string text = refusal_of(bytes.substr(0, size));
      if (text == "accepted") continue;
      ++refused;
      ASSERT_THAT(text, AllOf(HasSubstr("spiece.model"), EndsWith("; take the file that came with the model"))) << size;
    }
    // What stands behind the normalizer's part, two bytes of an empty denormalizer, is nothing that encoding needs.
    EXPECT_GE(refused, bytes.size() - 2) << name;
  }
}

TEST(SentencePieceFile, RefusesAnotherFileWithWhatItIs) {
  EXPECT_THAT(refusal_of("{\"version\": \"1.0\"}"), HasSubstr("no whole model of sentencepiece"));
  EXPECT_THAT(refusal_of("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 791656\n"),
              HasSubstr("at byte 0 of it a field of a known kind should be here"));
  EXPECT_THAT(refusal_of(""), HasSubstr("of 0 bytes"));
  EXPECT_THAT(refusal_of(std::string(100, '\0')), HasSubstr("a field's number should be here"));
  EXPECT_THAT(refusal_of(std::string("\x08\x01", 2)), HasSubstr("is no model of sentencepiece: a part"));
  EXPECT_THAT(refusal_of(std::string(11, '\xff')), HasSubstr("a number should have ended"));
}

TEST(SentencePieceFile, RefusesPiecesThatContradictEachOther) {
  const auto with = [](const std::function<void(SentencePieceFile&)>& change, SentencePieceFile::Kind kind) {
    SentencePieceFile file = small(kind);
    change(file);
    return refusal_of(file.serialized());
  };
  const auto unigram = [&](const auto& change) { return with(change, SentencePieceFile::Kind::unigram); };
  const auto bpe = [&](const auto& change) { return with(change, SentencePieceFile::Kind::bpe); };
  EXPECT_EQ(unigram([](SentencePieceFile&) {}), "accepted");
  EXPECT_EQ(bpe([](SentencePieceFile&) {}), "accepted");
  EXPECT_THAT(unigram([](auto& f) { f.pieces[3].text = "b"; }), HasSubstr("piece 4, \"b\", stands already at 3"));
  EXPECT_THAT(unigram([](auto& f) { f.pieces[3].text = ""; }), HasSubstr("piece 3 has 0 bytes"));
  EXPECT_THAT(unigram([](auto& f) { f.pieces[3].text = std::string(1025, 'x'); }), HasSubstr("has 1025 bytes"));
  EXPECT_THAT(unigram([](auto& f) { f.pieces[3].text = "\xff"; }), HasSubstr("piece 3 is not UTF-8"));
  EXPECT_THAT(unigram([](auto& f) { f.pieces[3].text = std::string("a\0", 2); }), HasSubstr("zero byte"));
  EXPECT_THAT(unigram([](auto& f) { f.pieces[3].score = NAN; }), HasSubstr("score of piece 3 is no finite number"));
  EXPECT_THAT(unigram([](auto& f) { f.pieces[0].type = Type::normal; }),
              HasSubstr("none of the 11 pieces is the unknown"));
  EXPECT_THAT(unigram([](auto& f) { f.pieces[3].type = Type::unknown; }), HasSubstr("pieces 0 and 3 are both"));
  EXPECT_THAT(unigram([](auto& f) { f.pieces[3].type = Type::byte; }), HasSubstr("model without byte_fallback"));
  EXPECT_THAT(unigram([](auto& f) { f.charsmap.resize(9); }), HasSubstr("charsmap has 9 bytes"));
  EXPECT_THAT(bpe([](auto& f) { f.pieces.pop_back(); }), HasSubstr("there is no piece <0xFF>"));
  EXPECT_THAT(bpe([](auto& f) { f.pieces.back().text = "<0xff>"; }), HasSubstr("stands for a byte and is \"<0xff>\""));
  EXPECT_THAT(bpe([](auto& f) { f.byte_fallback = false; }), HasSubstr("model without byte_fallback"));
  EXPECT_THAT(bpe([](auto& f) {
                for (int n = 1; n <= 65; ++n) f.pieces.push_back({std::string(n, '-'), 0, Type::user_defined});
              }),
              HasSubstr("begins with 64 other user-defined ones"));
  EXPECT_THAT(unigram([](auto& f) { f.kind = static_cast<SentencePieceFile::Kind>(4); }),
              HasSubstr("whole characters"));
}

// libsentencepiece ends the process where it meets what it takes for impossible; none of this may reach that.
TEST(SentencePieceFuzz, NoBitOfASmallModelThatIsFlippedEndsTheProcess) {
  if (!has_sentencepiece()) GTEST_SKIP() << "built without libsentencepiece";
  for (const auto kind : {SentencePieceFile::Kind::unigram, SentencePieceFile::Kind::bpe}) {
    const std::string bytes = small(kind).serialized();
    int accepted = 0, tried = 0;
    for (size_t bit = 0; bit < bytes.size() * 8; bit += 1 + bit % 3) {
      std::string damaged = bytes;
      damaged[bit / 8] ^= static_cast<char>(1 << bit % 8);
      expect_survived(damaged, accepted);
      ++tried;
    }
    EXPECT_GT(accepted, 100);
    EXPECT_LT(accepted, tried - 100);
  }
}

TEST(SentencePieceFuzz, NorOneThatIsCutOff) {
  if (!has_sentencepiece()) GTEST_SKIP() << "built without libsentencepiece";
  for (const char* name : kFiles) {
    const std::string bytes = read(name);
    int accepted = 0;
    for (size_t size = 0; size < bytes.size(); ++size) expect_survived(bytes.substr(0, size), accepted);
    EXPECT_LE(accepted, 2);
  }
}

class BesideTheModel : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_sentencepiece()) GTEST_SKIP() << "built without libsentencepiece";
  }
  // Of the Gemma form unless t5, with these files beside it; empty: not there.
  Tokenizer open(const std::string& config, const std::string& added = "", bool t5 = false) {
    Tokenizer::SentencePieceFiles files{
        QB_SOURCE_DIR "/testdata/tokenizers/" + std::string(kFiles[t5 ? 0 : 1]), {}, {}};
    if (!config.empty()) files.config = folder_.write("tokenizer_config.json", config);
    if (!added.empty()) files.added_tokens = folder_.write("added_tokens.json", added);
    return Tokenizer::from_sentencepiece(files);
  }
  std::string refused(const std::string& config, const std::string& added = "", bool t5 = false) {
    return refusal([&] { open(config, added, t5); });
  }

  TestFolder folder_;
};

TEST_F(BesideTheModel, TheModelsOwnSpecialTokensWhereThereIsNothing) {
  const Tokenizer gemma = open(""), t5 = open("", "", true);
  EXPECT_THAT(gemma.encode("a<eos>", true), testing::ElementsAre(2, *gemma.id_of("a"), 1));
  EXPECT_TRUE(gemma.is_special(2));
  EXPECT_EQ(gemma.id_of("<image>"), std::nullopt);
  EXPECT_EQ(t5.size(), 700);
  EXPECT_EQ(t5.id_of("<extra_id_0>"), 699);
  EXPECT_EQ(t5.id_of("<extra_id_99>"), 600);
  EXPECT_EQ(t5.encode("a", true).back(), 1);
}

TEST_F(BesideTheModel, AddedTokensJsonAndTheConfigsFlags) {
  const Tokenizer plain = open("", "{\"<image>\": 700}");
  EXPECT_EQ(plain.id_of("<image>"), 700);
  EXPECT_FALSE(plain.is_special(700));
  const Tokenizer special =
      open(R"({"tokenizer_class": "GemmaTokenizerFast", "add_bos_token": false, "add_eos_token": true,
               "additional_special_tokens": ["<image>"]})",
           "{\"<image>\": 700}");
  EXPECT_TRUE(special.is_special(700));
  EXPECT_THAT(special.encode("<image>", true), testing::ElementsAre(700, 1));
  EXPECT_EQ(open(R"({"extra_ids": 3})", "", true).id_of("<extra_id_0>"), 602);
}

TEST_F(BesideTheModel, RefusesWhatContradictsTheModel) {
  EXPECT_THAT(refused("", "{\"<eos>\": 7}"),
              HasSubstr("\"<eos>\" has id 7, and 1 in tokenizer_config.json or the model"));
  EXPECT_THAT(refused("", "{\"<image>\": 20}"), HasSubstr("duplicate id 20"));
  EXPECT_THAT(refused("", "{\"<image>\": -1}"), HasSubstr("expected a token id"));
  EXPECT_THAT(refused("", "[]"), HasSubstr("expected an object"));
  EXPECT_THAT(refused(R"({"tokenizer_class": "BertTokenizer"})"),
              HasSubstr("unknown \"tokenizer_class\" \"BertTokenizer\""));
  EXPECT_THAT(refused(R"({"legacy": false})", "", true), HasSubstr("\"legacy\" is false"));
  EXPECT_EQ(refused(R"({"legacy": false})"), "accepted") << "Gemma puts no space before a text";
  EXPECT_THAT(refused(R"({"bos_token": "<none>", "add_bos_token": true})"), HasSubstr("no piece is \"<none>\""));
  EXPECT_THAT(refused(R"({"added_tokens_decoder": {"x": {"content": "<pad>"}}})"), HasSubstr("expected a token id"));
  EXPECT_THAT(refused(R"({"added_tokens_decoder": {"3": {"content": "<pad>"}}})"), HasSubstr("must agree"));
  EXPECT_THAT(refused(R"({"added_tokens_decoder": [1]})"), HasSubstr("should be an object"));
  EXPECT_THAT(refused(R"({"extra_ids": 99999999})", "", true), HasSubstr("expected a token id"));
}

TEST_F(BesideTheModel, RefusesAModelThatIsCutOffWithItsPath) {
  const std::string path = folder_.write("spiece.model", read("t5/spiece.model").substr(0, 5000));
  EXPECT_THAT(refusal([&] {
                Tokenizer::from_sentencepiece({path, {}, {}});
              }),
              AllOf(HasSubstr(path), HasSubstr("bytes begins, but")));
}

}  // namespace
}  // namespace quantbench
