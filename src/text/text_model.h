// What turns pieces of text into token ids: tokenizer.json's "model", or a model of sentencepiece.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

namespace quantbench {

// Tokens as the file spells them, and their ids.
using Vocabulary = std::unordered_map<std::string, int32_t>;

// Immutable; may be used from several threads.
class TextModel {
 public:
  virtual ~TextModel() = default;

  // Appends the ids of one piece: valid UTF-8, of a byte-level model any part of it.
  virtual void encode(std::string_view piece, std::vector<int32_t>& ids) const = 0;
  virtual const Vocabulary& vocabulary() const = 0;
};

// model: {"type": "BPE" or "Unigram", …}; byte_level: pieces are bytes, and the vocabulary spells them as GPT-2 does.
// An Error names what is missing, what contradicts itself, and every option that is set and not supported.
std::unique_ptr<TextModel> make_text_model(const nlohmann::json& model, bool byte_level, const std::string& where);

// {token: id}, each id once.
Vocabulary read_vocabulary(const nlohmann::json& model, const std::string& where);

}  // namespace quantbench
