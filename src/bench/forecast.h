// What a cell is going to take: memory before it is loaded, time before and while it is measured. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "bench/cell.h"
#include "bench/cell_data.h"
#include "bench/measure.h"

namespace quantbench {

// Beyond what the cells of a group take: for the kernel, the parent and the page cache that loading needs.
constexpr int64_t kSpareBytes = int64_t{512} << 20;
// A worker's process before the model: code, allocator, stacks (seen: 5 to 10 MB).
constexpr int64_t kProcessBytes = int64_t{16} << 20;

// Of a cell with its process; available_bytes: of the device, or nothing where that is not known.
int64_t predicted_bytes(const PlanReport& plan);
// Error out_of_memory with the figures, where the cell does not fit even alone.
void check_fits(const PlanReport& plan, std::optional<int64_t> available_bytes);

// Bytes that one generation must read: for the prompt the weights once a call, then for every further token the weights
// and the keys and values of the mean context (docs/method.md, "% of read peak"). What computing a long prompt takes
// beyond reading is not in it.
double generation_bytes(const Cell& cell, const PlanReport& plan);

struct Forecast {
  int generations = 0;  // cold run, warm-up and timed runs, and those that a fresh process makes before each of these
  int runs = 0;         // the timed ones
  double seconds = 0;
};
struct ForecastRange {
  Forecast low, high;  // where warm-up settles and the interval is narrow as soon as it counts; where neither ever is
};
// generation_s: of one, above 0; probe_s: of a visit to the bandwidth probe, one a timed run. As the protocol goes
// about it, the time cap included; loading is not in it.
ForecastRange forecast(const MeasureOptions& options, double generation_s, double probe_s, bool resident_together);
// What comes when the timed runs of a cell are over: runs for energy, back to back, and taking a step apart; without
// what the generations of the protocol take, the device idle before them, and loading.
double seconds_after_runs(const MeasureOptions& options, const Test& test, double generation_s, bool resident_together);

// Timed runs that a cell will have had in the end, from those so far: as the interval of a median narrows, by the root
// of their number, until it is as narrow as asked for, or the most runs are made or its time is spent.
int expected_runs(const MeasureOptions& options, std::span<const double> latencies_ns, double spent_s);

// "40 s", "2 min", "1 h 20 min": as coarse as an estimate is good for.
std::string rough_time(double seconds);

}  // namespace quantbench
