#include "hub/download.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <memory>
#include <thread>

#include "core/error.h"
#include "core/os.h"
#include "hub/hashes.h"

namespace quantbench {
namespace {

constexpr int64_t kLockSlice_ns = 100'000'000;  // between looks at a lock that another process has
constexpr int64_t kSpareBytes = 64 << 20;       // that stay free on the cache's disk
constexpr int kHashAttempts = 2;                // the second time from the first byte on

std::string partial_path(const HubPaths& paths, const std::string& etag) { return paths.blob(etag) + ".qb.incomplete"; }

std::string parent(const std::string& path) { return path.substr(0, path.rfind('/')); }

// Where the bytes of a reply 206 begin, as it says it ("bytes 100-199/200"); −1: it does not.
int64_t first_byte(const HttpReply& reply) {
  const std::string range = reply.header("content-range");
  int64_t first = -1;
  if (range.starts_with("bytes ")) std::from_chars(range.data() + 6, range.data() + range.size(), first);
  return first;
}

// So long as this lives other processes that heed the lock leave the file alone.
std::unique_ptr<os::FileLock> take_lock(const std::string& path, const std::string& file, HubListener& listener) {
  while (true) {
    auto lock = std::make_unique<os::FileLock>(path);
    if (lock->state() == os::FileLock::State::taken) return lock;
    if (lock->state() == os::FileLock::State::impossible) return nullptr;
    if (os::stop_requested()) fail(ErrorKind::interrupted, "interrupted while another process downloads {}", file);
    listener.waiting(fmt::format("waiting for another process that downloads {}", file));
    std::this_thread::sleep_for(std::chrono::nanoseconds(kLockSlice_ns));
  }
}

}  // namespace

void require_space(const std::string& cache, int64_t needed, const std::string& id) {
  const auto free = os::free_bytes(cache);
  if (!free || needed == 0 || needed + kSpareBytes <= *free) return;
  fail(ErrorKind::disk,
       "not enough space for '{}': {} bytes are to be downloaded, and {} has {} free; free some, or let HF_HUB_CACHE "
       "name a folder on another disk",
       id, needed, cache, *free);
}

Downloader::Downloader(const HubSettings& settings, HubApi& api, HubListener& listener, std::string id,
                       std::string commit)
    : settings_(settings),
      api_(api),
      listener_(listener),
      id_(std::move(id)),
      commit_(std::move(commit)),
      paths_(settings.cache, id_) {}

bool Downloader::is_there(const HubFile& file) const {
  const auto found = os::status(paths_.snapshot(commit_) + "/" + file.name);
  return found && found->is_regular && (file.bytes < 0 || found->bytes == file.bytes);
}

int64_t Downloader::missing_bytes(const std::vector<HubFile>& files) const {
  int64_t missing = 0;
  for (const HubFile& file : files) {
    if (is_there(file) || file.bytes < 0) continue;
    missing += file.bytes;
    if (file.hash.empty()) continue;
    for (const std::string& path : {paths_.blob(file.hash), partial_path(paths_, file.hash)}) {
      if (const auto found = os::status(path)) missing -= std::min(found->bytes, file.bytes);
    }
  }
  return std::max<int64_t>(missing, 0);
}

void Downloader::expect(const std::vector<HubFile>& files) {
  total_bytes_ = done_bytes_ = 0;
  for (const HubFile& file : files) total_bytes_ += std::max<int64_t>(file.bytes, 0);
}

void Downloader::tell(const HubFile& file, int64_t file_bytes) {
  const auto seconds = static_cast<double>(os::steady_now_ns() - begun_ns_) / 1e9;
  const int64_t done = done_bytes_ + file_bytes;
  listener_.progress({.file = file.name,
                      .done_bytes = done,
                      .total_bytes = std::max(total_bytes_, done),
                      .bytes_per_s = seconds > 0 ? static_cast<double>(received_bytes_) / seconds : 0});
}

void Downloader::fetch(const HubFile& file) {
  const std::string link = paths_.snapshot(commit_) + "/" + file.name;
  if (is_there(file)) {
    done_bytes_ += std::max<int64_t>(file.bytes, 0);
    return;
  }
  const HubFilePlace place = api_.find(id_, commit_, file.name);
  if (file.bytes >= 0 && place.bytes != file.bytes) {
    fail(ErrorKind::hub, "{} of {}: the Hub lists it with {} bytes, and asked for it says {}; try again later",
         file.name, id_, file.bytes, place.bytes);
  }
  if (file.bytes < 0) require_space(settings_.cache, missing_bytes({{file.name, place.bytes, place.etag}}), id_);
  const std::string blob = paths_.blob(place.etag);
  os::make_directories(parent(blob));
  os::make_directories(parent(link));
  os::make_directories(paths_.locks);
  {
    const auto lock = take_lock(paths_.locks + "/" + place.etag + ".lock", file.name, listener_);
    const auto found = os::status(blob);
    if (!found || !found->is_regular || found->bytes != place.bytes) {
      // Without the lock another process may be at it as well: each has a file of its own then, which does not stay.
      std::string path = partial_path(paths_, place.etag);
      if (!lock) path = fmt::format("{}.{}", path, os::process_id());
      os::PartialFile partial(path);
      try {
        receive(file, place, partial);
      } catch (const Error&) {
        if (!lock) partial.remove();
        throw;
      }
      partial.commit(blob);
    }
  }
  os::write_link("../../blobs/" + place.etag, link);
  done_bytes_ += place.bytes;
}

void Downloader::receive(const HubFile& file, HubFilePlace place, os::PartialFile& partial) {
  if (partial.bytes() > place.bytes) partial.clear();
  int64_t best = partial.bytes();
  const std::string what = fmt::format("{} of {}", file.name, id_);
  for (int retry = 0, wrong = 0;;) {
    HttpReply reply;
    if (partial.bytes() < place.bytes) receive_some(file, place, partial, &reply);
    if (partial.bytes() == place.bytes) {
      listener_.waiting(fmt::format("checking {}", what));
      const std::string found = content_hash(partial, place.etag.size());
      if (found == place.etag) return;
      partial.clear();
      if (++wrong == kHashAttempts) {
        fail(ErrorKind::hub,
             "{}: what arrived has the hash {}, expected {}, twice; it was damaged or changed on the way and is not "
             "kept: try again later, or over another network or proxy",
             what, found, place.etag);
      }
      listener_.line(fmt::format("{}: the hash of what arrived is wrong; downloading it once more", what));
      best = 0;
      continue;
    }
    if (partial.bytes() > best) retry = 0;
    best = std::max(best, partial.bytes());
    const bool is_expired = reply.failure.empty() && reply.status == 403;
    if (!is_expired && !HubApi::may_pass(reply) && reply.status != 200 && reply.status != 206 && reply.status != 416) {
      api_.refuse(reply, id_, commit_, file.name);
    }
    if (++retry > kHubRetries) {
      if (is_expired) api_.refuse(reply, id_, commit_, file.name);
      fail(ErrorKind::hub,
           "{}: {} of {} bytes arrived, and {} attempts brought no more ({}); they are kept: check the network and run "
           "the same command again, it goes on from there",
           what, best, place.bytes, kHubRetries, api_.described(reply));
    }
    if (reply.status == 416) partial.clear();
    if (!is_expired || retry > 1) api_.wait(reply, retry, what);
    if (is_expired) {  // the address: the Hub gives another
      const HubFilePlace now = api_.find(id_, commit_, file.name);
      if (now.etag != place.etag || now.bytes != place.bytes) {
        fail(ErrorKind::hub, "{}: the Hub now says another hash or size of the same commit; try again later", what);
      }
      place = now;
    }
  }
}

void Downloader::receive_some(const HubFile& file, const HubFilePlace& place, os::PartialFile& partial,
                              HttpReply* reply) {
  const int64_t from = partial.bytes();
  bool is_first = true, is_wrong = false;
  HttpRequest request{.url = place.address, .from = from, .timeout_s = settings_.download_timeout_s};
  request.on_body = [&](const HttpReply& so_far, std::span<const std::byte> piece) {
    if (begun_ns_ == 0) begun_ns_ = os::steady_now_ns();
    if (is_first && from > 0) {
      if (so_far.status == 200) {
        partial.clear();  // all of it comes, from the beginning
      } else {
        is_wrong = first_byte(so_far) != from;
      }
    }
    is_first = false;
    const auto bytes = static_cast<int64_t>(piece.size());
    is_wrong = is_wrong || bytes > place.bytes - partial.bytes();
    if (is_wrong) {
      partial.clear();
      fail(ErrorKind::hub,
           "{} of {}: the server sends other bytes than were asked for (from {} on, {} in all); try again later",
           file.name, id_, from, place.bytes);
    }
    partial.append(piece);
    received_bytes_ += bytes;
    tell(file, partial.bytes());
  };
  *reply = api_.get(std::move(request));
  if (reply->failure.empty() && (reply->status == 200 || reply->status == 206) && partial.bytes() < place.bytes) {
    reply->failure = "the answer ended early";
  }
}

}  // namespace quantbench
