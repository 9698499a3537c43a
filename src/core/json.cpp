#include "core/json.h"

#include <utility>
#include <vector>

#include "core/error.h"
#include "core/git_lfs.h"
#include "core/os.h"

namespace quantbench {
namespace {

using nlohmann::json;

// What a message shows of a text that may be of any length.
std::string shown(const std::string& text) {
  constexpr size_t kShownBytes = 300;
  return text.size() > kShownBytes ? text.substr(0, kShownBytes) + "…" : text;
}

// Builds the document from nlohmann's events and checks what it does not: depth and duplicate keys.
class StrictBuilder {
 public:
  StrictBuilder(json& root, const std::string& where, int max_depth)
      : root_(root), where_(where), max_depth_(static_cast<size_t>(max_depth)) {}

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(json::number_integer_t value) { return put(value); }
  bool number_unsigned(json::number_unsigned_t value) { return put(value); }
  bool number_float(json::number_float_t value, const std::string&) { return put(value); }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(json::binary_t& value) { return put(std::move(value)); }
  bool start_object(std::size_t) { return open(json::value_t::object); }
  bool start_array(std::size_t) { return open(json::value_t::array); }
  bool key(std::string& name) {
    const auto [member, is_new] = open_.back()->get_ref<json::object_t&>().emplace(std::move(name), nullptr);
    if (!is_new) {
      fail(ErrorKind::bad_model, "{}: the key \"{}\" appears twice in one object; the file is damaged or hostile",
           where_, shown(member->first));
    }
    member_ = &member->second;
    return true;
  }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool parse_error(std::size_t position, const std::string& last_token, const nlohmann::detail::exception& cause) {
    std::string reason = cause.what();
    if (const size_t at = reason.find("] "); at != std::string::npos) reason = reason.substr(at + 2);
    (void)last_token;
    fail(ErrorKind::bad_model, "{}: not valid JSON at byte {}: {}; is the file complete?", where_, position,
         shown(reason));
  }

 private:
  template <typename Value>
  bool put(Value&& value) {
    place() = json(std::forward<Value>(value));
    return true;
  }
  // Of the next value. It stays where it is while it is open, since nothing is put beside it before that.
  json& place() {
    if (open_.empty()) return root_;
    if (open_.back()->is_object()) return *member_;
    return open_.back()->get_ref<json::array_t&>().emplace_back(nullptr);
  }
  bool open(json::value_t type) {
    if (open_.size() >= max_depth_) {
      fail(ErrorKind::bad_model, "{}: JSON nested deeper than {} levels; such a file is refused", where_, max_depth_);
    }
    json& container = place();
    container = json(type);
    open_.push_back(&container);
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  json& root_;
  const std::string& where_;
  size_t max_depth_;
  std::vector<json*> open_;  // from the outermost
  json* member_ = nullptr;   // whose key was read last
};

}  // namespace

json parse_json(std::string_view text, const std::string& where, JsonLimits limits) {
  if (static_cast<int64_t>(text.size()) > limits.bytes) {
    fail(ErrorKind::bad_model, "{}: {} bytes of JSON, at most {} are accepted", where, text.size(), limits.bytes);
  }
  json root;
  StrictBuilder builder(root, where, limits.depth);
  json::sax_parse(text.begin(), text.end(), &builder);
  return root;
}

bool nests_deeper(std::string_view text, int levels) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > levels) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

json read_json_file(const std::string& path, JsonLimits limits) {
  const std::string text = os::read_file(path, limits.bytes);
  refuse_lfs_pointer(text, path);
  return parse_json(text, path, limits);
}

}  // namespace quantbench
