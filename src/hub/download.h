// One file of the Hub into the cache: resumed, verified, then put in place as a whole.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/os.h"
#include "hub/api.h"
#include "hub/cache.h"

namespace quantbench {

// Error disk where so many bytes more leave the cache's disk without any to spare.
void require_space(const std::string& cache, int64_t needed, const std::string& id);

// What is downloaded at the moment, for one model. Not for several threads; several processes may download the same
// model into the same cache.
class Downloader {
 public:
  Downloader(const HubSettings& settings, HubApi& api, HubListener& listener, std::string id, std::string commit);

  // How many bytes of these files are not in the cache yet, as far as the Hub tells their sizes.
  int64_t missing_bytes(const std::vector<HubFile>& files) const;
  // What progress is counted of: called once it is known which files.
  void expect(const std::vector<HubFile>& files);
  // Nothing to do where the snapshot has it. Error hub (refused, or no longer getting on; what has arrived is kept for
  // the next time, unless its hash is wrong), disk, interrupted.
  void fetch(const HubFile& file);
  int64_t received_bytes() const { return received_bytes_; }

 private:
  bool is_there(const HubFile& file) const;
  void receive(const HubFile& file, HubFilePlace place, os::PartialFile& partial);
  void receive_some(const HubFile& file, const HubFilePlace& place, os::PartialFile& partial, HttpReply* reply);
  void tell(const HubFile& file, int64_t file_bytes);

  const HubSettings& settings_;
  HubApi& api_;
  HubListener& listener_;
  std::string id_, commit_;
  HubPaths paths_;
  int64_t total_bytes_ = 0, done_bytes_ = 0;  // of all files; of those that are whole
  int64_t received_bytes_ = 0, begun_ns_ = 0;
};

}  // namespace quantbench
