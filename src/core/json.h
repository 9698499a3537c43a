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
// Whether more brackets than that are open at once. For JSON that is read otherwise: what takes a document apart, or
// compares or prints it, goes as deep on the stack.
bool nests_deeper(std::string_view text, int levels);

}  // namespace quantbench
