#include "bench/monitor.h"

#include <algorithm>
#include <chrono>
#include <new>

namespace quantbench {
namespace {

// docs/method.md asks for 10 to 20 Hz: sensors change no faster, and each question takes the driver's locks.
constexpr std::chrono::microseconds kSampleEvery{62'500};
constexpr int kLookAroundEvery = 16;  // samples: the list of processes is the dearest question

}  // namespace

Monitor::Monitor(OpenedTelemetry opened, Now now)
    : telemetry_(std::move(opened.telemetry)), missing_(std::move(opened.missing)), now_(std::move(now)) {
  if (telemetry_) thread_ = std::thread([this] { watch(); });
}

Monitor::~Monitor() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Monitor::watch() {
  std::unique_lock lock(mutex_);
  int samples = 0;
  while (!ends_) {
    if (!running_) {
      changed_.wait(lock);
      samples = 0;
      continue;
    }
    // Early: it is over, or another run has begun, which has its own first sample.
    if (changed_.wait_for(lock, kSampleEvery) == std::cv_status::no_timeout || !running_) continue;
    try {
      sample();
      if (++samples % kLookAroundEvery == 0) look_around();
    } catch (const std::bad_alloc&) {  // of the card a sample less is known; the sweep goes on
    }
  }
}

void Monitor::sample() {
  const int64_t at_ns = now_() - start_ns_;
  run_.samples.push_back({at_ns, telemetry_->read()});
}

void Monitor::look_around() {
  const auto there = telemetry_->processes();
  if (!there) return;
  if (!processes_) processes_.emplace();
  for (const uint32_t pid : *there) {
    if (std::find(processes_->begin(), processes_->end(), pid) == processes_->end()) processes_->push_back(pid);
  }
}

void Monitor::begin() {
  if (!telemetry_) return;
  {
    const std::lock_guard lock(mutex_);
    run_ = {};
    processes_.reset();
    look_around();
    before_ = telemetry_->state();
    start_ns_ = now_();
    sample();
    running_ = true;
  }
  changed_.notify_one();
}

void Monitor::cancel() {
  const std::lock_guard lock(mutex_);
  running_ = false;
}

std::optional<RunTelemetry> Monitor::end(std::span<const uint32_t> own) {
  if (!telemetry_) return std::nullopt;
  const std::lock_guard lock(mutex_);
  running_ = false;
  changed_.notify_one();
  sample();
  const CardState after = telemetry_->state();
  look_around();
  if (before_.energy_j && after.energy_j) run_.energy_j = *after.energy_j - *before_.energy_j;
  run_.ecc_uncorrected_before = before_.ecc_uncorrected;
  run_.ecc_uncorrected_after = after.ecc_uncorrected;
  run_.mig_mode = after.mig_mode;
  run_.other_processes = other_processes(processes_, own);
  return std::move(run_);
}

}  // namespace quantbench
