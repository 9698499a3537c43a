// `run --dry-run`: the plan with what it is predicted to take. No weights are read and nothing is written.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/run_plan.h"
#include "bench/forecast.h"
#include "bench/record.h"

namespace quantbench {

// How fast a device reads, measured once; nothing: not asked for, or it cannot be.
struct ReadSpeed {
  double bytes_per_second = 0;
  double visit_s = 0;  // that a visit to the probe takes
};

// A row of the plan.
struct ForecastRow {
  Cell cell;
  std::optional<Error> error;  // why it would fail; nothing: it would not
  std::optional<PlanReport> plan;
  std::optional<int64_t> available_bytes;  // of the device
  bool resident_together = true;           // with the other precisions of its group; else a process a visit
  std::optional<double> generation_s;
  std::optional<ForecastRange> range;  // its seconds count only where generation_s is known
};

// Rows of a group, in the order of the plan. Each precision is planned by a worker of its own. before_s: of what is
// done before the first of its cells that does not fail, and counted with that one. Throws only Error interrupted.
std::vector<ForecastRow> forecast_group(const PlannedGroup& group, const MeasureOptions& options,
                                        const MeasureHooks& hooks, const std::optional<ReadSpeed>& speed,
                                        double before_s = 0);

// A table for people, with what the figures are made of below it.
std::string forecast_text(const std::vector<ForecastRow>& rows, bool markdown);
std::string forecast_csv(const std::vector<ForecastRow>& rows);
Record forecast_json(const ForecastRow& row);  // bytes and nanoseconds
Record forecast_json(const std::vector<ForecastRow>& rows);

}  // namespace quantbench
