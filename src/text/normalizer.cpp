#include "text/normalizer.h"

#include "text/charsmap.h"
#include "text/graphemes.h"
#include "text/json_fields.h"
#include "text/pattern.h"
#include "text/refusal.h"
#include "text/utf8.h"
#include "text/white_space.h"

namespace quantbench {
namespace {

// Bounds what a file can make of each character of a text, and of a whole text.
constexpr size_t kMaxContentBytes = 1024;
// Of the text that a normalizer makes: so many times as long, and so much more. NFKC makes at most 13 of one.
constexpr size_t kMaxGrowth = 32, kMaxGrowthBytes = 1 << 16;

std::string content_of(const nlohmann::json& component, const char* key, const std::string& where) {
  const std::string& content = require_string(component, key, where);
  if (content.size() > kMaxContentBytes) {
    refuse_damaged("{}: \"{}\" has {} bytes, expected at most {}", where, key, content.size(), kMaxContentBytes);
  }
  return content;
}

// Hugging Face's own way of applying a charsmap (tokenizers, normalizers/precompiled.rs): a cluster of fewer than 6
// bytes is replaced whole where a key begins it, even one that is only its beginning; other clusters character by
// character.
class Precompiled final : public Normalizer::Step {
 public:
  Precompiled(const nlohmann::json& component, const std::string& where)
      : charsmap_(decode_base64(require_string(component, "precompiled_charsmap", where), where), where) {}

  std::string apply(std::string_view text) const override {
    constexpr size_t kTooLong = 6;
    std::string out;
    out.reserve(text.size());
    while (!text.empty()) {
      std::string_view cluster = text.substr(0, grapheme_bytes(text));
      text.remove_prefix(cluster.size());
      if (cluster.size() < kTooLong) {
        if (const auto replacement = charsmap_.shortest(cluster)) {
          out += *replacement;
          continue;
        }
      }
      while (!cluster.empty()) {
        const std::string_view character = cluster.substr(0, utf8::step(cluster).bytes);
        cluster.remove_prefix(character.size());
        out += charsmap_.shortest(character).value_or(character);
      }
    }
    return out;
  }

 private:
  Charsmap charsmap_;
};

class Replace final : public Normalizer::Step {
 public:
  Replace(const nlohmann::json& component, const std::string& where)
      : pattern_(component, where), content_(content_of(component, "content", where)) {}
  std::string apply(std::string_view text) const override { return replace(text, pattern_, content_); }

 private:
  Pattern pattern_;
  std::string content_;
};

class Prepend final : public Normalizer::Step {
 public:
  Prepend(const nlohmann::json& component, const std::string& where)
      : prefix_(content_of(component, "prepend", where)) {}
  std::string apply(std::string_view text) const override {
    return text.empty() ? std::string() : prefix_ + std::string(text);
  }

 private:
  std::string prefix_;
};

class Strip final : public Normalizer::Step {
 public:
  Strip(const nlohmann::json& component, const std::string& where)
      : left_(bool_or(component, "strip_left", true, where)), right_(bool_or(component, "strip_right", true, where)) {}
  std::string apply(std::string_view text) const override {
    if (right_) text = text.substr(0, trailing_space(text));
    if (left_) text.remove_prefix(leading_space(text));
    return std::string(text);
  }

 private:
  bool left_, right_;
};

void read_steps(const nlohmann::json& component, const std::string& where, int depth,
                std::vector<std::unique_ptr<Normalizer::Step>>& steps) {
  const std::string& type = require_string(component, "type", where);
  constexpr int kMaxDepth = 8;
  if (type == "Precompiled") {
    steps.push_back(std::make_unique<Precompiled>(component, where));
  } else if (type == "Replace") {
    steps.push_back(std::make_unique<Replace>(component, where));
  } else if (type == "Prepend") {
    steps.push_back(std::make_unique<Prepend>(component, where));
  } else if (type == "Strip") {
    steps.push_back(std::make_unique<Strip>(component, where));
  } else if (type == "Sequence" && depth < kMaxDepth) {
    int i = 0;
    for (const nlohmann::json& inner : require_list(component, "normalizers", where)) {
      read_steps(inner, fmt::format("{}.normalizers[{}]", where, i++), depth + 1, steps);
    }
  } else {
    refuse_unsupported("{}: unknown normalizer \"{}\"; supported are Precompiled, Replace, Prepend, Strip and Sequence",
                       where, type);
  }
}

}  // namespace

Normalizer::Normalizer(const nlohmann::json& component, const std::string& where) {
  if (!component.is_null()) read_steps(component, where, 0, steps_);
}

std::string Normalizer::apply(std::string_view text) const {
  const size_t most = text.size() * kMaxGrowth + kMaxGrowthBytes;
  std::string out(text);
  for (const auto& step : steps_) {
    out = step->apply(out);
    if (out.size() > most) {
      fail(
          ErrorKind::bad_model,
          "the tokenizer's normalizer makes more than {} bytes of a text of {}; no tokenizer does that: choose another "
          "model",
          most, text.size());
    }
  }
  return out;
}

}  // namespace quantbench
