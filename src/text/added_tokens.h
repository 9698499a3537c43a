// Tokens that are cut out of a text before the model looks at it: tokenizer.json's "added_tokens".
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "text/byte_trie.h"
#include "text/normalizer.h"

namespace quantbench {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized =
      false;             // looked for in what the normalizer makes of the text, and in the form that it gives the token
  bool special = false;  // left out of decoded text on request
};

class AddedTokens {
 public:
  struct Segment {
    int32_t id = kText;
    std::string_view text;  // of a text segment; never empty
  };
  static constexpr int32_t kText = -1;

  // list: an array, or null. Refuses what it cannot read, the same content twice and the same id twice.
  AddedTokens(const nlohmann::json& list, const Normalizer& normalizer, const std::string& where);

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  // Leftmost-longest, as Hugging Face's added_vocabulary.rs cuts. text is valid UTF-8. First the text as it is, then
  // what the normalizer makes of each segment of text.
  std::vector<Segment> cut(std::string_view text) const { return cut(pieces_[false], text); }
  std::vector<Segment> cut_normalized(std::string_view text) const { return cut(pieces_[true], text); }

 private:
  std::vector<Segment> cut(const ByteTrie& trie, std::string_view text) const;
  static bool is_word(std::string_view text, size_t at);

  std::vector<AddedToken> tokens_;
  std::array<ByteTrie, 2> pieces_;  // by `normalized`, to positions in tokens_
};

}  // namespace quantbench
