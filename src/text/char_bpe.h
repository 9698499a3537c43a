// Byte-pair encoding of characters, as Gemma uses it: what the vocabulary lacks falls back to tokens for its bytes.
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

// How sentencepiece's vocabularies spell the token of a byte: "<0x0A>".
std::string byte_token(int byte);
// The byte that a token spells so, hexadecimal digits of either case; nothing for any other token.
std::optional<uint8_t> byte_of_token(std::string_view token);

// The ids of byte tokens by byte, -1 where the vocabulary has none.
using ByteTokens = std::array<int32_t, 256>;
ByteTokens byte_tokens(const Vocabulary& vocabulary);
// Appends the byte tokens of text; appends nothing, and returns false, where one of them is missing.
bool append_bytes(const ByteTokens& tokens, std::string_view text, std::vector<int32_t>& ids);

class CharBpe final : public TextModel {
 public:
  // model: {"type": "BPE", "vocab": {token: id}, "merges": …, "unk_token", "fuse_unk", "byte_fallback", …}.
  CharBpe(const nlohmann::json& model, const std::string& where);

  // O(n log n). A character without token, and without byte tokens, becomes the unknown token (several of them one,
  // with fuse_unk), or nothing where there is no such token.
  void encode(std::string_view piece, std::vector<int32_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  Vocabulary vocabulary_;
  BpeMerges merges_;
  std::unordered_map<char32_t, int32_t> characters_;  // tokens of one character
  bool byte_fallback_, fuse_unknown_, ignore_merges_;
  ByteTokens bytes_;
  std::optional<int32_t> unknown_;
};

}  // namespace quantbench
