#include "hub/hub.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/os.h"

namespace quantbench {
namespace {

constexpr const char* kDefaultRevision = "main";
constexpr int64_t kMaxRefBytes = 4096;

std::optional<std::string> variable(const char* name) {
  auto value = os::environment(name);
  if (value && value->empty()) return std::nullopt;
  return value;
}

[[noreturn]] void fail_without_home() {
  fail(ErrorKind::hub,
       "cannot tell where the Hugging Face cache is: HOME is not set; set HF_HOME or HF_HUB_CACHE, or "
       "give the model's folder");
}

// As Python expands it.
std::string expanded(const std::string& path) {
  if ((path == "~" || path.starts_with("~/")) && !variable("HOME")) fail_without_home();
  return os::expand_home(path);
}

// What a folder is called in tables: as it was given, but "models/x" for "models/x/", and its whole path for ".".
std::string folder_name(const std::string& folder) {
  const size_t last = folder.find_last_not_of('/');
  const std::string name = folder.substr(0, last == std::string::npos ? 1 : last + 1);
  const std::string end = name.substr(name.rfind('/') + 1);
  return end == "." || end == ".." ? os::real_path(folder) : name;
}

bool is_commit(std::string_view text) {
  return text.size() == 40 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// A branch or tag, which may contain '/', as the path of a file below refs/.
bool is_safe_revision(std::string_view revision) {
  if (revision.empty() || revision.size() > 255 || revision.find('\0') != std::string_view::npos) return false;
  for (size_t begin = 0; begin <= revision.size();) {
    const size_t end = std::min(revision.find('/', begin), revision.size());
    const std::string_view part = revision.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

bool looks_like_path(std::string_view text) {
  return text.starts_with('/') || text.starts_with('.') || text.starts_with('~') || text.ends_with('/');
}

std::string download_command(const std::string& id, const std::string& revision) {
  return fmt::format("hf download {}{}{} --include '*.json' '*.safetensors'", id,
                     revision == kDefaultRevision ? "" : " --revision ", revision == kDefaultRevision ? "" : revision);
}

// Names of the entries of a folder, none if it is not there.
std::vector<std::string> entries(const std::string& folder) {
  return os::is_directory(folder) ? os::list_directory(folder) : std::vector<std::string>();
}

std::string or_none(const std::vector<std::string>& names) {
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
}

// The commit that `revision` names in the cached repository, or an Error that lists what there is.
std::string commit_of(const std::string& repository, const std::string& id, const std::string& revision) {
  if (is_commit(revision)) return revision;
  const std::string ref = repository + "/refs/" + revision;
  const auto status = os::status(ref);
  if (!status || !status->is_regular) {
    fail(ErrorKind::hub,
         "the Hugging Face cache has '{}', but not its revision '{}' (no file {}); cached revisions: {}; "
         "cached commits: {}; name one of them as {}@…, or get it with: {}",
         id, revision, ref, or_none(entries(repository + "/refs")), or_none(entries(repository + "/snapshots")), id,
         download_command(id, revision));
  }
  std::string commit = os::read_file(ref, kMaxRefBytes);
  while (!commit.empty() && (commit.back() == '\n' || commit.back() == ' ')) commit.pop_back();
  if (!is_commit(commit)) {
    fail(ErrorKind::hub,
         "{}: expected a commit of 40 hex digits, found '{}'; the cache is damaged, get the model again "
         "with: {}",
         ref, commit.substr(0, 60), download_command(id, revision));
  }
  return commit;
}

}  // namespace

std::string hub_cache_folder() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const auto cache = variable(name)) return expanded(*cache);
  }
  if (const auto home = variable("HF_HOME")) return expanded(*home) + "/hub";
  const auto caches = os::cache_folder();
  if (!caches) fail_without_home();
  return *caches + "/huggingface/hub";
}

bool is_repo_id(std::string_view text) {
  const auto is_allowed = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.' || c == '/';
  };
  return !text.empty() && text.size() <= 96 && std::all_of(text.begin(), text.end(), is_allowed) &&
         std::count(text.begin(), text.end(), '/') <= 1 && !text.starts_with('/') && !text.ends_with('/') &&
         text.find("--") == std::string_view::npos && text.find("..") == std::string_view::npos &&
         !text.ends_with(".git");
}

ResolvedModel resolve_model(const std::string& name) {
  const std::string model = os::is_directory(name) ? name : os::expand_home(name);
  if (os::is_directory(model)) return {model, folder_name(model), ""};
  if (os::exists(model)) {
    fail(ErrorKind::hub,
         "'{}' is a file; give the folder of a model (config.json, model.safetensors, tokenizer.json) or "
         "a name on the Hub like org/name",
         model);
  }
  if (looks_like_path(model)) {
    fail(ErrorKind::hub, "there is no folder '{}'; check the path, or give a name on the Hub like org/name", model);
  }
  const size_t at = model.find('@');
  const std::string id = model.substr(0, at);
  const std::string revision = at == std::string::npos ? kDefaultRevision : model.substr(at + 1);
  if (!is_repo_id(id) || !is_safe_revision(revision)) {
    fail(ErrorKind::hub,
         "'{}' is neither a folder nor a name on the Hub; expected a path, or org/name[@revision] with at "
         "most 96 letters, digits, '-', '_' and '.'",
         model);
  }

  std::string directory = "models--" + id;
  if (const size_t slash = directory.find('/'); slash != std::string::npos) directory.replace(slash, 1, "--");
  const std::string cache = hub_cache_folder(), repository = cache + "/" + directory;
  if (!os::is_directory(repository)) {
    fail(ErrorKind::hub,
         "model '{}' was not found: there is no folder '{}' here, and no '{}' in the Hugging Face cache {} "
         "(HF_HUB_CACHE or HF_HOME names another); get it with: {} (for a gated model accept its licence and log in "
         "first)",
         model, model, directory, cache, download_command(id, revision));
  }
  const std::string commit = commit_of(repository, id, revision);
  const std::string folder = repository + "/snapshots/" + commit;
  if (!os::is_directory(folder)) {
    fail(ErrorKind::hub,
         "the Hugging Face cache names commit {} of '{}', but {} is not there; cached commits: {}; get it "
         "with: {}",
         commit, model, folder, or_none(entries(repository + "/snapshots")), download_command(id, revision));
  }
  return {folder, model, commit};
}

}  // namespace quantbench
