// Text to token ids and back, from a tokenizer.json: byte-level BPE as in Llama-3 and Phi-2, Unigram as in T5, BPE of
// characters as in Gemma, with the ids that Hugging Face's tokenizers give. Or from a model of sentencepiece, with the
// ids that it gives.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "text/added_tokens.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/text_model.h"

namespace quantbench {

// Immutable once made; may be used from several threads. Which ids begin and end a text is the model's business
// (config.json, generation_config.json); encode's add_special adds what the file's own template says.
class Tokenizer {
 public:
  // Error bad_model for a file that is not supported or contradicts itself; it names the component.
  static Tokenizer from_file(const std::string& path);
  static Tokenizer from_json(const nlohmann::json& document, const std::string& where);

  // A model of sentencepiece (spiece.model, tokenizer.model), and of what lies beside it what is there.
  struct SentencePieceFiles {
    std::string model;
    std::optional<std::string> config;        // tokenizer_config.json
    std::optional<std::string> added_tokens;  // added_tokens.json
  };
  // Special and added tokens: those that tokenizer_config.json ("added_tokens_decoder") and added_tokens.json name,
  // else the model's own. What stands round a text: add_bos_token and add_eos_token of tokenizer_config.json; else
  // <bos> where the model has one, as for Gemma; else, as for T5, </s>, and 100 tokens <extra_id_N> follow the
  // vocabulary. Error bad_model for a file that is cut off, foreign, or not supported.
  static Tokenizer from_sentencepiece(const SentencePieceFiles& files);

  // Order: added tokens are cut out, the rest is normalised and cut again, pre-tokenised, each piece goes through the
  // model, the template is put round it. Error usage, with the byte offset, for text that is not UTF-8.
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
    std::string bytes;  // of a byte-level model; else the token as it is spelled
    bool known = false, special = false;
  };
  struct Parts {
    Normalizer normalizer;
    AddedTokens added;
    PreTokenizer pre_tokenizer;
    Decoder decoder;
    std::unique_ptr<const TextModel> model;
    std::vector<int32_t> before, after;  // the template's ids
  };

  Tokenizer(Parts parts, const std::string& where);
  void read_texts(const std::string& where);
  void append_ids(std::string_view text, bool at_start, std::vector<int32_t>& ids) const;

  Parts parts_;
  std::vector<Text> texts_;  // by id
};

// Decodes ids as they come and gives out whole characters only.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // The text that id completes; empty while a character, or a run of byte tokens, is unfinished.
  std::string push(int32_t id);
  // What is left at the end: U+FFFD where a character stayed unfinished.
  std::string finish();

 private:
  std::string drain(bool at_end);

  const Tokenizer* tokenizer_;
  bool skip_special_;
  Decoder::State state_;
  std::string pending_;  // the start of a character
};

}  // namespace quantbench
