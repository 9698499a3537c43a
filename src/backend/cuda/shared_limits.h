// How much dynamic shared memory kernels may have. CUDA keeps that for each kernel and device, for the whole process,
// and the last word counts: a launch with less would take away what another, or a graph of it, still needs. So the most
// that was ever asked for stands.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <utility>

namespace quantbench::cuda {

class SharedLimits {
 public:
  // Calls set() if no launch of this kernel on this device asked for as much before. What it throws is passed on, and
  // nothing is taken as asked for. By any thread; of several, one at a time.
  template <typename Set>
  void raise(int device, const void* kernel, size_t bytes, const Set& set) {
    const std::lock_guard lock(mutex_);
    const auto found = most_.find({device, kernel});
    if (found != most_.end() && found->second >= bytes) return;
    set();
    most_[{device, kernel}] = bytes;
  }

 private:
  std::mutex mutex_;
  std::map<std::pair<int, const void*>, size_t> most_;
};

// This kernel may have as many bytes on the current device from here on. Error device if that is more than it has.
void allow_shared(const void* kernel, size_t bytes);

}  // namespace quantbench::cuda
