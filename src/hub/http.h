// Requests over HTTP(S), one at a time, by libcurl: opened while the program runs, so that it starts without.
//
// Proxies are those that curl takes from the environment (http_proxy, https_proxy, all_proxy, no_proxy). Certificates
// are checked against the system's, or those that REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE or SSL_CERT_DIR
// names. What is sent is https; plain http goes to this machine's own loopback addresses alone, and past any proxy.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace quantbench {

inline char small_letter(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

struct HttpReply {
  int status = 0;                              // 0: there was none
  std::map<std::string, std::string> headers;  // by name in small letters
  std::string body;                            // where nobody took it piece by piece; of an error its beginning
  std::string failure;  // why the transfer broke off, empty where it is whole; names no part of a URL but the host
  std::string header(const std::string& name) const;  // empty where there is none
  bool is_redirect() const;                           // that says where to
};

struct HttpRequest {
  std::string url;
  std::string token;  // for an Authorization header; empty: none
  bool head = false;
  int64_t from = 0;    // above 0: only what comes from this byte on is asked for (the server may not heed it)
  int timeout_s = 10;  // to connect in, and without a byte
  // Takes the body of a reply 200 or 206 piece by piece; what it throws ends the transfer and goes on from here.
  std::function<void(const HttpReply& so_far, std::span<const std::byte> piece)> on_body;
};

struct Url {
  std::string text;    // all of it; may carry a signature, so it is not for messages
  std::string scheme;  // "https"
  std::string host;
  std::string port;
  std::string origin() const { return scheme + "://" + host + ":" + port; }
  bool is_loopback() const;  // localhost, 127.0.0.0/8 or ::1
};

class Http {
 public:
  // Error hub, with what to install, where there is no libcurl.
  static std::unique_ptr<Http> open();
  // libcurl's version as it says it; nothing, and why in `missing`, where there is none.
  static std::optional<std::string> version(std::string* missing);
  virtual ~Http() = default;

  // An address, whole or relative to `base`, as libcurl understands it: http or https, without user and password.
  // Nothing where it is no such address.
  virtual std::optional<Url> parse(const std::string& address, const std::string& base = "") const = 0;
  // Follows no redirect. Error interrupted once os::stop_requested(); Error hub for a URL that may not be asked.
  virtual HttpReply perform(const HttpRequest& request) = 0;
};

}  // namespace quantbench
