// What the Hub is asked about a model, and its refusals in words.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "hub/http.h"
#include "hub/settings.h"

namespace quantbench {

constexpr int kHubRetries = 5;  // of a request, and of a file since it last got on

// How far a download is.
struct DownloadState {
  std::string_view file;
  int64_t done_bytes = 0, total_bytes = 0;  // of all files of the model
  double bytes_per_s = 0;                   // 0: not known yet
};

// Is told what goes on. The token is in nothing that it is told.
class HubListener {
 public:
  virtual ~HubListener() = default;
  virtual void begin(const std::string& model, size_t files, int64_t missing_bytes) = 0;  // before the first progress()
  virtual void progress(const DownloadState& state) = 0;
  virtual void waiting(const std::string& why) = 0;  // again and again
  virtual void line(const std::string& text) = 0;    // once: something to know
};

struct HubFile {
  std::string name;    // is_plain_path()
  int64_t bytes = -1;  // −1: the Hub does not tell
  std::string hash;    // as its etag will be; empty: not told
};
struct HubListing {
  std::string commit;
  std::vector<HubFile> files;
};
struct HubFilePlace {
  std::string etag;  // is_content_hash()
  int64_t bytes = 0;
  std::string address;  // where it is to be had; may carry a signature
};

// Whatever a server answers, and whatever is set as what: the token is in nothing that is said.
std::string without_token(std::string text, const std::string& token);

// `a/b c` → `a%2Fb%20c`; keep_slashes: → `a/b%20c`.
std::string percent_encoded(std::string_view text, bool keep_slashes);

class HubApi {
 public:
  // Error hub for an endpoint that is not https (or http to this machine), or has a user and password in it.
  HubApi(const HubSettings& settings, Http& http, HubListener& listener);

  // Error hub for what the Hub refuses (with what to do), or after so many retries.
  HubListing list(const std::string& id, const std::string& revision, int retries);
  HubFilePlace find(const std::string& id, const std::string& commit, const std::string& file);

  // One request of a file's content, with the token where the address is of the endpoint's host and nowhere else,
  // following redirects. The reply is what came of it, whatever it is; Error hub for a redirect that may not be
  // followed.
  HttpReply get(HttpRequest request);
  // Waits before retry number `retry` (from 1 on), or as long as the reply asks for. Error hub where that is too long.
  void wait(const HttpReply& reply, int retry, const std::string& what);
  // Whether asking again may help.
  static bool may_pass(const HttpReply& reply);
  // "the answer was 503 Service Unavailable", or why the transfer broke off.
  std::string described(const HttpReply& reply) const;
  // The Hub's refusal in words. Error hub.
  [[noreturn]] void refuse(const HttpReply& reply, const std::string& id, const std::string& revision,
                           const std::string& file) const;

 private:
  // What a server sent, short enough for a message; without the token, of which a cut could leave a part.
  std::string shown(const std::string& text) const;
  HttpReply ask(HttpRequest request, bool only_relative_redirects, int retries, const std::string& what);

  const HubSettings& settings_;
  Http& http_;
  HubListener& listener_;
  Url endpoint_;
};

}  // namespace quantbench
