#include "text/regex.h"

#include <oniguruma.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "text/refusal.h"
#include "text/unicode_categories.h"

namespace quantbench {
namespace {

// Steps back that one search may take; a published pattern takes a few a character of the longest piece. It bounds the
// time that a hostile pattern can cost.
constexpr unsigned long kRetryLimit = 20'000'000;
constexpr size_t kMaxPatternBytes = 65536;

const OnigUChar* bytes(std::string_view text) { return reinterpret_cast<const OnigUChar*>(text.data()); }

struct FreeRegion {
  void operator()(OnigRegion* region) const { onig_region_free(region, 1); }
};
struct FreeParam {
  void operator()(OnigMatchParam* param) const { onig_free_match_param(param); }
};

std::unique_ptr<OnigMatchParam, FreeParam> limits() {
  std::unique_ptr<OnigMatchParam, FreeParam> param(onig_new_match_param());
  onig_initialize_match_param(param.get());
  onig_set_retry_limit_in_match_of_match_param(param.get(), kRetryLimit);
  onig_set_retry_limit_in_search_of_match_param(param.get(), kRetryLimit);
  return param;
}

// Categories by name as Oniguruma takes a property of its user: how many ranges, then the first and last of each. It
// keeps pointing at them.
using Properties = std::map<std::string, std::vector<OnigCodePoint>>;

Properties properties() {
  std::map<std::string, std::vector<CodePoints>> codes;
  for (const UnicodeCategory& category : unicode_categories()) {
    const std::string name = category.name;
    codes[name].assign(category.codes.begin(), category.codes.end());
    if (name.size() == 1) continue;
    std::vector<CodePoints>& whole = codes[name.substr(0, 1)];  // "Lu" is a part of "L"
    whole.insert(whole.end(), category.codes.begin(), category.codes.end());
  }
  Properties properties;
  for (auto& [name, ranges] : codes) {
    std::sort(ranges.begin(), ranges.end(), [](CodePoints a, CodePoints b) { return a.first < b.first; });
    std::vector<OnigCodePoint>& property = properties[name];
    property.push_back(static_cast<OnigCodePoint>(ranges.size()));
    for (const CodePoints& range : ranges) property.insert(property.end(), {range.first, range.last});
  }
  return properties;
}

void initialize() {
  OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
  onig_initialize(encodings, 1);
  static Properties all = properties();
  for (auto& [name, ranges] : all) {  // in place of Oniguruma's own, which are of the Unicode of its time
    if (onig_unicode_define_user_property(name.c_str(), ranges.data()) != ONIG_NORMAL) {
      fail(ErrorKind::internal, "Oniguruma does not take the characters of category {}", name);
    }
  }
}

}  // namespace

void Regex::Free::operator()(re_pattern_buffer* regex) const { onig_free(regex); }

Regex::Regex(const std::string& pattern, const std::string& where) : pattern_(pattern), where_(where) {
  static std::once_flag initialized;
  std::call_once(initialized, initialize);
  if (pattern.size() > kMaxPatternBytes) {
    refuse_damaged("{}: a pattern of {} bytes, expected at most {}", where, pattern.size(), kMaxPatternBytes);
  }
  regex_t* regex = nullptr;
  OnigErrorInfo info;
  const int code = onig_new(&regex, bytes(pattern), bytes(pattern) + pattern.size(), ONIG_OPTION_NONE,
                            ONIG_ENCODING_UTF8, ONIG_SYNTAX_DEFAULT, &info);
  if (code != ONIG_NORMAL) {
    OnigUChar text[ONIG_MAX_ERROR_MESSAGE_LEN];
    const int length = onig_error_code_to_str(text, code, &info);
    refuse_unsupported("{}: the pattern \"{}\" is no regular expression that Oniguruma knows: {}", where, pattern,
                       std::string_view(reinterpret_cast<char*>(text), length));
  }
  regex_.reset(regex);
}

void Regex::give_up(int code, size_t offset) const {
  OnigUChar text[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int length = onig_error_code_to_str(text, code);
  fail(ErrorKind::bad_model, "{}: the pattern \"{}\" gave up at byte {} of the text: {}; shorten the text or its runs",
       where_, pattern_, offset, std::string_view(reinterpret_cast<char*>(text), length));
}

std::optional<Match> Regex::find(std::string_view text, size_t from) const {
  const OnigUChar *begin = bytes(text), *end = begin + text.size();
  const std::unique_ptr<OnigRegion, FreeRegion> region(onig_region_new());
  const auto param = limits();
  const int found =
      onig_search_with_param(regex_.get(), begin, end, begin + from, end, region.get(), ONIG_OPTION_NONE, param.get());
  if (found == ONIG_MISMATCH) return std::nullopt;
  if (found < 0) give_up(found, from);
  return Match{static_cast<size_t>(region->beg[0]), static_cast<size_t>(region->end[0])};
}

std::optional<size_t> Regex::match_at(std::string_view text, size_t from) const {
  const OnigUChar *begin = bytes(text), *end = begin + text.size();
  const auto param = limits();
  const int length =
      onig_match_with_param(regex_.get(), begin, end, begin + from, nullptr, ONIG_OPTION_NONE, param.get());
  if (length == ONIG_MISMATCH) return std::nullopt;
  if (length < 0) give_up(length, from);
  return from + static_cast<size_t>(length);
}

}  // namespace quantbench
