#include "core/cache_file.h"

#include <algorithm>

#include "core/error.h"
#include "core/os.h"

namespace quantbench {
namespace {

using nlohmann::json;

constexpr JsonLimits kLimits{.depth = 8, .bytes = CacheFile::kMostBytes};

bool is_known(const json& key) {
  return std::all_of(key.begin(), key.end(), [](const json& part) { return part != ""; });
}

bool has(const json& entry, const json& key) {
  for (const auto& [name, part] : key.items()) {
    const auto found = entry.find(name);
    if (found == entry.end() || *found != part) return false;
  }
  return true;
}

}  // namespace

std::optional<std::string> CacheFile::path_of(const std::string& name) {
  const auto folder = os::cache_folder();
  if (!folder) return std::nullopt;
  return *folder + "/quantbench/" + name;
}

// Empty where the file cannot be read, or is no such file.
std::vector<json> CacheFile::read() const {
  try {
    json file = read_json_file(*path_, kLimits);
    if (file.at("version") != version_) return {};
    auto entries = file.at("choices").get<std::vector<json>>();
    std::erase_if(entries, [](const json& entry) { return !entry.is_object(); });
    return entries;
  } catch (const Error&) {
    return {};
  } catch (const json::exception&) {
    return {};
  }
}

std::vector<json> CacheFile::find(const json& key) const {
  if (!path_ || !is_known(key)) return {};
  std::vector<json> entries = read();
  std::erase_if(entries, [&](const json& entry) { return !has(entry, key); });
  return entries;
}

void CacheFile::keep(std::span<const Entry> entries) const {
  std::vector<json> all;
  for (const Entry& entry : entries) {
    if (!path_ || !is_known(entry.key)) continue;
    if (all.empty()) all = read();
    std::erase_if(all, [&](const json& old) { return has(old, entry.key); });
    all.push_back(entry.key);
    all.back().update(entry.value);
  }
  if (all.empty()) return;
  if (all.size() > most_) all.erase(all.begin(), all.end() - static_cast<std::ptrdiff_t>(most_));
  try {
    os::make_directories(path_->substr(0, path_->rfind('/')));
    os::write_file_atomically(
        *path_,
        json{{"version", version_}, {"choices", all}}.dump(1, ' ', false, json::error_handler_t::replace) + "\n");
  } catch (const Error&) {
    // It is found out again.
  }
}

}  // namespace quantbench
