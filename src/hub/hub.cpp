#include "hub/hub.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/os.h"
#include "hub/download.h"

namespace quantbench {
namespace {

constexpr int64_t kMaxRefBytes = 4096;
constexpr const char* kConfig = "config.json";
constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kTokenizers[] = {"tokenizer.json", "spiece.model", "tokenizer.model"};
constexpr const char* kBeside[] = {"generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
                                   "added_tokens.json", "preprocessor_config.json"};

// What a folder is called in tables: as it was given, but "models/x" for "models/x/", and its whole path for ".".
std::string folder_name(const std::string& folder) {
  const size_t last = folder.find_last_not_of('/');
  const std::string name = folder.substr(0, last == std::string::npos ? 1 : last + 1);
  const std::string end = name.substr(name.rfind('/') + 1);
  return end == "." || end == ".." ? os::real_path(folder) : name;
}

bool looks_like_path(std::string_view text) {
  return text.starts_with('/') || text.starts_with('.') || text.starts_with('~') || text.ends_with('/');
}

// Names of the entries of a folder, none if it is not there.
std::vector<std::string> entries(const std::string& folder) {
  return os::is_directory(folder) ? os::list_directory(folder) : std::vector<std::string>();
}

std::string or_none(std::vector<std::string> names) {
  constexpr size_t kShown = 20;
  if (names.empty()) return "none";
  const size_t more = names.size() > kShown ? names.size() - kShown : 0;
  names.resize(names.size() - more);
  return fmt::format("{}{}", fmt::join(names, ", "), more > 0 ? fmt::format(" and {} more", more) : "");
}

// The commit that `revision` names in the cached repository, or an Error that lists what there is.
std::string commit_of(const HubPaths& paths, const HubName& name, const std::string& model) {
  if (is_commit(name.revision)) return name.revision;
  const std::string ref = paths.ref(name.revision);
  const auto status = os::status(ref);
  if (!status || !status->is_regular) {
    fail(ErrorKind::hub,
         "the Hugging Face cache has '{}', but not its revision '{}' (no file {}); cached revisions: {}; "
         "cached commits: {}; name one of them as {}@…, or get it with: quantbench pull {}",
         name.id, name.revision, ref, or_none(entries(paths.repository + "/refs")),
         or_none(entries(paths.repository + "/snapshots")), name.id, model);
  }
  std::string commit = os::read_file(ref, kMaxRefBytes);
  while (!commit.empty() && (commit.back() == '\n' || commit.back() == ' ')) commit.pop_back();
  if (!is_commit(commit)) {
    fail(ErrorKind::hub,
         "{}: expected a commit of 40 hex digits, found '{}'; the cache is damaged, get the model again "
         "with: quantbench pull {}",
         ref, commit.substr(0, 60), model);
  }
  return commit;
}

// A folder that `model` names, else nothing; Error hub for what can only be meant as a path.
std::optional<ResolvedModel> as_folder(const std::string& name) {
  const std::string model = os::is_directory(name) ? name : os::expand_home(name);
  if (os::is_directory(model)) return ResolvedModel{model, folder_name(model), ""};
  if (os::exists(model)) {
    fail(ErrorKind::hub,
         "'{}' is a file; give the folder of a model (config.json, model.safetensors, tokenizer.json) or "
         "a name on the Hub like org/name",
         model);
  }
  if (looks_like_path(model)) {
    fail(ErrorKind::hub, "there is no folder '{}'; check the path, or give a name on the Hub like org/name", model);
  }
  return std::nullopt;
}

ResolvedModel resolve_in_cache(const std::string& cache, const HubName& name, const std::string& model) {
  const HubPaths paths(cache, name.id);
  if (!os::is_directory(paths.repository)) {
    fail(ErrorKind::hub,
         "model '{}' was not found: there is no folder '{}' here, and no '{}' in the Hugging Face cache {} "
         "(HF_HUB_CACHE or HF_HOME names another); get it with: quantbench pull {} (for a gated model accept its "
         "licence "
         "and set HF_TOKEN first)",
         model, model, paths.name, cache, model);
  }
  const std::string commit = commit_of(paths, name, model), folder = paths.snapshot(commit);
  if (!os::is_directory(folder)) {
    fail(ErrorKind::hub,
         "the Hugging Face cache names commit {} of '{}', but {} is not there; cached commits: {}; get it "
         "with: quantbench pull {}",
         commit, model, folder, or_none(entries(paths.repository + "/snapshots")), model);
  }
  return {folder, model, commit};
}

// The shards that an index names. Error bad_model for what is no index.
std::set<std::string> shards_of(const std::string& index_path) {
  const nlohmann::json index = read_json_file(index_path);
  std::set<std::string> shards;
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  const bool is_map = map != index.end() && map->is_object();
  if (is_map) {
    for (const auto& [tensor, file] : map->items()) shards.insert(file.is_string() ? file.get<std::string>() : "");
  }
  const bool is_fine = !shards.empty() && std::all_of(shards.begin(), shards.end(), [](const std::string& shard) {
    return is_plain_path(shard) && shard.find('/') == shard.npos;
  });
  if (!is_fine) {
    fail(ErrorKind::bad_model,
         "{}: expected an object 'weight_map' from tensors to plain names of files beside it; such an index is refused",
         index_path);
  }
  return shards;
}

bool has_file(const std::string& folder, const std::string& name) {
  const auto found = os::status(folder + "/" + name);  // a link that leads nowhere does not count
  return found && found->is_regular;
}

// Whether a cached snapshot has all that a run needs.
bool is_complete(const std::string& folder, const HubNeeds& needs) {
  if (!has_file(folder, kConfig)) return false;
  if (!needs.weights) return true;
  const bool has_tokenizer = std::any_of(std::begin(kTokenizers), std::end(kTokenizers),
                                         [&](const char* name) { return has_file(folder, name); });
  if (needs.tokenizer && !has_tokenizer) return false;
  if (has_file(folder, kSingle)) return true;
  if (!has_file(folder, kIndex)) return false;
  try {
    const std::set<std::string> shards = shards_of(folder + "/" + kIndex);
    return std::all_of(shards.begin(), shards.end(), [&](const std::string& shard) { return has_file(folder, shard); });
  } catch (const Error&) {
    return false;
  }
}

const HubFile* find_file(const std::vector<HubFile>& files, const std::string& name) {
  const auto found = std::find_if(files.begin(), files.end(), [&](const HubFile& file) { return file.name == name; });
  return found == files.end() ? nullptr : &*found;
}

PulledModel download(const std::string& model, const HubName& name, const HubNeeds& needs, const HubSettings& settings,
                     int retries, HubListener& listener) {
  const auto http = Http::open();
  HubApi api(settings, *http, listener);
  const HubListing listing = api.list(name.id, name.revision, retries);
  std::vector<HubFile> files = needed_files(name.id, listing.files, needs);
  const HubPaths paths(settings.cache, name.id);
  const std::string snapshot = paths.snapshot(listing.commit);
  Downloader downloader(settings, api, listener, name.id, listing.commit);
  os::make_directories(paths.repository);
  if (const auto index = std::find_if(files.begin(), files.end(), [](const HubFile& f) { return f.name == kIndex; });
      index != files.end()) {
    require_space(settings.cache, downloader.missing_bytes({*index}), name.id);
    downloader.fetch(*index);
    for (const std::string& shard : shards_of(snapshot + "/" + kIndex)) {
      const HubFile* const listed = find_file(listing.files, shard);
      if (!listed) {
        fail(ErrorKind::bad_model,
             "'{}': its index names the shard {}, which the repository does not have; choose "
             "another revision",
             name.id, shard);
      }
      files.push_back(*listed);
    }
  }
  const int64_t missing = downloader.missing_bytes(files);
  require_space(settings.cache, missing, name.id);
  if (missing > 0) listener.begin(model, files.size(), missing);
  PulledModel pulled{.model = {snapshot, model, listing.commit}, .files = files.size()};
  downloader.expect(files);
  for (const HubFile& file : files) {
    downloader.fetch(file);
    const auto found = os::status(snapshot + "/" + file.name);
    pulled.bytes += found ? found->bytes : 0;
  }
  pulled.received_bytes = downloader.received_bytes();
  // Last, so that a revision that the cache names has its files.
  if (name.revision != listing.commit) {
    const std::string ref = paths.ref(name.revision);
    os::make_directories(ref.substr(0, ref.rfind('/')));
    os::write_file_atomically(ref, listing.commit);
  }
  return pulled;
}

class DiscreetListener final : public HubListener {
 public:
  DiscreetListener(HubListener& to, const std::string& token) : to_(to), token_(token) {}
  void begin(const std::string& model, size_t files, int64_t missing_bytes) override {
    to_.begin(model, files, missing_bytes);
  }
  void progress(const DownloadState& state) override { to_.progress(state); }
  void waiting(const std::string& why) override { to_.waiting(without_token(why, token_)); }
  void line(const std::string& text) override { to_.line(without_token(text, token_)); }

 private:
  HubListener& to_;
  const std::string& token_;
};

// cached: what to fall back on.
PulledModel download_or(const std::optional<ResolvedModel>& cached, const std::string& model, const HubName& name,
                        const HubNeeds& needs, HubListener& to, int64_t first_wait_ns) {
  HubSettings settings = HubSettings::read();
  settings.first_wait_ns = first_wait_ns;
  DiscreetListener listener(to, settings.token);
  try {
    return download(model, name, needs, settings, cached ? 0 : kHubRetries, listener);
  } catch (const Error& error) {
    const std::string text = without_token(error.what(), settings.token);
    const bool is_ours = error.kind() != ErrorKind::hub && error.kind() != ErrorKind::disk;  // or a cache to read only
    if (is_ours || !cached) throw Error(error.kind(), text);
    listener.line(
        fmt::format("warning: {}; going on with commit {} of '{}' in the cache", text, cached->commit, name.id));
    return {.model = *cached, .is_current = false};
  }
}

}  // namespace

std::vector<HubFile> needed_files(const std::string& id, const std::vector<HubFile>& all, const HubNeeds& needs) {
  const HubFile* const config = find_file(all, kConfig);
  if (!config) {
    fail(ErrorKind::bad_model,
         "'{}' has no {} on the Hub, so it is no model in the layout of transformers; choose another", id, kConfig);
  }
  std::vector<HubFile> files{*config};
  if (!needs.weights) return files;
  const auto add = [&](const char* name) {
    const HubFile* const file = find_file(all, name);
    if (file) files.push_back(*file);
    return file != nullptr;
  };
  for (const char* name : kTokenizers) add(name);
  for (const char* name : kBeside) add(name);
  if (add(kSingle) || add(kIndex)) return files;
  std::vector<std::string> others;
  for (const HubFile& file : all) {
    for (const char* end : {".bin", ".pth", ".pt", ".gguf", ".safetensors"}) {
      if (file.name.ends_with(end)) others.push_back(file.name);
    }
  }
  fail(ErrorKind::bad_model,
       "'{}' has neither {} nor {} on the Hub (weights there: {}), and nothing else is read: PyTorch's pickle can run "
       "code when loaded; choose another repository or revision of the model, or get it by 'hf download {} --local-dir "
       "FOLDER' and give FOLDER, which is answered with the command that converts it",
       id, kSingle, kIndex, or_none(others), id);
}

ResolvedModel resolve_model(const std::string& name) {
  if (auto folder = as_folder(name)) return *folder;
  return resolve_in_cache(hub_cache_folder(), parse_hub_name(name), name);
}

ResolvedModel obtain_model(const std::string& model, const HubNeeds& needs, const std::string& offline,
                           HubListener& listener, int64_t first_wait_ns) {
  if (auto folder = as_folder(model)) return *folder;
  const HubName name = parse_hub_name(model);
  std::string why_not = offline.empty() ? offline_reason() : offline;
  std::optional<ResolvedModel> cached;
  try {
    cached = resolve_in_cache(hub_cache_folder(), name, model);
    if (!why_not.empty() || is_complete(cached->folder, needs)) return *cached;
    if (!has_file(cached->folder, kConfig)) cached.reset();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::hub) throw;
    if (!why_not.empty()) fail(ErrorKind::hub, "{}; nothing is downloaded now: {}", error.what(), why_not);
  }
  return download_or(cached, model, name, needs, listener, first_wait_ns).model;
}

PulledModel pull_model(const std::string& model, HubListener& listener, int64_t first_wait_ns) {
  const HubName name = parse_hub_name(model);
  if (const std::string why_not = offline_reason(); !why_not.empty()) {
    fail(ErrorKind::hub, "'{}' is not pulled, since {}; unset it", model, why_not);
  }
  std::optional<ResolvedModel> cached;
  try {
    cached = resolve_in_cache(hub_cache_folder(), name, model);
    if (!is_complete(cached->folder, {})) cached.reset();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::hub) throw;
  }
  return download_or(cached, model, name, {}, listener, first_wait_ns);
}

}  // namespace quantbench
