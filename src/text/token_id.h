// The range of ids that a tokenizer.json may give.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "text/refusal.h"

namespace quantbench {

// Tables are indexed by id, so a stray huge id must not make them huge; the largest published vocabularies
// have 2^18.
constexpr int32_t kMaxTokenId = (1 << 20) - 1;

inline int32_t token_id(const nlohmann::json& value, const std::string& where) {
  if (!value.is_number_integer() || value < 0 || value > kMaxTokenId) {
    refuse_damaged("{}: expected a token id from 0 to {}, found {}", where, kMaxTokenId, value.dump());
  }
  return value.get<int32_t>();
}

}  // namespace quantbench
