#include "text/added_tokens.h"

#include <algorithm>
#include <unordered_map>

#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/regex.h"
#include "text/token_id.h"
#include "text/white_space.h"

namespace quantbench {
namespace {

// Bounds the work for each character of a text; the longest published token has well under 100 bytes.
constexpr size_t kMaxContentBytes = 1024;
// Rust's \w: a letter, mark, decimal digit, connector or joiner (Unicode's annex C of UTS 18).
constexpr const char* kWord = R"([\p{L}\p{Nl}\p{M}\p{Nd}\p{Alphabetic}\p{Pc}\p{Join_Control}])";

}  // namespace

AddedTokens::AddedTokens(const nlohmann::json& list, const Normalizer& normalizer, const std::string& where) {
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
    tokens_.push_back(std::move(token));
  }
  // Of tokens that the normalizer makes equal the first one counts, special ones before others.
  std::vector<std::string> normal;
  for (const AddedToken& token : tokens_) {
    normal.push_back(token.normalized ? normalizer.apply(token.content) : token.content);
    if (normal.back().empty()) {
      refuse_unsupported("{}: the normalizer leaves nothing of \"{}\", which could not be found in a text", where,
                         token.content);
    }
  }
  std::array<std::vector<ByteTrie::Entry>, 2> entries;
  for (const bool special : {true, false}) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].special != special) continue;
      entries[tokens_[i].normalized].push_back({normal[i], static_cast<int32_t>(i)});
    }
  }
  for (const bool normalized : {false, true}) pieces_[normalized] = ByteTrie(std::move(entries[normalized]));
}

bool AddedTokens::is_word(std::string_view text, size_t at) {
  static const Regex word(kWord, "a token that is a single word");  // takes long to compile, and few tokens need it
  return word.match_at(text, at).has_value();
}

std::vector<AddedTokens::Segment> AddedTokens::cut(const ByteTrie& trie, std::string_view text) const {
  std::vector<Segment> out;
  size_t done = 0;  // all before it stands in out; a token with rstrip may lie beyond the next match's begin
  for (size_t from = 0; from < text.size();) {
    const auto [found, bytes] = trie.longest(text.substr(from));
    if (found == ByteTrie::kNone) {
      ++from;
      continue;
    }
    const AddedToken& token = tokens_[found];
    size_t begin = from, end = from + bytes;
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
  return out;
}

}  // namespace quantbench
