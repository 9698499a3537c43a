#include "core/json.h"

#include <set>
#include <vector>

#include "core/error.h"
#include "core/git_lfs.h"
#include "core/os.h"

namespace quantbench {
namespace {

using nlohmann::json;

// Passes events on to nlohmann's DOM builder after checking what it does not: depth and duplicate keys.
class StrictBuilder : public nlohmann::detail::json_sax_dom_parser<json> {
  using Base = nlohmann::detail::json_sax_dom_parser<json>;

 public:
  StrictBuilder(json& result, const std::string& where, int max_depth)
      : Base(result, false), where_(where), max_depth_(max_depth) {}

  bool start_object(std::size_t count) {
    enter();
    keys_.emplace_back();
    return Base::start_object(count);
  }
  bool key(std::string& name) {
    if (!keys_.back().insert(name).second) {
      fail(ErrorKind::bad_model, "{}: the key \"{}\" appears twice in one object; the file is damaged or hostile",
           where_, name);
    }
    return Base::key(name);
  }
  bool end_object() {
    keys_.pop_back();
    --depth_;
    return Base::end_object();
  }
  bool start_array(std::size_t count) {
    enter();
    return Base::start_array(count);
  }
  bool end_array() {
    --depth_;
    return Base::end_array();
  }
  bool parse_error(std::size_t position, const std::string& last_token, const nlohmann::detail::exception& cause) {
    std::string reason = cause.what();
    if (const size_t at = reason.find("] "); at != std::string::npos) reason = reason.substr(at + 2);
    (void)last_token;
    fail(ErrorKind::bad_model, "{}: not valid JSON at byte {}: {}; is the file complete?", where_, position, reason);
  }

 private:
  void enter() {
    if (++depth_ > max_depth_) {
      fail(ErrorKind::bad_model, "{}: JSON nested deeper than {} levels; such a file is refused", where_, max_depth_);
    }
  }
  const std::string& where_;
  int max_depth_, depth_ = 0;
  std::vector<std::set<std::string>> keys_;
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
