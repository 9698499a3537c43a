#include "text/pre_tokenizer.h"

#include <algorithm>
#include <optional>

#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/regex.h"

namespace quantbench {
namespace {

// GPT-2's pattern, as ByteLevel applies it.
constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What Digits cuts by is not the regular expressions' digits but those of Rust's char::is_numeric, which in tokenizers
// 0.23 knows Unicode 17 already.
constexpr const char* kNumeric = R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}])";

enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

struct Span {
  size_t begin, end;
  bool hit;  // a match of the pattern, rather than what lies between two
};

// Spans cover text without gaps; neighbours may both be hits.
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

std::vector<Span> spans_of(const std::string& needle, std::string_view text) {
  std::vector<Span> spans;
  size_t covered = 0;
  for (size_t at; (at = text.find(needle, covered)) != text.npos; covered = at + needle.size()) {
    if (covered != at) spans.push_back({covered, at, false});
    spans.push_back({at, at + needle.size(), true});
  }
  if (covered != text.size()) spans.push_back({covered, text.size(), false});
  return spans;
}

// What Hugging Face's NormalizedString::split does with each behaviour.
std::vector<Span> joined(const std::vector<Span>& spans, Behavior behavior) {
  std::vector<Span> out;
  bool previous_hit = false;
  switch (behavior) {
    case Behavior::isolated: return spans;
    case Behavior::removed:
      std::copy_if(spans.begin(), spans.end(), std::back_inserter(out), [](const Span& s) { return !s.hit; });
      return out;
    case Behavior::contiguous:
      for (const Span& span : spans) {
        if (span.hit == previous_hit && !out.empty()) {
          out.back().end = span.end;
        } else {
          out.push_back(span);
        }
        previous_hit = span.hit;
      }
      return out;
    case Behavior::merged_with_previous:
      for (const Span& span : spans) {
        if (span.hit && !previous_hit && !out.empty()) {
          out.back().end = span.end;
        } else {
          out.push_back(span);
        }
        previous_hit = span.hit;
      }
      return out;
    case Behavior::merged_with_next:
      for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
        if (span->hit && !previous_hit && !out.empty()) {
          out.back().begin = span->begin;
        } else {
          out.push_back(*span);
        }
        previous_hit = span->hit;
      }
      std::reverse(out.begin(), out.end());
      return out;
  }
  return out;
}

void append_pieces(std::string_view text, const std::vector<Span>& spans, Pieces& out) {
  for (const Span& span : spans) {
    if (span.begin != span.end) out.views.push_back(text.substr(span.begin, span.end - span.begin));
  }
}

class Split final : public Splitter {
 public:
  Split(const nlohmann::json& component, const std::string& where) {
    const nlohmann::json& pattern = require(component, "pattern", where);
    if (pattern.is_object() && pattern.contains("Regex")) {
      regex_.emplace(require_string(pattern, "Regex", where + ".pattern"), where);
    } else if (pattern.is_object() && pattern.contains("String")) {
      needle_ = require_string(pattern, "String", where + ".pattern");
      if (needle_.empty()) refuse_damaged("{}: the pattern is an empty string, which cuts nothing", where);
    } else {
      refuse_damaged("{}: expected \"pattern\" with \"Regex\" or \"String\", found {}", where, pattern.dump());
    }
    invert_ = bool_or(component, "invert", false, where);
    const std::string& name = require_string(component, "behavior", where);
    const std::pair<const char*, Behavior> known[] = {{"Isolated", Behavior::isolated},
                                                      {"Removed", Behavior::removed},
                                                      {"MergedWithPrevious", Behavior::merged_with_previous},
                                                      {"MergedWithNext", Behavior::merged_with_next},
                                                      {"Contiguous", Behavior::contiguous}};
    const auto found = std::find_if(std::begin(known), std::end(known), [&](auto& k) { return name == k.first; });
    if (found == std::end(known)) {
      refuse_unsupported(
          "{}: unknown behavior \"{}\", expected Isolated, Removed, MergedWithPrevious, "
          "MergedWithNext or Contiguous",
          where, name);
    }
    behavior_ = found->second;
  }

  Split(const char* pattern, Behavior behavior, const std::string& where) : behavior_(behavior) {
    regex_.emplace(pattern, where);
  }

  void split(std::string_view text, Pieces& out) const override {
    std::vector<Span> spans = regex_ ? spans_of(*regex_, text) : spans_of(needle_, text);
    if (invert_) {
      for (Span& span : spans) span.hit = !span.hit;
    }
    append_pieces(text, joined(spans, behavior_), out);
  }

 private:
  std::optional<Regex> regex_;  // else needle_
  std::string needle_;
  Behavior behavior_ = Behavior::isolated;
  bool invert_ = false;
};

// Puts a space before a piece that has none, cuts by GPT-2's pattern; both optional. The mapping of bytes to visible
// characters, which this component is named for, is left to the model: it takes the bytes as they are.
class ByteLevel final : public Splitter {
 public:
  ByteLevel(const nlohmann::json& component, const std::string& where)
      : prefix_space_(bool_or(component, "add_prefix_space", true, where)) {
    if (bool_or(component, "use_regex", true, where)) words_.emplace(kGpt2Pattern, Behavior::isolated, where);
  }

  void split(std::string_view text, Pieces& out) const override {
    if (prefix_space_ && text[0] != ' ') text = out.made.emplace_back(1, ' ').append(text);
    if (words_) {
      words_->split(text, out);
    } else {
      out.views.push_back(text);
    }
  }

 private:
  bool prefix_space_;
  std::optional<Split> words_;
};

void flatten(const nlohmann::json& component, const std::string& where, int depth,
             std::vector<std::unique_ptr<Splitter>>& out, int& byte_levels, bool& byte_level_last) {
  if (require_string(component, "type", where) != "Sequence") {
    out.push_back(make_splitter(component, where));
    byte_level_last = component["type"] == "ByteLevel";
    byte_levels += byte_level_last;
    return;
  }
  constexpr int kMaxDepth = 8;
  if (depth == kMaxDepth) refuse_unsupported("{}: Sequences nest deeper than {}", where, kMaxDepth);
  int i = 0;
  for (const nlohmann::json& inner : require_list(component, "pretokenizers", where)) {
    flatten(inner, fmt::format("{}.pretokenizers[{}]", where, i++), depth + 1, out, byte_levels, byte_level_last);
  }
}

}  // namespace

std::unique_ptr<Splitter> make_splitter(const nlohmann::json& component, const std::string& where) {
  const std::string& type = require_string(component, "type", where);
  if (type == "Split") return std::make_unique<Split>(component, where);
  if (type == "ByteLevel") return std::make_unique<ByteLevel>(component, where);
  if (type == "Digits") {
    const bool individual = bool_or(component, "individual_digits", false, where);
    return std::make_unique<Split>(kNumeric, individual ? Behavior::isolated : Behavior::contiguous, where);
  }
  if (type == "Sequence") return nullptr;
  refuse_unsupported("{}: unknown pre-tokenizer \"{}\"; supported are Split, ByteLevel, Digits and Sequence", where,
                     type);
}

PreTokenizer::PreTokenizer(const nlohmann::json& component, const std::string& where) {
  if (component.is_null()) {
    refuse_unsupported("{}: null; supported are byte-level tokenizers, whose pre-tokenizer ends in ByteLevel", where);
  }
  int byte_levels = 0;
  bool byte_level_last = false;
  flatten(component, where, 0, splitters_, byte_levels, byte_level_last);
  if (byte_levels != 1 || !byte_level_last) {
    refuse_unsupported(
        "{}: {} components, ByteLevel among them {} times{}; supported are byte-level tokenizers, "
        "with one ByteLevel as the last component",
        where, splitters_.size(), byte_levels, byte_levels == 1 ? " but not last" : "");
  }
}

Pieces PreTokenizer::split(std::string_view text) const {
  Pieces pieces;
  if (text.empty()) return pieces;
  pieces.views.push_back(text);
  for (const auto& splitter : splitters_) {
    std::vector<std::string_view> before;
    before.swap(pieces.views);
    for (const std::string_view piece : before) splitter->split(piece, pieces);
  }
  return pieces;
}

}  // namespace quantbench
