#include "text/charsmap.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "text/refusal.h"
#include "text/utf8.h"

namespace quantbench {
namespace {

// A unit of the array: bit 8 says that a key ends here, bits 0–7 (and 31, which only values have) which byte led here,
// the rest where the children lie, relative to here.
bool ends_key(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t label(uint32_t unit) { return unit & 0x800000FF; }
uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit >> 9 & 1) * 8); }
uint32_t value(uint32_t unit) { return unit & 0x7FFFFFFF; }

// libsentencepiece has room for so many keys that begin one another (normalizer.h, kMaxTrieResultsSize).
constexpr int kMaxNested = 32;
constexpr int8_t kUnknown = -1;
constexpr int kMaxKeyBytes = 255;
// Bounds what a table can make of each character; the longest published replacement is U+FDFA's, of 33 bytes.
constexpr size_t kMaxReplacementBytes = 1024;

uint32_t read_uint32(std::string_view bytes, size_t at) {
  uint32_t number = 0;
  for (int i = 3; i >= 0; --i) number = number << 8 | static_cast<uint8_t>(bytes[at + static_cast<size_t>(i)]);
  return number;
}

}  // namespace

Charsmap::Charsmap(std::string_view blob, const std::string& where) {
  constexpr size_t kUnit = sizeof(uint32_t);
  const size_t array_bytes = blob.size() < kUnit ? 0 : read_uint32(blob, 0);
  if (array_bytes == 0 || array_bytes % kUnit != 0 || array_bytes > blob.size() - kUnit) {
    refuse_damaged(
        "{}: the charsmap has {} bytes and says that its array takes {} of them; expected a multiple of 4 "
        "that leaves room for the replacements",
        where, blob.size(), array_bytes);
  }
  units_.resize(array_bytes / kUnit);
  for (size_t i = 0; i < units_.size(); ++i) units_[i] = read_uint32(blob, kUnit + i * kUnit);
  replacements_ = std::string(blob.substr(kUnit + array_bytes));
  if (const auto at = utf8::first_invalid(replacements_)) {
    refuse_damaged("{}: the charsmap's replacements are not UTF-8 at byte {} of {}", where, *at, replacements_.size());
  }
  if (replacements_.empty() || replacements_.back() != '\0') {
    refuse_damaged("{}: the charsmap's last replacement has no end", where);
  }
  std::vector<int8_t> known(units_.size(), kUnknown);
  nested_from(0, 0, known, where);
}

// Where the children of the node at `position` lie: child c at this xor c.
size_t Charsmap::child_base(size_t position) const { return position ^ offset(units_[position]); }

// How many keys at most end one another on the way from here, this one included. Looks at every way out of the node;
// branches that end alike share their nodes.
int Charsmap::nested_from(size_t position, int depth, std::vector<int8_t>& known, const std::string& where) const {
  constexpr int8_t kOnTheWay = -2;
  if (known[position] == kOnTheWay || depth > kMaxKeyBytes) {
    refuse_damaged("{}: the charsmap goes round in its array, at unit {}, or has a key of more than {} bytes", where,
                   position, kMaxKeyBytes);
  }
  if (known[position] != kUnknown) return known[position];
  known[position] = kOnTheWay;
  const size_t base = child_base(position);
  // The key's end has child 0, the value; any other may be looked at, whichever byte comes in a text.
  if ((base | 0xFF) >= units_.size()) {
    refuse_damaged("{}: the charsmap leads out of its array: unit {} to {} of {}", where, position, base,
                   units_.size());
  }
  const bool ends = position != 0 && ends_key(units_[position]);
  if (ends) {
    const uint32_t at = value(units_[base]);
    if (at >= replacements_.size() || (static_cast<uint8_t>(replacements_[at]) & 0xC0) == 0x80) {
      refuse_damaged("{}: the charsmap leads to byte {} of {} bytes of replacements, where no character begins", where,
                     at, replacements_.size());
    }
    if (replacements_.find('\0', at) - at > kMaxReplacementBytes) {
      refuse_damaged("{}: the charsmap has a replacement of more than {} bytes", where, kMaxReplacementBytes);
    }
  }
  int nested = 0;
  for (uint32_t byte = 1; byte < 256; ++byte) {
    const size_t child = base ^ byte;
    if (label(units_[child]) == byte) nested = std::max(nested, nested_from(child, depth + 1, known, where));
  }
  nested += ends;
  if (nested > kMaxNested) {
    refuse_damaged("{}: the charsmap has more than {} keys that begin one another", where, kMaxNested);
  }
  known[position] = static_cast<int8_t>(nested);
  return nested;
}

std::optional<std::string_view> Charsmap::shortest(std::string_view text) const {
  size_t base = child_base(0);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte == 0) break;
    const size_t position = base ^ byte;
    if (label(units_[position]) != byte) break;
    base = child_base(position);
    if (ends_key(units_[position])) return replacements_.c_str() + value(units_[base]);
  }
  return std::nullopt;
}

std::string decode_base64(std::string_view text, const std::string& where) {
  static constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  static const auto digits = [] {
    std::array<int8_t, 256> of;
    of.fill(-1);
    for (size_t i = 0; i < kAlphabet.size(); ++i) of[static_cast<uint8_t>(kAlphabet[i])] = static_cast<int8_t>(i);
    return of;
  }();
  const size_t size = text.find_last_not_of('=') + 1;  // 0 where there is nothing else
  if (text.size() % 4 != 0 || text.size() - size > 2) {
    refuse_damaged("{}: {} characters of base64 with {} of padding; expected groups of four", where, text.size(),
                   text.size() - size);
  }
  std::string bytes;
  bytes.reserve(size / 4 * 3 + 2);
  uint32_t bits = 0;
  int count = 0;
  for (size_t i = 0; i < size; ++i) {
    const int digit = digits[static_cast<uint8_t>(text[i])];
    if (digit < 0) refuse_damaged("{}: character {} is no base64", where, i);
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if ((count += 6) >= 8) bytes.push_back(static_cast<char>(bits >> (count -= 8) & 0xFF));
  }
  if ((bits & ((1u << count) - 1)) != 0) refuse_damaged("{}: the last character of base64 has bits too many", where);
  return bytes;
}

}  // namespace quantbench
