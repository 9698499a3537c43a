// Results of self-tests in a file of the user's, so that each is made once for a card, driver, program and model.
#pragma once

#include <optional>
#include <string>

#include "backend/backend.h"
#include "core/cache_file.h"
#include "engine/engine_choice.h"

namespace quantbench {

// What a step's time follows from. A member that is empty is not known, and nothing is kept under such a key.
struct EngineKey {
  std::string gpu;      // UUID
  std::string driver;   // its version
  std::string program;  // os::build_id()
  std::string model;    // hash of the step's shapes and formats
  bool operator==(const EngineKey&) const = default;
  bool is_known() const { return !gpu.empty() && !driver.empty() && !program.empty() && !model.empty(); }
};
EngineKey engine_key(const DeviceInfo& device, const Tape& step);

class EngineCache {
 public:
  static constexpr size_t kMostChoices = 256;  // the oldest go first

  explicit EngineCache(std::optional<std::string> path = CacheFile::path_of("engines.json"));

  std::optional<EngineChoice> find(const EngineKey& key) const;
  void keep(const EngineKey& key, const EngineChoice& choice) const;  // of a self-test

 private:
  CacheFile file_;
};

}  // namespace quantbench
