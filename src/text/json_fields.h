// Fields of a JSON object that came from outside: each with its kind checked, each refusal naming the field.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "text/refusal.h"

namespace quantbench {

inline const nlohmann::json& require(const nlohmann::json& object, const char* key, const std::string& where) {
  if (!object.is_object()) refuse_damaged("{}: expected an object, found {}", where, object.type_name());
  const auto field = object.find(key);
  if (field == object.end()) refuse_damaged("{}: \"{}\" is missing", where, key);
  return *field;
}

inline const nlohmann::json& require_list(const nlohmann::json& object, const char* key, const std::string& where) {
  const nlohmann::json& list = require(object, key, where);
  if (!list.is_array()) {
    refuse_damaged("{}: \"{}\" should be a list, found {}", where, key, list.type_name());
  }
  return list;
}

inline const std::string& require_string(const nlohmann::json& object, const char* key, const std::string& where) {
  const nlohmann::json& text = require(object, key, where);
  if (!text.is_string()) {
    refuse_damaged("{}: \"{}\" should be a string, found {}", where, key, text.type_name());
  }
  return text.get_ref<const std::string&>();
}

inline bool bool_or(const nlohmann::json& object, const char* key, bool otherwise, const std::string& where) {
  const auto field = object.find(key);
  if (field == object.end() || field->is_null()) return otherwise;
  if (!field->is_boolean()) {
    refuse_damaged("{}: \"{}\" should be true or false, found {}", where, key, field->type_name());
  }
  return field->get<bool>();
}

}  // namespace quantbench
