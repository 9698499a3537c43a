// The merges of byte-pair encoding: tokenizer.json's "merges", and how they join a row of tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

#include "text/text_model.h"

namespace quantbench {

class BpeMerges {
 public:
  // model: {"merges": ["a b" or ["a", "b"], …], …}. Refuses merges of tokens that are not in the vocabulary, and
  // options that mean another algorithm (dropout, prefixes and suffixes).
  BpeMerges(const nlohmann::json& model, const Vocabulary& vocabulary, const std::string& where);

  // Appends what the row of ids becomes: the merge of the lowest rank first, of equal ones the leftmost. O(n log n).
  void apply(std::span<const int32_t> row, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    int32_t rank, id;
  };
  const Merge* merge_of(int32_t left, int32_t right) const;

  std::unordered_map<uint64_t, Merge> merges_;  // left id << 32 | right id
};

}  // namespace quantbench
