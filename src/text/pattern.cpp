#include "text/pattern.h"

#include "text/json_fields.h"
#include "text/refusal.h"

namespace quantbench {
namespace {

std::vector<Span> spans_of(const Regex& regex, std::string_view text) {
  std::vector<Span> spans;
  size_t covered = 0, from = 0;
  std::optional<size_t> last_end;
  while (from <= text.size()) {
    const auto match = regex.find(text, from);
    if (!match) break;
    if (match->begin == match->end && last_end == match->end) {  // an empty match where the last one ended
      do {
        ++from;
      } while (from < text.size() && (static_cast<uint8_t>(text[from]) & 0xC0) == 0x80);
      continue;
    }
    if (covered != match->begin) spans.push_back({covered, match->begin, false});
    spans.push_back({match->begin, match->end, true});
    covered = from = match->end;
    last_end = match->end;
  }
  if (covered != text.size()) spans.push_back({covered, text.size(), false});
  return spans;
}

std::vector<Span> spans_of(std::string_view needle, std::string_view text) {
  std::vector<Span> spans;
  size_t covered = 0;
  for (size_t at; (at = text.find(needle, covered)) != text.npos; covered = at + needle.size()) {
    if (covered != at) spans.push_back({covered, at, false});
    spans.push_back({at, at + needle.size(), true});
  }
  if (covered != text.size()) spans.push_back({covered, text.size(), false});
  return spans;
}

std::string replaced(std::string_view text, const std::vector<Span>& spans, std::string_view content) {
  std::string out;
  out.reserve(text.size());
  for (const Span& span : spans) out += span.hit ? content : text.substr(span.begin, span.end - span.begin);
  return out;
}

}  // namespace

Pattern::Pattern(const nlohmann::json& component, const std::string& where) {
  const nlohmann::json& pattern = require(component, "pattern", where);
  if (pattern.is_object() && pattern.contains("Regex")) {
    regex_.emplace(require_string(pattern, "Regex", where + ".pattern"), where);
  } else if (pattern.is_object() && pattern.contains("String")) {
    needle_ = require_string(pattern, "String", where + ".pattern");
    if (needle_.empty()) refuse_damaged("{}: the pattern is an empty string, which finds nothing", where);
  } else {
    refuse_damaged("{}: expected \"pattern\" with \"Regex\" or \"String\", found {}", where, pattern.dump());
  }
}

std::vector<Span> Pattern::spans(std::string_view text) const {
  return regex_ ? spans_of(*regex_, text) : spans_of(needle_, text);
}

std::string replace(std::string_view text, const Pattern& pattern, const std::string& content) {
  return replaced(text, pattern.spans(text), content);
}

std::string replace(std::string_view text, std::string_view needle, std::string_view content) {
  return replaced(text, spans_of(needle, text), content);
}

}  // namespace quantbench
