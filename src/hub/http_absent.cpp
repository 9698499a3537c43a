// In the place of curl_http.cpp where libcurl's headers were not there to build with.
#include "core/error.h"
#include "hub/http.h"

namespace quantbench {
namespace {
constexpr const char* kMissing =
    "downloads are not built in, since libcurl's headers were missing; install libcurl4-openssl-dev, configure and "
    "build again";
}

std::unique_ptr<Http> Http::open() { fail(ErrorKind::hub, "{}; or get the model's folder in another way", kMissing); }

std::optional<std::string> Http::version(std::string* missing) {
  *missing = kMissing;
  return std::nullopt;
}

}  // namespace quantbench
