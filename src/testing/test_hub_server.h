// For tests: a server on 127.0.0.1 that plays the Hub with one repository, well or badly.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/sha.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"

namespace quantbench {

inline std::string test_hex(const unsigned char* bytes, size_t count) {
  std::string hex;
  for (size_t i = 0; i < count; ++i) hex += fmt::format("{:02x}", bytes[i]);
  return hex;
}
inline std::string test_sha256(const std::string& text) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  ::SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  return test_hex(digest, sizeof digest);
}
inline std::string test_git_hash(const std::string& text) {
  const std::string all = fmt::format("blob {}", text.size()) + '\0' + text;
  unsigned char digest[SHA_DIGEST_LENGTH];
  ::SHA1(reinterpret_cast<const unsigned char*>(all.data()), all.size(), digest);
  return test_hex(digest, sizeof digest);
}

class TestHub {
 public:
  struct Request {
    std::string method, path;                    // with the query
    std::map<std::string, std::string> headers;  // by name in small letters
    std::string header(const std::string& name) const { return headers.count(name) ? headers.at(name) : ""; }
    bool is(const std::string& wanted, const std::string& part) const {
      return method == wanted && path.find(part) != path.npos;
    }
  };
  struct Reply {
    int status = 200;
    std::map<std::string, std::string> headers = {};
    std::string body = {};
    int64_t cut = -1;      // the connection ends after so many bytes of the body
    int64_t pause_ms = 0;  // before each piece of the body
    size_t piece = 1 << 16;
  };

  TestHub() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    static_cast<void>(::bind(listener_, reinterpret_cast<sockaddr*>(&address), length));  // any port
    ::listen(listener_, 16);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { accept_all(); });
  }
  ~TestHub() {
    ending_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
    {
      const std::lock_guard lock(mutex_);
      for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
    }
    for (std::thread& connection : connections_) connection.join();
  }
  TestHub(const TestHub&) = delete;

  std::string url() const { return fmt::format("http://127.0.0.1:{}", port_); }
  std::string other_host() const { return fmt::format("http://localhost:{}", port_); }
  std::vector<Request> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  size_t count(const std::string& method, const std::string& part) const {
    const auto all = requests();
    return static_cast<size_t>(
        std::count_if(all.begin(), all.end(), [&](const Request& r) { return r.is(method, part); }));
  }

  // The repository. Large files are redirected to `cdn`, an address with a signature, as those in Git LFS are.
  std::string id = "org/name", commit = std::string(40, 'a');
  std::map<std::string, std::string> files;
  std::set<std::string> large;
  std::string cdn;  // empty: url()
  // Asked first, from several threads at once; what it answers stands for what the Hub would.
  std::function<std::optional<Reply>(const Request&)> instead;

  std::string etag(const std::string& name) const {
    return large.count(name) ? test_sha256(files.at(name)) : test_git_hash(files.at(name));
  }
  // A file's content, or the part that is asked for.
  static Reply content(const Request& request, const std::string& body) {
    const std::string range = request.header("range");
    if (range.empty()) return {.body = body};
    const size_t from = std::stoul(range.substr(6));
    if (from >= body.size()) return {.status = 416};
    return {.status = 206,
            .headers = {{"Content-Range", fmt::format("bytes {}-{}/{}", from, body.size() - 1, body.size())}},
            .body = body.substr(from)};
  }
  Reply answer(const Request& request) const {
    const std::string api = "/api/models/" + id + "/revision/", cdn_path = "/cdn/";
    const auto is_known = [&](const std::string& revision) { return revision == "main" || revision == commit; };
    if (request.path.rfind(api, 0) == 0) {
      if (!is_known(request.path.substr(api.size(), request.path.find('?') - api.size()))) {
        return {.status = 404, .headers = {{"X-Error-Code", "RevisionNotFound"}}};
      }
      std::string siblings;
      for (const auto& [name, body] : files) {
        siblings += fmt::format(R"({}{{"rfilename":"{}","size":{},"blobId":"{}"{}}})", siblings.empty() ? "" : ",",
                                name, body.size(), test_git_hash(body),
                                large.count(name) ? R"(,"lfs":{"sha256":")" + etag(name) + "\"}" : "");
      }
      return {.body = fmt::format(R"({{"id":"{}","sha":"{}","siblings":[{}]}})", id, commit, siblings)};
    }
    if (request.path.rfind(cdn_path, 0) == 0) {
      for (const auto& [name, body] : files) {
        if (request.path.substr(cdn_path.size(), 64) == etag(name)) return content(request, body);
      }
    }
    const std::string resolve = "/" + id + "/resolve/";
    if (request.path.rfind(resolve, 0) == 0) {
      const size_t slash = request.path.find('/', resolve.size());
      const std::string name = request.path.substr(slash + 1);
      if (files.count(name) && is_known(request.path.substr(resolve.size(), slash - resolve.size()))) {
        const std::string& body = files.at(name);
        if (!large.count(name)) {
          Reply reply = content(request, body);
          reply.headers["X-Repo-Commit"] = commit;
          reply.headers["ETag"] = "\"" + etag(name) + "\"";
          return reply;
        }
        return {.status = 302,
                .headers = {{"X-Repo-Commit", commit},
                            {"X-Linked-ETag", "\"" + etag(name) + "\""},
                            {"X-Linked-Size", std::to_string(body.size())},
                            {"ETag", "\"another\""},
                            {"Location", (cdn.empty() ? url() : cdn) + cdn_path + etag(name) + "?sig=signature"}}};
      }
      return {.status = 404, .headers = {{"X-Error-Code", "EntryNotFound"}}};
    }
    return {.status = 401, .headers = {{"X-Error-Code", "RepoNotFound"}}};
  }

 private:
  void accept_all() {
    while (!ending_) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      const int now = 1;
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &now, sizeof now);
      const std::lock_guard lock(mutex_);
      open_.insert(fd);
      connections_.emplace_back([this, fd] { serve(fd); });
    }
  }

  void serve(int fd) {
    std::string received;
    for (bool stays = true; stays && !ending_;) {
      size_t end;
      char part[4096];
      while ((end = received.find("\r\n\r\n")) == received.npos) {
        const ssize_t n = ::recv(fd, part, sizeof part, 0);
        if (n <= 0) break;
        received.append(part, static_cast<size_t>(n));
      }
      if (end == received.npos) break;
      const Request request = parse(received.substr(0, end + 2));
      received.erase(0, end + 4);
      {
        const std::lock_guard lock(mutex_);
        requests_.push_back(request);
      }
      std::optional<Reply> reply;
      if (instead) reply = instead(request);
      if (!reply) reply = answer(request);
      stays = send(fd, request, *reply);
    }
    const std::lock_guard lock(mutex_);
    open_.erase(fd);
    ::close(fd);
  }

  static Request parse(const std::string& text) {
    Request request;
    const size_t space = text.find(' '), second = text.find(' ', space + 1);
    request.method = text.substr(0, space);
    request.path = text.substr(space + 1, second - space - 1);
    for (size_t at = text.find("\r\n") + 2; at < text.size();) {
      const size_t end = text.find("\r\n", at), colon = text.find(':', at);
      std::string name = text.substr(at, colon - at);
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
      request.headers[name] = text.substr(colon + 2, end - colon - 2);
      at = end + 2;
    }
    return request;
  }

  static bool send_all(int fd, std::string_view data) {
    while (!data.empty()) {
      const ssize_t n = ::send(fd, data.data(), data.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      data.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }

  bool send(int fd, const Request& request, const Reply& reply) const {
    std::string head = fmt::format("HTTP/1.1 {} Said\r\n", reply.status);
    for (const auto& [name, value] : reply.headers) head += name + ": " + value + "\r\n";
    head += fmt::format("Content-Length: {}\r\n\r\n", reply.body.size());
    if (!send_all(fd, head)) return false;
    if (request.method == "HEAD") return true;
    const size_t end = reply.cut < 0 ? reply.body.size() : std::min(static_cast<size_t>(reply.cut), reply.body.size());
    for (size_t at = 0; at < end && !ending_; at += reply.piece) {
      if (reply.pause_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(reply.pause_ms));
      if (!send_all(fd, std::string_view(reply.body).substr(at, std::min(reply.piece, end - at)))) return false;
    }
    if (end == reply.body.size()) return true;
    ::shutdown(fd, SHUT_RDWR);
    return false;
  }

  int listener_;
  int port_ = 0;
  std::atomic<bool> ending_{false};
  mutable std::mutex mutex_;
  std::vector<Request> requests_;
  std::set<int> open_;
  std::vector<std::thread> connections_;
  std::thread thread_;
};

}  // namespace quantbench
