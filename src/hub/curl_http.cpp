// The one file that knows libcurl; http_absent.cpp takes its place where its headers are not there to build with.
#define CURL_DISABLE_DEPRECATION  // the newer way to name protocols is not in the libcurl of Ubuntu 22.04
#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <exception>

#include "core/error.h"
#include "core/os.h"
#include "hub/http.h"

namespace quantbench {
namespace {

constexpr size_t kMostHeaderBytes = 256 << 10;  // of a reply, all together
constexpr size_t kMostBodyBytes = 32 << 20;     // of a reply that is kept in memory
constexpr size_t kMostErrorBytes = 64 << 10;    // of what comes with an error
constexpr int64_t kReceiveBytes = 256 << 10;    // at a time
constexpr const char* kLibraries[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};

// The functions that are used.
struct Curl {
  os::Library library;
  decltype(curl_global_init)* global_init;
  decltype(curl_global_cleanup)* global_cleanup;
  decltype(curl_version)* version;
  decltype(curl_easy_init)* easy_init;
  decltype(curl_easy_reset)* easy_reset;
  decltype(curl_easy_cleanup)* easy_cleanup;
  decltype(curl_easy_setopt)* setopt;
  decltype(curl_easy_perform)* perform;
  decltype(curl_easy_strerror)* strerror;
  decltype(curl_slist_append)* slist_append;
  decltype(curl_slist_free_all)* slist_free_all;
  decltype(curl_url)* url;
  decltype(curl_url_cleanup)* url_cleanup;
  decltype(curl_url_set)* url_set;
  decltype(curl_url_get)* url_get;
  decltype(curl_free)* free;
};

template <typename Function>
bool find(const os::Library& library, const char* name, Function** into) {
  *into = library.find<Function>(name);
  return *into != nullptr;
}

std::optional<Curl> open_curl(std::string* missing) {
  for (const char* name : kLibraries) {
    auto library = os::Library::open(name);
    if (!library) continue;
    Curl c{.library = std::move(*library)};
    const os::Library& l = c.library;
    if (find(l, "curl_global_init", &c.global_init) && find(l, "curl_version", &c.version) &&
        find(l, "curl_easy_init", &c.easy_init) && find(l, "curl_easy_reset", &c.easy_reset) &&
        find(l, "curl_easy_cleanup", &c.easy_cleanup) && find(l, "curl_easy_setopt", &c.setopt) &&
        find(l, "curl_easy_perform", &c.perform) && find(l, "curl_global_cleanup", &c.global_cleanup) &&
        find(l, "curl_easy_strerror", &c.strerror) && find(l, "curl_slist_append", &c.slist_append) &&
        find(l, "curl_slist_free_all", &c.slist_free_all) && find(l, "curl_url", &c.url) &&
        find(l, "curl_url_cleanup", &c.url_cleanup) && find(l, "curl_url_set", &c.url_set) &&
        find(l, "curl_url_get", &c.url_get) && find(l, "curl_free", &c.free) &&
        c.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK) {
      return c;
    }
    *missing = fmt::format("{} has not what downloading needs (it is older than 7.62); install a newer libcurl",
                           l.path().empty() ? name : l.path());
    return std::nullopt;
  }
  *missing =
      "there is no libcurl here (libcurl.so.4 or libcurl-gnutls.so.4); install it: apt-get install libcurl4 "
      "(libcurl4t64 on Ubuntu 24.04)";
  return std::nullopt;
}

// Where to find the certificates that a server's is checked against; empty: where libcurl looks by itself.
struct Certificates {
  std::string path;
  bool is_folder = false;
};

Certificates certificates() {
  for (const char* name : {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"}) {
    const auto path = os::environment(name);
    if (!path || path->empty()) continue;
    if (!os::exists(*path)) {
      fail(ErrorKind::hub,
           "{} names {}, which is not there; let it name a file (or a folder) of certificates, or unset it", name,
           *path);
    }
    return {*path, os::is_directory(*path)};
  }
  return {};
}

// What the callbacks of one request share.
struct Transfer {
  const HttpRequest* request;
  HttpReply reply;
  size_t header_bytes = 0;
  const char* refused = nullptr;  // why we ended it
  std::exception_ptr thrown;
};

size_t take_header(const char* data, size_t bytes, Transfer& transfer) {
  transfer.header_bytes += bytes;
  if (transfer.header_bytes > kMostHeaderBytes) {
    transfer.refused = "its headers are larger than any that the Hub sends";
    return 0;
  }
  const std::string_view line(data, bytes);
  if (line.starts_with("HTTP/")) {  // perhaps after that of a proxy, or of "100 Continue"
    transfer.reply.headers.clear();
    const char* const code = data + std::min(line.find(' '), bytes - 1) + 1;
    transfer.reply.status = 0;
    std::from_chars(code, data + bytes, transfer.reply.status);
  }
  const size_t colon = line.find(':');
  if (colon == line.npos) return bytes;
  const size_t begin = std::min(line.find_first_not_of(" \t", colon + 1), bytes);
  const size_t end = line.find_last_not_of(" \t\r\n");
  std::string name(line.substr(0, colon));
  for (char& c : name) c = small_letter(c);
  transfer.reply.headers[name] = end < begin || end == line.npos ? "" : line.substr(begin, end + 1 - begin);
  return bytes;
}

size_t take_body(const char* data, size_t bytes, Transfer& transfer) {
  HttpReply& reply = transfer.reply;
  const bool is_whole = reply.status == 200, is_fine = is_whole || reply.status == 206;
  if (is_fine && transfer.request->on_body) {
    transfer.request->on_body(reply, {reinterpret_cast<const std::byte*>(data), bytes});
    return bytes;
  }
  const size_t room = (is_fine ? kMostBodyBytes : kMostErrorBytes) - reply.body.size();
  if (bytes > room && is_fine) {
    transfer.refused = "its answer is larger than any that the Hub sends";
    return 0;
  }
  reply.body.append(data, std::min(bytes, room));
  return bytes;
}

// What libcurl calls. No exception goes through it, since it is C.
template <size_t (*take)(const char*, size_t, Transfer&)>
size_t called(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  try {
    return take(data, size * count, transfer);
  } catch (...) {
    transfer.thrown = std::current_exception();
    return 0;
  }
}

int go_on(void*, curl_off_t, curl_off_t, curl_off_t, curl_off_t) { return os::stop_requested() ? 1 : 0; }

class CurlHttp final : public Http {
 public:
  explicit CurlHttp(Curl curl) : curl_(std::move(curl)), certificates_(certificates()), handle_(curl_.easy_init()) {
    if (!handle_) fail(ErrorKind::hub, "libcurl cannot be started ({}); install it anew", curl_.version());
  }
  ~CurlHttp() override {
    curl_.easy_cleanup(handle_);
    curl_.global_cleanup();
  }

  std::optional<Url> parse(const std::string& address, const std::string& base) const override {
    const std::unique_ptr<CURLU, decltype(curl_url_cleanup)*> url(curl_.url(), curl_.url_cleanup);
    if (!url || (!base.empty() && curl_.url_set(url.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK) ||
        curl_.url_set(url.get(), CURLUPART_URL, address.c_str(), 0) != CURLUE_OK) {
      return std::nullopt;
    }
    const auto part = [&](CURLUPart which, unsigned flags = 0) {
      char* text = nullptr;
      if (curl_.url_get(url.get(), which, &text, flags) != CURLUE_OK) return std::string();
      std::string result = text;
      curl_.free(text);
      return result;
    };
    Url result{part(CURLUPART_URL), part(CURLUPART_SCHEME), part(CURLUPART_HOST),
               part(CURLUPART_PORT, CURLU_DEFAULT_PORT)};
    for (char& c : result.host) c = small_letter(c);
    if ((result.scheme != "http" && result.scheme != "https") || result.host.empty() || !part(CURLUPART_USER).empty() ||
        !part(CURLUPART_PASSWORD).empty()) {
      return std::nullopt;
    }
    return result;
  }

  HttpReply perform(const HttpRequest& request) override {
    const auto url = parse(request.url, "");
    if (!url || (url->scheme != "https" && !url->is_loopback())) {
      fail(ErrorKind::hub,
           "an address that is not https ({}) is not asked, since what it answers, and what is sent to it, could be "
           "read and changed on the way; set HF_ENDPOINT to an address that begins with https://",
           url ? url->scheme + "://" + url->host : "and no address of the web");
    }
    Transfer transfer{.request = &request};
    std::array<char, CURL_ERROR_SIZE> detail{};
    curl_.easy_reset(handle_);
    const auto set = [&](CURLoption option, auto value) { curl_.setopt(handle_, option, value); };
    set(CURLOPT_URL, url->text.c_str());
    set(CURLOPT_PROTOCOLS, url->is_loopback() ? CURLPROTO_HTTP | CURLPROTO_HTTPS : long{CURLPROTO_HTTPS});
    if (url->is_loopback()) set(CURLOPT_NOPROXY, "*");
    set(CURLOPT_FOLLOWLOCATION, 0L);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_USERAGENT, "quantbench");
    set(CURLOPT_CONNECTTIMEOUT, static_cast<long>(request.timeout_s));
    set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(request.timeout_s));
    set(CURLOPT_BUFFERSIZE, static_cast<long>(kReceiveBytes));
    set(CURLOPT_ERRORBUFFER, detail.data());
    set(CURLOPT_HEADERFUNCTION, &called<take_header>);
    set(CURLOPT_HEADERDATA, &transfer);
    set(CURLOPT_WRITEFUNCTION, &called<take_body>);
    set(CURLOPT_WRITEDATA, &transfer);
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, &go_on);
    if (!certificates_.path.empty()) {
      set(certificates_.is_folder ? CURLOPT_CAPATH : CURLOPT_CAINFO, certificates_.path.c_str());
    }
    if (request.head) set(CURLOPT_NOBODY, 1L);
    // As it is stored: sizes, places in it and its hash are of that form.
    curl_slist* headers = curl_.slist_append(nullptr, "Accept-Encoding: identity");
    if (!request.token.empty()) {
      headers = curl_.slist_append(headers, ("Authorization: Bearer " + request.token).c_str());
    }
    if (request.from > 0) {
      headers = curl_.slist_append(headers, fmt::format("Range: bytes={}-", request.from).c_str());
    }
    set(CURLOPT_HTTPHEADER, headers);
    const CURLcode code = curl_.perform(handle_);
    curl_.slist_free_all(headers);
    curl_.easy_reset(handle_);  // which knows addresses of what ends here
    if (transfer.thrown) std::rethrow_exception(transfer.thrown);
    if (os::stop_requested()) {
      fail(ErrorKind::interrupted,
           "interrupted while downloading; what has arrived is kept, and the same command goes on from there");
    }
    if (transfer.refused)
      fail(ErrorKind::hub, "{}: {}; is HF_ENDPOINT a server of the Hub?", url->host, transfer.refused);
    if (code != CURLE_OK) {
      std::string why = transfer.reply.status == 407 ? "the proxy asks for a login (407); give it in https_proxy"
                                                     : described(code, std::string(detail.data()));
      if (why.find(url->host) == why.npos) why.insert(0, url->host + ": ");
      if (is_lasting(code) || transfer.reply.status == 407 ||
          std::string_view(detail.data()).starts_with("Unsupported proxy"))
        fail(ErrorKind::hub, "{}", why);
      transfer.reply.failure = std::move(why);
    }
    return std::move(transfer.reply);
  }

 private:
  // Whether nothing will change by asking again.
  static bool is_lasting(CURLcode code) {
    return code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE || code == CURLE_SSL_CERTPROBLEM;
  }
  // libcurl's own words, where those name no more than host and file; about a proxy they may have its password.
  std::string described(CURLcode code, const std::string& detail) const {
    std::string text = curl_.strerror(code);
    for (const CURLcode plain : {CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_CONNECT, CURLE_OPERATION_TIMEDOUT,
                                 CURLE_SSL_CONNECT_ERROR, CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CACERT_BADFILE}) {
      if (code == plain && !detail.empty()) text = detail;
    }
    if (detail.starts_with("Unsupported proxy") || (code == CURLE_COULDNT_CONNECT && text.find('@') != text.npos))
      text = "the proxy that is set (https_proxy, all_proxy) cannot be used: no address that libcurl knows";
    if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE) {
      text += "; install the package ca-certificates, or let SSL_CERT_FILE name the certificates of your network";
    }
    return text;
  }

  Curl curl_;
  Certificates certificates_;
  CURL* handle_;
};

}  // namespace

std::unique_ptr<Http> Http::open() {
  std::string missing;
  auto curl = open_curl(&missing);
  if (!curl) fail(ErrorKind::hub, "downloads need libcurl: {}; or get the model's folder in another way", missing);
  return std::make_unique<CurlHttp>(std::move(*curl));
}

std::optional<std::string> Http::version(std::string* missing) {
  const auto curl = open_curl(missing);
  if (!curl) return std::nullopt;
  const std::string all = curl->version();
  curl->global_cleanup();
  return all.substr(0, all.find(' '));
}

}  // namespace quantbench
