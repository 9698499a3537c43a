// What a Split or Replace looks for: tokenizer.json's {"String": "…"} or {"Regex": "…"}.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "text/regex.h"

namespace quantbench {

struct Span {
  size_t begin, end;
  bool hit;  // a match of the pattern, rather than what lies between two
};

class Pattern {
 public:
  // component: the object that has the field "pattern".
  Pattern(const nlohmann::json& component, const std::string& where);
  // A regular expression of our own.
  Pattern(const char* regex, const std::string& where) { regex_.emplace(regex, where); }

  // Spans that cover text (valid UTF-8) without gaps; neighbours may both be hits, and a hit may be empty.
  std::vector<Span> spans(std::string_view text) const;

 private:
  std::optional<Regex> regex_;  // else needle_
  std::string needle_;
};

// text with every hit replaced; `content` stands for itself, as Hugging Face's Replace has it.
std::string replace(std::string_view text, const Pattern& pattern, const std::string& content);
std::string replace(std::string_view text, std::string_view needle, std::string_view content);

}  // namespace quantbench
