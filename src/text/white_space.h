// Unicode's White_Space: Rust's \s and char::is_whitespace. Oniguruma's \s is the same set, U+0085 included.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/utf8.h"

namespace quantbench {

inline bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// Of a text that is not empty.
inline size_t start_of_last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

// Where the white space at the end of text begins.
inline size_t trailing_space(std::string_view text) {
  while (!text.empty()) {
    const size_t last = start_of_last_character(text);
    if (!is_white_space(utf8::step(text.substr(last)).code_point)) break;
    text = text.substr(0, last);
  }
  return text.size();
}

// How many bytes of white space text starts with.
inline size_t leading_space(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const utf8::Step next = utf8::step(text.substr(at));
    if (!is_white_space(next.code_point)) break;
    at += next.bytes;
  }
  return at;
}

}  // namespace quantbench
