// A unigram language model of pieces (Kudo 2018), as T5 uses it: the likeliest way to cut a text into pieces.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "text/byte_trie.h"
#include "text/char_bpe.h"
#include "text/text_model.h"

namespace quantbench {

class Unigram final : public TextModel {
 public:
  // model: {"type": "Unigram", "vocab": [[piece, log probability], …], "unk_id", "byte_fallback"}; ids are positions.
  Unigram(const nlohmann::json& model, const std::string& where);

  // O(n · longest piece). A character that no piece is stands as the unknown one, 10 below the least likely piece;
  // neighbours of that kind become one.
  void encode(std::string_view text, std::vector<int32_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  Vocabulary vocabulary_;
  std::vector<double> scores_;  // by id
  ByteTrie pieces_;             // to ids
  int32_t unknown_ = 0;
  double unknown_score_ = 0;
  bool byte_fallback_ = false;
  ByteTokens bytes_{};
};

}  // namespace quantbench
