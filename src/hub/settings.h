// What the environment says of the Hub: the variables that Python's huggingface_hub reads, with their meaning there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace quantbench {

constexpr int64_t kHubFirstWait_ns = 1'000'000'000;  // before the first retry; then twice as long each time

struct HubSettings {
  std::string endpoint;      // HF_ENDPOINT, else https://huggingface.co; without "/" at its end
  std::string cache;         // hub_cache_folder()
  std::string token;         // HF_TOKEN, else HUGGING_FACE_HUB_TOKEN, else the file; empty: none. Never to be shown
  std::string token_source;  // what it was found in: the variable, or the file's path

  int etag_timeout_s = 10;      // HF_HUB_ETAG_TIMEOUT: without a byte, of what is asked about files
  int download_timeout_s = 10;  // HF_HUB_DOWNLOAD_TIMEOUT: of files
  int64_t first_wait_ns = kHubFirstWait_ns;

  // Error hub for what no setting can be (a token with a line break inside).
  static HubSettings read();
};

// A variable that is set and not empty.
std::optional<std::string> variable(const char* name);
// Why nothing may be downloaded (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is 1, on, yes or true), or empty.
std::string offline_reason();

}  // namespace quantbench
