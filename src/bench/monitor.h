// Watches a card while something runs on it, from the parent: the process that is timed has no more threads and makes
// no more calls than without. Asks nothing in between.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "bench/telemetry.h"

namespace quantbench {

class Monitor {
 public:
  using Now = std::function<int64_t()>;  // nanoseconds, monotonic; called from a thread of the monitor's too

  // Without telemetry nothing is watched, and begin() and end() cost nothing.
  Monitor(OpenedTelemetry opened, Now now);
  ~Monitor();
  Monitor(const Monitor&) = delete;

  bool watches() const { return telemetry_ != nullptr; }
  const std::string& missing() const { return missing_; }

  // One sample at once, then 16 a second until end(), which takes the last. own: processes of this sweep that are on
  // the card; without any, others are not looked for.
  void begin();
  std::optional<RunTelemetry> end(std::span<const uint32_t> own);
  void cancel();  // of what failed; nothing where it has ended

 private:
  void watch();
  void sample();  // these two with the mutex
  void look_around();

  std::unique_ptr<Telemetry> telemetry_;
  std::string missing_;
  Now now_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool running_ = false, ends_ = false;
  int64_t start_ns_ = 0;
  CardState before_;
  RunTelemetry run_;
  std::optional<std::vector<uint32_t>> processes_;  // seen since begin()
  std::thread thread_;                              // last: it uses the others
};

}  // namespace quantbench
