#include "text/utf8.h"

namespace quantbench::utf8 {

Step step(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = at(0);
  if (first < 0x80) return {Form::valid, 1, first};
  int length = 0;
  // The second byte's range is what excludes long forms (E0, F0), surrogates (ED) and values too large (F4).
  uint8_t low = 0x80, high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return {Form::invalid, 1, 0};
  }
  char32_t code_point = first & (0x7F >> length);
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) == text.size()) return {Form::incomplete, i, 0};
    const uint8_t byte = at(i);
    if (byte < low || byte > high) return {Form::invalid, i, 0};
    low = 0x80, high = 0xBF;
    code_point = code_point << 6 | (byte & 0x3F);
  }
  return {Form::valid, length, code_point};
}

std::optional<size_t> first_invalid(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Step next = step(text.substr(i));
    if (next.form != Form::valid) return i;
    i += next.bytes;
  }
  return std::nullopt;
}

void append(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
}

}  // namespace quantbench::utf8
