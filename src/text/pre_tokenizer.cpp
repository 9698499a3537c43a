#include "text/pre_tokenizer.h"

#include <algorithm>
#include <optional>

#include "text/json_fields.h"
#include "text/metaspace.h"
#include "text/pattern.h"
#include "text/refusal.h"
#include "text/white_space.h"

namespace quantbench {
namespace {

// GPT-2's pattern, as ByteLevel applies it.
constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What Digits cuts by is not the regular expressions' digits but those of Rust's char::is_numeric, which in tokenizers
// 0.23 knows Unicode 17 already.
constexpr const char* kNumeric = R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}])";

enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

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
  Split(const nlohmann::json& component, const std::string& where)
      : pattern_(component, where), invert_(bool_or(component, "invert", false, where)) {
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

  Split(const char* pattern, Behavior behavior, const std::string& where)
      : pattern_(pattern, where), behavior_(behavior) {}

  void split(std::string_view text, bool, Pieces& out) const override {
    std::vector<Span> spans = pattern_.spans(text);
    if (invert_) {
      for (Span& span : spans) span.hit = !span.hit;
    }
    append_pieces(text, joined(spans, behavior_), out);
  }

 private:
  Pattern pattern_;
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

  void split(std::string_view text, bool at_start, Pieces& out) const override {
    if (prefix_space_ && text[0] != ' ') text = out.made.emplace_back(1, ' ').append(text);
    if (words_) {
      words_->split(text, at_start, out);
    } else {
      out.views.push_back(text);
    }
  }

 private:
  bool prefix_space_;
  std::optional<Split> words_;
};

// Spaces become `replacement`, one is put before a piece that has none, and each begins a piece of its own.
class Metaspace final : public Splitter {
 public:
  Metaspace(const nlohmann::json& component, const std::string& where)
      : replacement_(metaspace_replacement(component, where)),
        prepend_(metaspace_prepends(component, where)),
        split_(bool_or(component, "split", true, where)) {}

  bool only_at_start() const { return prepend_ == MetaspacePrepend::first; }

  void split(std::string_view text, bool at_start, Pieces& out) const override {
    std::string& made = out.made.emplace_back();
    made.reserve(text.size() + replacement_.size());
    const bool prepends = prepend_ == MetaspacePrepend::always || (prepend_ == MetaspacePrepend::first && at_start);
    if (prepends && text[0] != ' ' && !text.starts_with(replacement_)) made = replacement_;
    for (const char c : text) {
      if (c == ' ') {
        made += replacement_;
      } else {
        made += c;
      }
    }
    const std::string_view view = made;
    size_t begin = 0;
    while (split_) {
      const size_t end = view.find(replacement_, begin + 1);
      if (end == view.npos) break;
      out.views.push_back(view.substr(begin, end - begin));
      begin = end;
    }
    out.views.push_back(view.substr(begin));
  }

 private:
  std::string replacement_;
  MetaspacePrepend prepend_;
  bool split_;
};

class WhitespaceSplit final : public Splitter {
 public:
  void split(std::string_view text, bool, Pieces& out) const override {
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
      const utf8::Step next = utf8::step(text.substr(at));
      if (is_white_space(next.code_point)) {
        if (begin != at) out.views.push_back(text.substr(begin, at - begin));
        begin = at + next.bytes;
      }
      at += next.bytes;
    }
    if (begin != text.size()) out.views.push_back(text.substr(begin));
  }
};

void flatten(const nlohmann::json& component, const std::string& where, int depth,
             std::vector<std::unique_ptr<Splitter>>& out) {
  if (require_string(component, "type", where) != "Sequence") {
    out.push_back(make_splitter(component, where));
    return;
  }
  constexpr int kMaxDepth = 8;
  if (depth == kMaxDepth) refuse_unsupported("{}: Sequences nest deeper than {}", where, kMaxDepth);
  int i = 0;
  for (const nlohmann::json& inner : require_list(component, "pretokenizers", where)) {
    flatten(inner, fmt::format("{}.pretokenizers[{}]", where, i++), depth + 1, out);
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
  if (type == "Metaspace") return std::make_unique<Metaspace>(component, where);
  if (type == "WhitespaceSplit") return std::make_unique<WhitespaceSplit>();
  if (type == "Sequence") return nullptr;
  refuse_unsupported(
      "{}: unknown pre-tokenizer \"{}\"; supported are Split, ByteLevel, Digits, Metaspace, WhitespaceSplit and "
      "Sequence",
      where, type);
}

PreTokenizer::PreTokenizer(const nlohmann::json& component, const std::string& where) {
  if (component.is_null()) return;
  flatten(component, where, 0, splitters_);
  int byte_levels = 0;
  for (size_t i = 0; i < splitters_.size(); ++i) {
    byte_level_ = dynamic_cast<const ByteLevel*>(splitters_[i].get()) != nullptr;
    byte_levels += byte_level_;
    const auto* metaspace = dynamic_cast<const Metaspace*>(splitters_[i].get());
    if (metaspace && metaspace->only_at_start()) {
      asks_for_start_ = true;
      if (i > 0) {
        refuse_unsupported(
            "{}: \"prepend_scheme\" is \"first\" behind another component; supported is Metaspace as the "
            "first of them, or another scheme",
            where);
      }
    }
  }
  if (byte_levels > 1 || (byte_levels == 1 && !byte_level_)) {
    refuse_unsupported(
        "{}: {} components, ByteLevel among them {} times{}; supported is one ByteLevel, as the last component", where,
        splitters_.size(), byte_levels, byte_levels == 1 ? " but not last" : "");
  }
}

Pieces PreTokenizer::split(std::string_view text, bool at_start) const {
  Pieces pieces;
  if (text.empty()) return pieces;
  pieces.views.push_back(text);
  for (const auto& splitter : splitters_) {
    std::vector<std::string_view> before;
    before.swap(pieces.views);
    for (const std::string_view piece : before) splitter->split(piece, at_start, pieces);
  }
  return pieces;
}

}  // namespace quantbench
