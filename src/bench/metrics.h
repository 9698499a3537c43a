// Metrics: what one number of a run or of a cell is. Every report shows a metric by its row here.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "bench/cell_data.h"
#include "bench/summary.h"

namespace quantbench {

struct RunMetric {
  std::string_view name;
  Unit unit;
  Better better;
  std::optional<double> (*of)(const RunSample&, const CellData&);
};
struct CellMetric {
  std::string_view name;
  Unit unit;
  Better better;
  std::optional<double> (*of)(const CellData&);
};
std::span<const RunMetric> run_metrics();
std::span<const CellMetric> cell_metrics();

// All metrics of a cell that have a value, over its timed runs.
std::vector<Summary> summarize(const CellData& data);

// Bytes that one decode step of this run reads on average: weights once, and K/V of all sequences at the mean context
// of the timed steps.
std::optional<double> bytes_per_step(const RunSample& sample, const CellData& data);
// Positions of each sequence that a decode step of this run attends to on average.
double mean_context(const Run& run, const CellData& data);
// The rate at which memory was read at the most beside the timed runs, and the most that a card of this name was seen
// to read (docs/performance.md). A probe that falls short of that says what the card had to spare, not what it can do,
// so a share of its rate would flatter the cell.
struct ReadPeak {
  double best = 0, known = 0;  // bytes per second
  bool reached() const { return best >= kReachesPeak * known; }
  static constexpr double kReachesPeak = 0.99;
};
// Nothing of a device whose peak is not known, or where the probe was not read.
std::optional<ReadPeak> read_peak(const CellData& data);
// Each decode step of a run, by the device's clock where it tells every one; empty where one span stands for several.
std::vector<double> decode_steps_ns(const Run& run);
// The same by this clock alone.
std::vector<double> decode_steps_ns(const Run& run, Clock clock);
// Mean time of a decode step, which makes a token of each sequence: (T(n new tokens) − T(1)) / (n − 1), from the end of
// prefill to the last token.
std::optional<double> decode_step_ns(const Run& run);

}  // namespace quantbench
