#include "hub/settings.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/os.h"
#include "hub/cache.h"

namespace quantbench {
namespace {

constexpr int64_t kMostTokenBytes = 4096;  // of the file, and so of the token
constexpr int kLongestTimeout_s = 3600;

bool is_white(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// Without white space at its ends; one that would end the header it is sent in is refused, and not shown.
std::string clean_token(const std::string& text, const std::string& source) {
  const auto begin = std::find_if_not(text.begin(), text.end(), is_white);
  const auto end = std::find_if_not(text.rbegin(), text.rend(), is_white).base();
  std::string token = begin < end ? std::string(begin, end) : "";
  if (std::any_of(token.begin(), token.end(), [](char c) { return c <= ' ' || c > '~'; })) {
    fail(ErrorKind::hub,
         "{} has characters that no token of the Hub has (spaces, line breaks, or not ASCII); put the token there as "
         "the Hub shows it (it is not printed here)",
         source);
  }
  return token;
}

void read_token(HubSettings* settings) {
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}) {
    const auto text = variable(name);
    if (!text) continue;
    settings->token = clean_token(*text, name);
    settings->token_source = name;
    if (!settings->token.empty()) return;
  }
  const auto named = variable("HF_TOKEN_PATH");
  if (!named && !variable("HF_HOME") && !os::cache_folder()) return;  // no home, so nothing in it
  const std::string path = named ? expanded_path(*named) : hub_home_folder() + "/token";
  const auto found = os::status(path);
  if (!found || !found->is_regular) return;
  if (found->bytes > kMostTokenBytes) {
    fail(ErrorKind::hub, "{} has {} bytes, more than the {} that a token may have; HF_TOKEN_PATH names another file",
         path, found->bytes, kMostTokenBytes);
  }
  settings->token = clean_token(os::read_file(path, kMostTokenBytes), path);
  settings->token_source = path;
}

int timeout_of(const char* name, int otherwise) {
  const auto text = variable(name);
  if (!text) return otherwise;
  int seconds = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), seconds);
  if (error != std::errc() || end != text->data() + text->size() || seconds < 1 || seconds > kLongestTimeout_s) {
    fail(ErrorKind::hub, "{}: '{}' is not a whole number of seconds from 1 to {}", name, *text, kLongestTimeout_s);
  }
  return seconds;
}

}  // namespace

std::optional<std::string> variable(const char* name) {
  auto value = os::environment(name);
  if (value && value->empty()) return std::nullopt;
  return value;
}

std::string offline_reason() {
  for (const char* name : {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}) {
    std::string value = variable(name).value_or("");
    for (char& c : value) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    if (value == "1" || value == "ON" || value == "YES" || value == "TRUE") return std::string(name) + " is set";
  }
  return "";
}

HubSettings HubSettings::read() {
  HubSettings settings;
  settings.cache = hub_cache_folder();

  settings.endpoint = variable("HF_ENDPOINT").value_or("https://huggingface.co");
  while (settings.endpoint.ends_with('/')) settings.endpoint.pop_back();
  settings.etag_timeout_s = timeout_of("HF_HUB_ETAG_TIMEOUT", settings.etag_timeout_s);
  settings.download_timeout_s = timeout_of("HF_HUB_DOWNLOAD_TIMEOUT", settings.download_timeout_s);
  read_token(&settings);
  return settings;
}

}  // namespace quantbench
