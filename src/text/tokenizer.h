// Text to token ids and back, from a tokenizer.json: byte-level BPE as in Llama-3 and Phi-2, with the ids that Hugging
// Face's tokenizers give.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

#include "text/added_tokens.h"
#include "text/byte_level_bpe.h"
#include "text/pre_tokenizer.h"

namespace quantbench {

// Immutable once made; may be used from several threads. Which ids begin and end a text is the model's business
// (config.json, generation_config.json); encode's add_special adds what the file's own template says.
class Tokenizer {
 public:
  // Error bad_model for a file that is not supported or contradicts itself; it names the component.
  static Tokenizer from_file(const std::string& path);
  static Tokenizer from_json(const nlohmann::json& document, const std::string& where);

  // Order: added tokens are cut out, the rest is pre-tokenised, each piece goes through BPE, the template is put round
  // it. Error usage, with the byte offset, for text that is not UTF-8.
  std::vector<int32_t> encode(std::string_view text, bool add_special) const;
  // Bytes that make no character become U+FFFD; ids without text (padding rows of the embedding) print as <id:N>.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  // The id of a token as the file spells it: an added token ("<|endoftext|>") or one of the vocabulary ("Ġthe").
  std::optional<int32_t> id_of(const std::string& token) const;
  bool is_special(int32_t id) const;
  // The highest id with text, plus one. The model's vocabulary may be larger (padding), never smaller.
  int32_t size() const { return static_cast<int32_t>(texts_.size()); }

 private:
  friend class StreamDecoder;
  struct Text {
    std::string bytes;
    bool known = false, special = false;
  };

  Tokenizer(const nlohmann::json& document, const std::string& where);
  void read_texts(const std::string& where);
  void read_post_processor(const nlohmann::json& component, const std::string& where, int depth);
  void read_template(const nlohmann::json& component, const std::string& where);

  AddedTokens added_;
  PreTokenizer pre_tokenizer_;
  ByteLevelBpe bpe_;
  std::vector<Text> texts_;              // by id
  std::vector<int32_t> before_, after_;  // the template's ids
};

// Decodes ids as they come and gives out whole characters only.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // The text that id completes; empty while a character is unfinished.
  std::string push(int32_t id);
  // What is left at the end: U+FFFD where a character stayed unfinished.
  std::string finish();

 private:
  std::string drain(bool at_end);

  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // the start of a character
};

}  // namespace quantbench
