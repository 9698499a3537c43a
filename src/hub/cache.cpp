#include "hub/cache.h"

#include <algorithm>

#include "core/error.h"
#include "core/os.h"
#include "hub/settings.h"

namespace quantbench {
namespace {

constexpr const char* kDefaultRevision = "main";
constexpr size_t kMostIdCharacters = 96, kMostPathBytes = 255;

[[noreturn]] void fail_without_home() {
  fail(ErrorKind::hub,
       "cannot tell where the Hugging Face cache is: HOME is not set; set HF_HOME or HF_HUB_CACHE, or "
       "give the model's folder");
}

}  // namespace

std::string expanded_path(const std::string& path) {
  if ((path == "~" || path.starts_with("~/")) && !variable("HOME")) fail_without_home();
  return os::expand_home(path);
}

std::string hub_home_folder() {
  if (const auto home = variable("HF_HOME")) return expanded_path(*home);
  const auto caches = os::cache_folder();
  if (!caches) fail_without_home();
  return *caches + "/huggingface";
}

std::string hub_cache_folder() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const auto cache = variable(name)) return expanded_path(*cache);
  }
  return hub_home_folder() + "/hub";
}

bool is_repo_id(std::string_view text) {
  const auto is_allowed = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.' || c == '/';
  };
  return !text.empty() && text.size() <= kMostIdCharacters && std::all_of(text.begin(), text.end(), is_allowed) &&
         std::count(text.begin(), text.end(), '/') <= 1 && !text.starts_with('/') && !text.ends_with('/') &&
         text.find("--") == std::string_view::npos && text.find("..") == std::string_view::npos &&
         !text.ends_with(".git");
}

bool is_commit(std::string_view text) {
  return text.size() == 40 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool is_plain_path(std::string_view path) {
  if (path.empty() || path.size() > kMostPathBytes) return false;
  for (const char c : path) {
    if (c == '\\' || static_cast<unsigned char>(c) < ' ' || c == '\x7f') return false;
  }
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

HubName parse_hub_name(const std::string& model) {
  const size_t at = model.find('@');
  HubName name{model.substr(0, at), at == std::string::npos ? kDefaultRevision : model.substr(at + 1)};
  if (!is_repo_id(name.id) || !is_plain_path(name.revision)) {
    fail(ErrorKind::hub,
         "'{}' is neither a folder nor a name on the Hub; expected a path, or org/name[@revision] with at "
         "most {} letters, digits, '-', '_' and '.'",
         model, kMostIdCharacters);
  }
  return name;
}

HubPaths::HubPaths(const std::string& cache, const std::string& id) : name("models--" + id) {
  if (const size_t slash = name.find('/'); slash != std::string::npos) name.replace(slash, 1, "--");
  repository = cache + "/" + name;
  locks = cache + "/.locks/" + name;
}

}  // namespace quantbench
