// Byte-level byte-pair encoding, as GPT-2, Llama-3 and Phi-2 use it: tokenizer.json's "model".
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

#include "text/bpe_merges.h"
#include "text/text_model.h"

namespace quantbench {

// Vocabularies spell every byte as one visible character (GPT-2's bytes_to_unicode): "Ġthe" is " the".
// The bytes that a token stands for; where a character is no such spelling, the token's own UTF-8 bytes.
std::string bytes_of_token(std::string_view token);
// The same, but nothing where a character is no such spelling.
std::optional<std::string> spelled_bytes(std::string_view token);

class ByteLevelBpe final : public TextModel {
 public:
  // model: {"type": "BPE", "vocab": {token: id}, "merges": …, …}.
  ByteLevelBpe(const nlohmann::json& model, const std::string& where);

  // O(n log n).
  void encode(std::string_view piece, std::vector<int32_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  struct BytesHash {
    using is_transparent = void;
    size_t operator()(std::string_view bytes) const { return std::hash<std::string_view>{}(bytes); }
  };

  Vocabulary vocabulary_;
  BpeMerges merges_;
  std::array<int32_t, 256> id_of_byte_{};  // -1: the byte occurs in no valid UTF-8 and has no token
  // ignore_merges: the id of a whole piece, looked up before merging; empty where the option is off.
  std::unordered_map<std::string, int32_t, BytesHash, std::equal_to<>> whole_;
};

}  // namespace quantbench
