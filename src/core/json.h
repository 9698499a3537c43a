// Strict JSON from outside: UTF-8, no duplicate keys, bounded depth and size. nlohmann::json does the parsing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace quantbench {

struct JsonLimits {
  int depth = 64;
  int64_t bytes = 256 << 20;
};

// Error bad_model with `where`, the position and the cause, for text that is not such JSON.
nlohmann::json parse_json(std::string_view text, const std::string& where, JsonLimits limits = {});
nlohmann::json read_json_file(const std::string& path, JsonLimits limits = {});

}  // namespace quantbench
