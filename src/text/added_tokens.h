// Tokens that are cut out of a text before anything else looks at it: tokenizer.json's "added_tokens".
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

#include "text/regex.h"

namespace quantbench {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for in a second pass, in what the first left
  bool special = false;      // left out of decoded text on request
};

class AddedTokens {
 public:
  struct Segment {
    int32_t id = kText;
    std::string_view text;  // of a text segment; never empty
  };
  static constexpr int32_t kText = -1;

  // list: an array, or null. Refuses what it cannot read, the same content twice and the same id twice.
  AddedTokens(const nlohmann::json& list, const std::string& where);

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  // Leftmost-longest, as Hugging Face's added_vocabulary.rs cuts. text is valid UTF-8.
  std::vector<Segment> cut(std::string_view text) const;

 private:
  // All tokens of one pass, by their bytes. Node 0 is the root.
  class Trie {
   public:
    void add(std::string_view content, int token);
    // The longest token at text[from], or -1.
    int longest_at(std::string_view text, size_t from) const;

   private:
    std::unordered_map<uint64_t, int> edges_;  // node << 8 | byte -> node
    std::vector<int> token_of_ = {-1};         // by node
    std::array<bool, 256> starts_{};
  };

  void cut_pass(const Trie& trie, std::string_view text, std::vector<Segment>& out) const;
  bool is_word(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  std::array<Trie, 2> tries_;  // by `normalized`
  Regex word_;
};

}  // namespace quantbench
