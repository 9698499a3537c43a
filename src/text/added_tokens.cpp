#include "text/added_tokens.h"

#include <algorithm>

#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/token_id.h"
#include "text/utf8.h"

namespace quantbench {
namespace {

// Bounds the work for each character of a text; the longest published token has well under 100 bytes.
constexpr size_t kMaxContentBytes = 1024;

// Unicode's White_Space, which is Rust's \s. Oniguruma's \s is the same set, U+0085 included.
bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

size_t start_of_last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

// Where the white space at the end of text begins.
size_t trailing_space(std::string_view text) {
  while (!text.empty()) {
    const size_t last = start_of_last_character(text);
    if (!is_white_space(utf8::step(text.substr(last)).code_point)) break;
    text = text.substr(0, last);
  }
  return text.size();
}

// How many bytes of white space text starts with.
size_t leading_space(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const utf8::Step next = utf8::step(text.substr(at));
    if (!is_white_space(next.code_point)) break;
    at += next.bytes;
  }
  return at;
}

}  // namespace

void AddedTokens::Trie::add(std::string_view content, int token) {
  uint64_t node = 0;
  starts_[static_cast<uint8_t>(content[0])] = true;
  for (const char c : content) {
    const uint64_t edge = node << 8 | static_cast<uint8_t>(c);
    const auto [next, fresh] = edges_.try_emplace(edge, static_cast<int>(token_of_.size()));
    if (fresh) token_of_.push_back(-1);
    node = next->second;
  }
  token_of_[node] = token;
}

int AddedTokens::Trie::longest_at(std::string_view text, size_t from) const {
  if (!starts_[static_cast<uint8_t>(text[from])]) return -1;
  int longest = -1;
  uint64_t node = 0;
  for (size_t i = from; i < text.size(); ++i) {
    const auto edge = edges_.find(node << 8 | static_cast<uint8_t>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_of_[node] >= 0) longest = token_of_[node];
  }
  return longest;
}

AddedTokens::AddedTokens(const nlohmann::json& list, const std::string& where)
    // Rust's \w: a letter, mark, decimal digit, connector or joiner (Unicode's annex C of UTS 18).
    : word_(R"([\p{L}\p{Nl}\p{M}\p{Nd}\p{Alphabetic}\p{Pc}\p{Join_Control}])", where) {
  if (list.is_null()) return;
  if (!list.is_array()) refuse_damaged("{}: should be a list, found {}", where, list.type_name());
  std::unordered_map<std::string, size_t> by_content;
  std::unordered_map<int32_t, size_t> by_id;
  for (const nlohmann::json& entry : list) {
    const std::string here = fmt::format("{}[{}]", where, tokens_.size());
    AddedToken token;
    token.id = token_id(require(entry, "id", here), here);
    token.content = require_string(entry, "content", here);
    token.single_word = bool_or(entry, "single_word", false, here);
    token.lstrip = bool_or(entry, "lstrip", false, here);
    token.rstrip = bool_or(entry, "rstrip", false, here);
    token.normalized = bool_or(entry, "normalized", true, here);
    token.special = bool_or(entry, "special", false, here);
    if (token.content.empty() || token.content.size() > kMaxContentBytes) {
      refuse_damaged("{}: a content of {} bytes, expected 1 to {}", here, token.content.size(), kMaxContentBytes);
    }
    if (const auto [other, fresh] = by_content.try_emplace(token.content, tokens_.size()); !fresh) {
      refuse_damaged("{}: \"{}\" stands already at [{}]", here, token.content, other->second);
    }
    if (const auto [other, fresh] = by_id.try_emplace(token.id, tokens_.size()); !fresh) {
      refuse_damaged("{}: duplicate id {} for \"{}\": \"{}\" at [{}] has it too", here, token.id, token.content,
                     tokens_[other->second].content, other->second);
    }
    tries_[token.normalized].add(token.content, static_cast<int>(tokens_.size()));
    tokens_.push_back(std::move(token));
  }
}

bool AddedTokens::is_word(std::string_view text, size_t at) const { return word_.match_at(text, at).has_value(); }

void AddedTokens::cut_pass(const Trie& trie, std::string_view text, std::vector<Segment>& out) const {
  size_t done = 0;  // all before it stands in out; a token with rstrip may lie beyond the next match's begin
  for (size_t from = 0; from < text.size();) {
    const int found = trie.longest_at(text, from);
    if (found < 0) {
      ++from;
      continue;
    }
    const AddedToken& token = tokens_[found];
    size_t begin = from, end = from + token.content.size();
    from = end;
    if (token.single_word) {
      const bool free_before = begin == 0 || !is_word(text, start_of_last_character(text.substr(0, begin)));
      const bool free_after = end == text.size() || !is_word(text, end);
      if (!free_before || !free_after) continue;
    }
    if (token.lstrip) begin = std::max(trailing_space(text.substr(0, begin)), done);
    if (token.rstrip) end += leading_space(text.substr(end));
    if (done < begin) out.push_back({kText, text.substr(done, begin - done)});
    out.push_back({token.id, {}});
    done = end;
  }
  if (done < text.size()) out.push_back({kText, text.substr(done)});
}

std::vector<AddedTokens::Segment> AddedTokens::cut(std::string_view text) const {
  std::vector<Segment> first, second;
  cut_pass(tries_[false], text, first);
  for (const Segment& segment : first) {
    if (segment.id == kText) {
      cut_pass(tries_[true], segment.text, second);
    } else {
      second.push_back(segment);
    }
  }
  return second;
}

}  // namespace quantbench
