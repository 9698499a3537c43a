// The protocol of docs/method.md over the cells that are compared with one another (one model, one test, all
// precisions): load, cold run, warm-up, randomised complete blocks with the read bandwidth probed in between, stop.
// Knows no process, and of engines names alone: workers come from a function.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>

#include "bench/cell.h"
#include "bench/cell_data.h"
#include "bench/energy.h"
#include "bench/protocol.h"

namespace quantbench {

constexpr int kMinRuns = 10, kMaxRuns = 30;
constexpr int kMinWarmups = 3, kMaxWarmups = 10;
// Of a cell, in all; a run that is throttled after so many stays among the timed ones, and the cell is INVALID.
constexpr int kMaxRepeats = 10;
constexpr double kWarmupTolerance = 0.02;  // two successive medians of three runs

struct MeasureOptions {
  int runs = 0;             // exactly so many; 0: until the interval is narrow enough
  double target_ci = 0.01;  // half-width of the 95 % interval of the median latency, relative to it
  double max_time_s = 120;  // of generating, a cell, warm-up included
  uint64_t seed = 42;       // of the order of visits
  bool energy = false;      // runs for it, after the timed blocks
  bool explain = false;     // a second for it, after these
};

// Where progress goes. Lines stay; the status is replaced by the next one.
class Progress {
 public:
  virtual ~Progress() = default;
  virtual void line(const std::string& text) = 0;
  virtual void status(const std::string& text) = 0;
};

// Starts a worker for a cell; with nullptr the one that only probes bandwidth.
using StartWorker = std::function<std::unique_ptr<Worker>(const Cell*)>;
// Called once for every cell, as soon as it is finished, failed or interrupted.
using OnFinished = std::function<void(const Cell&, const CellData&)>;
using Now = std::function<int64_t()>;  // nanoseconds, monotonic

// The engines that were chosen in a sweep, by what the choice depends on there: a later cell of the same model in the
// same precision runs on the same one, whether the choice could be kept in the user's cache or not.
using ChosenEngines = std::map<std::string, EngineChoice>;

struct MeasureHooks {
  StartWorker start;
  OnFinished finished;
  Now now;                                                   // since the sweep began
  std::function<std::optional<int64_t>()> available_memory;  // of the host, bytes; nothing: unknown, assume plenty
  ChosenEngines* engines = nullptr;
  Monitor* monitor = nullptr;    // of the card, or null
  EnergyMeter* meter = nullptr;  // null unless MeasureOptions::energy
  Progress* progress = nullptr;
  // Called once for the cells that have been timed, when their processes have ended; gives as many, in their order.
  // Empty: quality is not asked for. Error interrupted.
  std::function<std::vector<QualityData>(std::span<const Cell>)> quality = {};
};

// Keeps one bandwidth probe for a whole sweep. Without it (no memory for its buffer) shares of peak are n/a.
class BandwidthProbe {
 public:
  BandwidthProbe(const MeasureHooks& hooks) : hooks_(hooks) {}
  // What the device is that samples are taken of. Error where it cannot be used.
  DeviceReport device();
  // One sample, or nothing where it cannot be measured; says why once.
  std::optional<ReadSample> sample();
  std::optional<uint32_t> process() const;  // that it runs in; nothing: in none, or not told

 private:
  Worker& worker();

  const MeasureHooks& hooks_;
  std::unique_ptr<Worker> worker_;
  bool failed_ = false;
};

// Measures the cells. Throws only Error interrupted, after every unfinished cell was reported as such.
void measure(std::span<const Cell> cells, const MeasureOptions& options, const MeasureHooks& hooks,
             BandwidthProbe& probe);

// Pure parts, for tests.
bool warmed_up(std::span<const double> latencies_ns);
// Relative half-width of the interval of the median; infinite with too few samples.
double relative_half_width(std::span<const double> latencies_ns);
std::vector<double> latencies_ns(std::span<const RunSample> runs);

}  // namespace quantbench
