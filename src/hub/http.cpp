#include "hub/http.h"

#include <algorithm>

namespace quantbench {

std::string HttpReply::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

bool HttpReply::is_redirect() const {
  return (status == 301 || status == 302 || status == 303 || status == 307 || status == 308) &&
         !header("location").empty();
}

bool Url::is_loopback() const {
  // A name that merely begins with 127. is one that somebody else may own.
  const bool is_number =
      std::all_of(host.begin(), host.end(), [](char c) { return c == '.' || (c >= '0' && c <= '9'); });
  return host == "localhost" || host == "[::1]" ||
         (is_number && host.starts_with("127.") && std::count(host.begin(), host.end(), '.') == 3);
}

}  // namespace quantbench
