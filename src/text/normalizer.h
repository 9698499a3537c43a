// What a text is made into before it is cut and encoded: tokenizer.json's "normalizer".
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace quantbench {

class Normalizer {
 public:
  // One component: Precompiled, Replace, Prepend, Strip. Text is valid UTF-8 before and after it.
  class Step {
   public:
    virtual ~Step() = default;
    virtual std::string apply(std::string_view text) const = 0;
  };

  // component: one of these, a Sequence of them, or null. Anything else is an Error that names it and `where`.
  Normalizer(const nlohmann::json& component, const std::string& where);

  bool changes_nothing() const { return steps_.empty(); }
  std::string apply(std::string_view text) const;

 private:
  std::vector<std::unique_ptr<Step>> steps_;
};

}  // namespace quantbench
