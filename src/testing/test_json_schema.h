// For tests: checks a JSON value against a schema.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace quantbench {

// The part of JSON Schema that docs/record.schema.json uses; any other keyword is reported, so that nothing in the
// schema goes unchecked.
class JsonSchema {
 public:
  explicit JsonSchema(nlohmann::json root) : root_(std::move(root)) {}
  std::vector<std::string> check(const nlohmann::json& value) {
    problems_.clear();
    check(value, root_, "$");
    return problems_;
  }

 private:
  static bool has_type(const nlohmann::json& v, const std::string& type) {
    if (type == "object") return v.is_object();
    if (type == "array") return v.is_array();
    if (type == "string") return v.is_string();
    if (type == "integer") return v.is_number_integer();
    if (type == "number") return v.is_number();
    if (type == "boolean") return v.is_boolean();
    return type == "null" && v.is_null();
  }
  void problem(const std::string& at, const std::string& what) { problems_.push_back(at + ": " + what); }

  void check(const nlohmann::json& v, const nlohmann::json& schema, const std::string& at) {
    for (const auto& [key, rule] : schema.items()) {
      if (key == "$schema" || key == "title" || key == "description" || key == "$defs") continue;
      if (key == "$ref") {
        check(v, root_.at("$defs").at(rule.get<std::string>().substr(std::string("#/$defs/").size())), at);
      } else if (key == "type") {
        bool fits = false;
        for (const nlohmann::json& type : rule.is_array() ? rule : nlohmann::json::array({rule}))
          fits |= has_type(v, type);
        if (!fits) problem(at, "is " + v.dump().substr(0, 40) + ", wanted " + rule.dump());
      } else if (key == "const") {
        if (v != rule) problem(at, "is not " + rule.dump());
      } else if (key == "enum") {
        if (std::find(rule.begin(), rule.end(), v) == rule.end())
          problem(at, v.dump() + " is not one of " + rule.dump());
      } else if (key == "minimum") {
        if (v.is_number() && v < rule) problem(at, v.dump() + " is below " + rule.dump());
      } else if (key == "required") {
        for (const nlohmann::json& name : rule) {
          if (v.is_object() && !v.contains(name.get<std::string>())) problem(at, "lacks " + name.dump());
        }
      } else if (key == "properties") {
        for (const auto& [name, part] : rule.items()) {
          if (v.is_object() && v.contains(name)) check(v.at(name), part, at + "." + name);
        }
        // Stricter than JSON Schema: our own records hold nothing that the schema does not describe.
        if (v.is_object() && !schema.contains("additionalProperties") &&
            schema.value("required", nlohmann::json()).size() > 3) {
          for (const auto& [name, part] : v.items()) {
            if (!rule.contains(name) && !is_required(schema, name)) problem(at, "has the undescribed field " + name);
          }
        }
      } else if (key == "additionalProperties") {
        for (const auto& [name, part] : v.items()) {
          if (!schema.value("properties", nlohmann::json::object()).contains(name)) check(part, rule, at + "." + name);
        }
      } else if (key == "items") {
        if (!v.is_array()) continue;
        for (size_t i = 0; i < v.size(); ++i) check(v[i], rule, at + "[" + std::to_string(i) + "]");
      } else if (key == "anyOf") {
        bool fits = false;
        for (const nlohmann::json& choice : rule) {
          JsonSchema one(root_);
          one.check(v, choice, at);
          fits |= one.problems_.empty();
        }
        if (!fits) problem(at, "fits none of the choices");
      } else {
        problem(at, "the schema uses \"" + key + "\", which this test does not know");
      }
    }
  }
  static bool is_required(const nlohmann::json& schema, const std::string& name) {
    const nlohmann::json required = schema.value("required", nlohmann::json::array());
    return std::find(required.begin(), required.end(), name) != required.end();
  }

  nlohmann::json root_;
  std::vector<std::string> problems_;
};

}  // namespace quantbench
