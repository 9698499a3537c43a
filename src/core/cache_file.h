// A file of the user's in which programs keep what they found out and can find out again, under what it follows from.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"

namespace quantbench {

// The file may be missing, damaged, somebody else's or on a full disk: then nothing is found or kept, and that is never
// an error. Processes may write at the same time; what the last one has read and added stays.
class CacheFile {
 public:
  // A key is an object of strings. One of them empty: it is not known, and nothing is found or kept under such a key.
  struct Entry {
    nlohmann::json key, value;  // two objects without a name in common
  };
  static constexpr int64_t kMostBytes = 1 << 20;

  // path: nothing where there is no place for it. version: of what entries mean; a file of another is not read. most:
  // entries, of which the oldest go first; so few that they fit into kMostBytes.
  CacheFile(std::optional<std::string> path, int version, size_t most)
      : path_(std::move(path)), version_(version), most_(most) {}
  // The file of this name in quantbench/ of os::cache_folder().
  static std::optional<std::string> path_of(const std::string& name);

  // All that has these members among others, the newest last.
  std::vector<nlohmann::json> find(const nlohmann::json& key) const;
  // Puts them in the place of those with the same keys, by one write.
  void keep(std::span<const Entry> entries) const;

 private:
  std::vector<nlohmann::json> read() const;

  std::optional<std::string> path_;
  int version_;
  size_t most_;
};

}  // namespace quantbench
