// Damaged tokenizer.json files: each is either refused with an Error or works; nothing crashes or hangs.
#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "core/json.h"
#include "text/test_small_tokenizers.h"
#include "text/tokenizer.h"

namespace quantbench {
namespace {

using nlohmann::json;

class Damage {
 public:
  explicit Damage(uint32_t seed) : random_(seed) {}
  size_t below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }

  // Walks down from node at random and damages where it stops.
  void apply(json& node) {
    if (node.is_structured() && !node.empty() && below(8) != 0) {
      auto child = node.begin();
      std::advance(child, static_cast<long>(below(node.size())));
      if (below(12) == 0) {
        node.erase(child);
      } else {
        apply(*child);
      }
      return;
    }
    node = value();
  }

  std::string text() {
    static const char* const parts[] = {"a",      " ",      "\n",     "é",         "中",      "😀",
                                        "12",     "'LL",    "<left>", "  <both> ", "<right>", "<|endoftext|>",
                                        "\u0301", "\u0085", "naïve",  "<word>",    "the",     "▁",
                                        "ﬁ",      "</s>",   "<unk>",  "<bos>",     "<image>", "\r\n",
                                        "ꙮ",      "<0x41>"};
    std::string out;
    for (size_t n = below(30); n > 0; --n) out += parts[below(std::size(parts))];
    return out;
  }

 private:
  json value() {
    switch (below(16)) {
      case 0: return nullptr;
      case 1: return below(2) == 0;
      case 2: return below(400);
      case 3: return -1;
      case 4: return 1e300;
      case 5: return "";
      case 6: return "Sequence";
      case 7: return "ByteLevel";
      case 8: return json::array();
      case 9: return json::object();
      case 10: return json::array({"a", "b"});
      case 11: return "▁";
      case 12: return names(random_);
      case 13: return {{"type", names(random_)}, {"content", "a"}, {"replacement", "▁"}};
      case 14: return "AAAA";
      default: return text();
    }
  }

  static const char* names(std::mt19937& random) {
    static const char* const all[] = {"Split", "Metaspace",   "WhitespaceSplit", "Digits", "Replace", "Prepend",
                                      "Strip", "Precompiled", "ByteFallback",    "Fuse",   "first",   "never",
                                      "BPE",   "Unigram",     "Isolated"};
    return all[std::uniform_int_distribution<size_t>(0, std::size(all) - 1)(random)];
  }

  std::mt19937 random_;
};

struct Form {
  const char* name;
  json (*document)();
};

class TokenizerFuzz : public testing::TestWithParam<Form> {
 protected:
  const json whole_ = GetParam().document();
};

TEST_P(TokenizerFuzz, ADamagedFileIsRefusedOrWorks) {
  ASSERT_NO_THROW(Tokenizer::from_json(whole_, "whole"));
  int refused = 0, accepted = 0;
  for (uint32_t seed = 0; seed < 1500; ++seed) {
    Damage damage(seed);
    json document = whole_;
    for (size_t n = 1 + damage.below(3); n > 0; --n) {
      // The vocabulary is most of the file; without this it would take most of the damage.
      damage.apply(damage.below(3) ? document : document["model"]);
      if (!document.is_object()) break;
    }
    try {
      const Tokenizer tokenizer = Tokenizer::from_json(document, "damaged");
      const std::vector<int32_t> ids = tokenizer.encode(damage.text(), true);
      EXPECT_NO_THROW(parse_json(json(tokenizer.decode(ids, false)).dump(), "decoded")) << seed;
      ++accepted;
    } catch (const Error&) {
      ++refused;
    }
  }
  // Both happen often, else the damage is too coarse or too fine to test anything.
  EXPECT_GT(refused, 200);
  EXPECT_GT(accepted, 200);
}

TEST_P(TokenizerFuzz, AnyBytesDecodeToValidUtf8) {
  const Tokenizer tokenizer = Tokenizer::from_json(whole_, "whole");
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    Damage damage(seed);
    std::vector<int32_t> ids(damage.below(20));
    for (int32_t& id : ids) id = static_cast<int32_t>(damage.below(800)) - 5;
    const std::string text = tokenizer.decode(ids, false);
    EXPECT_NO_THROW(tokenizer.encode(text, false)) << seed;  // encode refuses what is not UTF-8
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, TokenizerFuzz,
                         testing::Values(Form{"variants", small_document}, Form{"t5", small_unigram},
                                         Form{"gemma", small_gemma}),
                         [](const auto& form) { return std::string(form.param.name); });

}  // namespace
}  // namespace quantbench
