// Models of the Hugging Face Hub: found in the cache that Python users already have, else downloaded into it
// (hub/cache.h says how that is laid out).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hub/api.h"
#include "hub/cache.h"

namespace quantbench {

struct ResolvedModel {
  std::string folder;  // to open as a Checkpoint
  std::string name;    // "org/name[@revision]", or the folder as it was given
  std::string commit;  // of the cached snapshot; empty for a folder
};

// `model` is a folder, which takes precedence, or `org/name[@revision]` (a branch, tag or commit; main by default) in
// the cache. Error hub that says where was looked and how to get the model. Asks nobody.
ResolvedModel resolve_model(const std::string& model);

// Which files a run needs.
struct HubNeeds {
  bool weights = true;    // else config.json alone
  bool tokenizer = true;  // of a model with weights: it is asked for where the cache has none
};

// The same, but what the cache does not have, or not all of, is downloaded. offline: why nothing may be, beside what
// the environment says (offline_reason()); empty where it may. Where the Hub cannot be asked or refuses, or the cache
// cannot be written, what the cache has is taken, and the listener told so. Errors hub, disk, interrupted.
ResolvedModel obtain_model(const std::string& model, const HubNeeds& needs, const std::string& offline,
                           HubListener& listener, int64_t first_wait_ns = kHubFirstWait_ns);

struct PulledModel {
  ResolvedModel model;
  size_t files = 0;            // that a run needs
  int64_t bytes = 0;           // of all of them
  int64_t received_bytes = 0;  // of those that were not in the cache
  bool is_current = true;      // false: the Hub could not be asked, this is what the cache has
};
// Brings the cache up to date with what the Hub says of `org/name[@revision]` now. Error hub where that is not possible
// and the cache has not all of it.
PulledModel pull_model(const std::string& model, HubListener& listener, int64_t first_wait_ns = kHubFirstWait_ns);

// Of all files of a repository those that a run needs, without the shards that an index names. Error bad_model where
// there are weights, but no safetensors.
std::vector<HubFile> needed_files(const std::string& id, const std::vector<HubFile>& all, const HubNeeds& needs);

}  // namespace quantbench
