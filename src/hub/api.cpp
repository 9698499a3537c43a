#include "hub/api.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <thread>

#include "core/error.h"
#include "core/os.h"
#include "hub/cache.h"
#include "hub/hashes.h"

namespace quantbench {
namespace {

using nlohmann::json;

constexpr int kMostRedirects = 5;
constexpr int64_t kLongestFileBytes = int64_t{1} << 44;
constexpr size_t kMostFiles = 100'000;  // of a repository
constexpr int64_t kSecond_ns = 1'000'000'000, kLongestWait_ns = 8 * kSecond_ns, kLongestAsked_s = 300;
constexpr int64_t kSlice_ns = 50'000'000;  // between looks whether to stop
constexpr size_t kShownMessageBytes = 200;
constexpr JsonLimits kListLimits{.depth = 32, .bytes = 32 << 20};

std::optional<int64_t> whole_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// Without a host of its own: "/a/b", "a?b"; not "https://x/", "//x/" and what a careless reader would take for one.
bool is_relative(const std::string& location) {
  const size_t colon = location.find(':'), end = location.find_first_of("/?#\\");
  return !location.starts_with("//") && location.find('\\') == location.npos && (colon == location.npos || end < colon);
}

// `W/"abc"` → `abc`.
std::string bare_etag(std::string etag) {
  if (etag.starts_with("W/")) etag.erase(0, 2);
  std::erase(etag, '"');
  return etag;
}

// Of one file in the list; nothing for what is not well formed.
std::optional<HubFile> read_file_entry(const json& entry) {
  HubFile file;
  if (!entry.is_object()) return std::nullopt;
  const auto name = entry.find("rfilename"), size = entry.find("size"), lfs = entry.find("lfs");
  if (name == entry.end() || !name->is_string()) return std::nullopt;
  file.name = name->get<std::string>();
  if (size != entry.end() && !size->is_null()) {
    if (!size->is_number_unsigned() || size->get<uint64_t>() > uint64_t{kLongestFileBytes}) return std::nullopt;
    file.bytes = size->get<int64_t>();
  }
  const auto text = [](const json& from, const char* key) {
    const auto found = from.find(key);
    return found != from.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  file.hash = lfs != entry.end() && lfs->is_object() ? text(*lfs, "sha256") : text(entry, "blobId");
  if (!is_content_hash(file.hash)) file.hash.clear();
  return file;
}

[[noreturn]] void fail_by_redirect(const std::string& host, bool to_address) {
  fail(ErrorKind::hub, "{}: it redirects {}; is HF_ENDPOINT a server of the Hub, and does the network ask for a login?",
       host, to_address ? "in a circle" : "to what is no address of the web, or has a password in it");
}

}  // namespace

std::string without_token(std::string text, const std::string& token) {
  constexpr std::string_view kInstead = "***";
  if (token.empty()) return text;
  // A host's name comes back in small letters.
  const auto same = [](char a, char b) { return small_letter(a) == small_letter(b); };
  for (size_t at = 0;; at += kInstead.size()) {
    const auto found =
        std::search(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), token.begin(), token.end(), same);
    if (found == text.end()) return text;
    at = static_cast<size_t>(found - text.begin());
    text.replace(at, token.size(), kInstead);
  }
}

std::string percent_encoded(std::string_view text, bool keep_slashes) {
  std::string encoded;
  for (const char c : text) {
    const bool is_plain = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
                          c == '_' || c == '.' || c == '~' || (c == '/' && keep_slashes);
    if (is_plain) {
      encoded += c;
    } else {
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

HubApi::HubApi(const HubSettings& settings, Http& http, HubListener& listener)
    : settings_(settings), http_(http), listener_(listener) {
  const auto url = http.parse(settings.endpoint);
  if (!url || settings.endpoint.find_first_of("?#") != std::string::npos) {
    // Not shown: it may have a password in it.
    fail(
        ErrorKind::hub,
        "HF_ENDPOINT is no address that can be asked: expected https://host[:port][/path], without user, password, '?' "
        "and '#'; unset it for https://huggingface.co");
  }
  if (url->scheme != "https" && !url->is_loopback()) {
    fail(ErrorKind::hub,
         "HF_ENDPOINT is {}: expected an address that begins with https://, since over http a token and a model could "
         "be read and changed on the way",
         settings.endpoint);
  }
  endpoint_ = *url;
}

bool HubApi::may_pass(const HttpReply& reply) {
  const int s = reply.status;
  return !reply.failure.empty() || s == 0 || s == 408 || s == 429 || s == 500 || s == 502 || s == 503 || s == 504;
}

std::string HubApi::shown(const std::string& text) const {
  std::string part = without_token(text, settings_.token).substr(0, kShownMessageBytes);
  for (char& c : part) c = (c >= 0 && c < ' ') || c == '\x7f' ? '?' : c;  // a terminal would heed them
  return part;
}

std::string HubApi::described(const HttpReply& reply) const {
  if (!reply.failure.empty()) return reply.failure;
  const std::string message = shown(reply.header("x-error-message"));
  return fmt::format("the answer was {}{}{}", reply.status, message.empty() ? "" : ": ", message);
}

void HubApi::wait(const HttpReply& reply, int retry, const std::string& what) {
  int64_t wait_ns = std::min(settings_.first_wait_ns << (retry - 1), kLongestWait_ns);
  if (reply.failure.empty()) {
    if (const auto asked_s = whole_number(reply.header("retry-after"))) {
      if (*asked_s > kLongestAsked_s) {
        fail(ErrorKind::hub, "{}: {}, and that asks to come back in {} s; try again then", what, described(reply),
             *asked_s);
      }
      wait_ns = std::max(wait_ns, *asked_s * kSecond_ns);
    }
  }
  listener_.line(fmt::format("{}: {}; trying again in {:.1f} s ({} of {})", what, described(reply),
                             static_cast<double>(wait_ns) / kSecond_ns, retry, kHubRetries));
  for (const int64_t end = os::steady_now_ns() + wait_ns; os::steady_now_ns() < end;) {
    if (os::stop_requested()) {
      fail(ErrorKind::interrupted,
           "interrupted while waiting to ask the Hub again; the same command goes on from there");
    }
    std::this_thread::sleep_for(std::chrono::nanoseconds(std::min(kSlice_ns, end - os::steady_now_ns())));
  }
}

HttpReply HubApi::get(HttpRequest request) {
  for (int redirects = 0;; ++redirects) {
    const auto url = http_.parse(request.url);
    if (!url || (url->scheme != "https" && !(url->is_loopback() && endpoint_.is_loopback()))) {
      fail(ErrorKind::hub,
           "the Hub names an address for the file that is not https ({}), and over http it could be changed on the "
           "way; try again later, or set HF_ENDPOINT to another server of the Hub",
           url ? url->scheme + "://" + url->host : "no address of the web");
    }
    // Nobody but the endpoint itself is to see the token.
    request.token = url->origin() == endpoint_.origin() ? settings_.token : "";
    HttpReply reply = http_.perform(request);
    if (!reply.failure.empty() || !reply.is_redirect()) return reply;
    const auto next = http_.parse(reply.header("location"), request.url);
    if (!next || redirects == kMostRedirects) fail_by_redirect(url->host, next.has_value());
    request.url = next->text;
  }
}

HttpReply HubApi::ask(HttpRequest request, bool only_relative_redirects, int retries, const std::string& what) {
  request.timeout_s = settings_.etag_timeout_s;
  for (int retry = 1;; ++retry) {
    HttpReply reply;
    std::string url = request.url;
    for (int redirects = 0;; ++redirects) {
      HttpRequest one = request;
      one.url = url;
      if (only_relative_redirects) {
        one.token = settings_.token;
        reply = http_.perform(one);
      } else {
        reply = get(std::move(one));
      }
      if (!reply.failure.empty() || !only_relative_redirects || !reply.is_redirect()) break;
      const std::string location = reply.header("location");
      const auto next = http_.parse(location, url);
      reply.headers["location"] = next ? next->text : "";
      if (!next || !is_relative(location) || next->origin() != endpoint_.origin()) break;
      url = next->text;
      if (redirects < kMostRedirects) continue;
      fail_by_redirect(endpoint_.host, true);
    }
    if (reply.failure.empty() && !reply.is_redirect()) reply.headers["location"] = url;
    if (!may_pass(reply)) return reply;
    if (retry > retries) {
      fail(ErrorKind::hub,
           "{}: {}; check the network (and https_proxy, where there is one) and run the same command again, or work "
           "with what is in the cache (HF_HUB_OFFLINE=1)",
           what, described(reply));
    }
    wait(reply, retry, what);
  }
}

void HubApi::refuse(const HttpReply& reply, const std::string& id, const std::string& revision,
                    const std::string& file) const {
  const std::string code = reply.header("x-error-code"), message = reply.header("x-error-message");
  const std::string& hub = settings_.endpoint;
  if (code == "GatedRepo") {
    fail(ErrorKind::hub, "'{}' is gated: accept the licence at {}/{} and set HF_TOKEN to a token of that account ({})",
         id, hub, id,
         settings_.token.empty() ? "no token is set"
                                 : fmt::format("that of {} has no access yet", settings_.token_source));
  }
  if (message == "Access to this resource is disabled.") {
    fail(ErrorKind::hub, "'{}' is disabled on {}, so nobody can download it; choose another model", id, hub);
  }
  if (code == "RevisionNotFound") {
    fail(ErrorKind::hub, "'{}' has no revision '{}' on {}; see {}/{}/branches for those that it has", id, revision, hub,
         hub, id);
  }
  if (!file.empty() && (code == "EntryNotFound" || (reply.status == 404 && code.empty()))) {
    fail(ErrorKind::hub, "'{}' has no file {} on {} at {}, though the Hub lists it; try again later", id, file, hub,
         revision);
  }
  if (reply.status == 401 && message.starts_with("Invalid credentials")) {
    fail(ErrorKind::hub, "{} does not accept the token of {}; make a new one at {}/settings/tokens", hub,
         settings_.token_source.empty() ? "HF_TOKEN" : settings_.token_source, hub);
  }
  if (code == "RepoNotFound" || reply.status == 401 || reply.status == 404) {
    fail(ErrorKind::hub,
         "model '{}' was not found: there is no folder of that name here, and on {} it does not exist, is private, or "
         "you are not authenticated; check the name, or set HF_TOKEN ({})",
         id, hub,
         settings_.token.empty() ? "no token is set" : fmt::format("that of {} was sent", settings_.token_source));
  }
  fail(ErrorKind::hub, "'{}'{}{}: {}; see {}/{}, or try again later", id, file.empty() ? "" : ", ", file,
       described(reply), hub, id);
}

HubListing HubApi::list(const std::string& id, const std::string& revision, int retries) {
  const HttpReply reply = ask({.url = fmt::format("{}/api/models/{}/revision/{}?blobs=true", settings_.endpoint, id,
                                                  percent_encoded(revision, false))},
                              false, retries, fmt::format("asking {} for {}", endpoint_.host, id));
  if (reply.status != 200) refuse(reply, id, revision, "");
  HubListing listing;
  try {
    const json answer = parse_json(reply.body, "the list of files", kListLimits);
    const auto commit = answer.find("sha"), files = answer.find("siblings");
    const bool is_list = answer.is_object() && commit != answer.end() && commit->is_string() && files != answer.end() &&
                         files->is_array() && files->size() <= kMostFiles;
    if (is_list && is_commit(commit->get<std::string>())) {
      listing.commit = commit->get<std::string>();
      for (const json& entry : *files) {
        const auto file = read_file_entry(entry);
        if (!file || !is_plain_path(file->name)) {
          fail(ErrorKind::bad_model, "an entry that is no file in a repository: {}", shown(entry.dump()));
        }
        listing.files.push_back(*file);
      }
    }
  } catch (const Error& error) {
    fail(ErrorKind::hub, "{} sends a list of the files of '{}' that is refused: {}", settings_.endpoint, id,
         error.what());
  }
  if (listing.commit.empty()) {
    fail(ErrorKind::hub,
         "{} does not answer as the Hub does about '{}': expected a commit (sha) and a list of files (siblings); check "
         "HF_ENDPOINT, and whether the network asks for a login",
         settings_.endpoint, id);
  }
  return listing;
}

HubFilePlace HubApi::find(const std::string& id, const std::string& commit, const std::string& file) {
  const HttpReply reply =
      ask({.url = fmt::format("{}/{}/resolve/{}/{}", settings_.endpoint, id, commit, percent_encoded(file, true)),
           .head = true},
          true, kHubRetries, fmt::format("asking {} for {} of {}", endpoint_.host, file, id));
  if (reply.status >= 400 || (reply.status >= 300 && !reply.is_redirect())) refuse(reply, id, commit, file);
  const std::string found = reply.header("x-repo-commit"), linked = reply.header("x-linked-etag");
  if (found != commit) {
    fail(ErrorKind::hub,
         "{} answers about {} of '{}' with commit '{}', expected {} (X-Repo-Commit); is HF_ENDPOINT a server of the "
         "Hub, and does a proxy pass on its headers?",
         settings_.endpoint, file, id, shown(found), commit);
  }
  HubFilePlace place{.etag = bare_etag(linked.empty() ? reply.header("etag") : linked),
                     .address = reply.header("location")};
  const std::string size = reply.header("x-linked-size");
  const auto bytes = whole_number(size.empty() && !reply.is_redirect() ? reply.header("content-length") : size);
  if (!is_content_hash(place.etag) || !bytes || *bytes > kLongestFileBytes || place.address.empty()) {
    fail(ErrorKind::hub,
         "{} does not say what {} of '{}' must be: expected a hash of 64 or 40 hex digits as its etag, its size and an "
         "address, found etag '{}', size '{}'; without them the file cannot be checked, so it is not taken",
         settings_.endpoint, file, id, shown(place.etag), shown(size));
  }
  place.bytes = *bytes;
  return place;
}

}  // namespace quantbench
