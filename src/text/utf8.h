// UTF-8 (RFC 3629): shortest forms only, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace quantbench::utf8 {

constexpr const char* kReplacement = "\xEF\xBF\xBD";  // U+FFFD, for bytes that make no character

enum class Form { valid, invalid, incomplete };

struct Step {
  Form form = Form::valid;
  // valid: the bytes of the character. invalid: the bytes that stand for one U+FFFD, i.e. the longest start of a
  // character that they make (Unicode's "maximal subpart", as Rust's and Python's decoders count). incomplete: all the
  // bytes left, which are the start of a character.
  int bytes = 0;
  char32_t code_point = 0;  // where valid
};

// Reads the character at text[0]; text is not empty.
Step step(std::string_view text);

// Offset of the first byte that belongs to no valid character.
std::optional<size_t> first_invalid(std::string_view text);

void append(std::string& out, char32_t code_point);

}  // namespace quantbench::utf8
