// The fields that the pre-tokenizer Metaspace and the decoder of that name have in common.
#pragma once

#include <string>

#include "text/json_fields.h"
#include "text/utf8.h"

namespace quantbench {

enum class MetaspacePrepend { always, first, never };

inline std::string metaspace_replacement(const nlohmann::json& component, const std::string& where) {
  const std::string& text = require_string(component, "replacement", where);
  if (text.empty() || static_cast<size_t>(utf8::step(text).bytes) != text.size()) {
    refuse_damaged("{}: \"replacement\" should be one character, found \"{}\"", where, text);
  }
  return text;
}

// "prepend_scheme", or "add_prefix_space" as files before 2024 have it; the latter may stand beside the former.
inline MetaspacePrepend metaspace_prepends(const nlohmann::json& component, const std::string& where) {
  const bool prefix = bool_or(component, "add_prefix_space", true, where);
  if (!component.contains("prepend_scheme")) return prefix ? MetaspacePrepend::always : MetaspacePrepend::never;
  const std::string& scheme = require_string(component, "prepend_scheme", where);
  if (scheme == "never") return MetaspacePrepend::never;
  if (scheme != "always" && scheme != "first") {
    refuse_unsupported("{}: unknown \"prepend_scheme\" \"{}\", expected always, first or never", where, scheme);
  }
  if (!prefix) {
    refuse_damaged("{}: \"add_prefix_space\" is false and \"prepend_scheme\" \"{}\"; they contradict each other", where,
                   scheme);
  }
  return scheme == "always" ? MetaspacePrepend::always : MetaspacePrepend::first;
}

}  // namespace quantbench
