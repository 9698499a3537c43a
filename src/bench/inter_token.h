// Percentiles of the time between two tokens, over all timed runs of a cell.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "bench/summary.h"

namespace quantbench {

struct InterTokenPercentile {
  std::string_view name;
  double q;
};
constexpr std::array kInterTokenPercentiles{
    InterTokenPercentile{"inter_token_pooled_p50", 0.50}, InterTokenPercentile{"inter_token_pooled_p90", 0.90},
    InterTokenPercentile{"inter_token_pooled_p95", 0.95}, InterTokenPercentile{"inter_token_pooled_p99", 0.99}};

// Percentiles of the steps of all runs together, those for which there are enough steps (samples_for_quantile()). The
// interval is over runs, whose steps stay together: a percentile bootstrap that draws whole runs, since the steps of
// one run are not independent; none with fewer runs than the interval of a median needs. A summary's median is the
// percentile of all steps, its samples are those of each run alone.
// steps_ns: of each run, each of its decode steps; nothing is told where a run lacks them.
std::vector<Summary> inter_token_percentiles(std::span<const std::vector<double>> steps_ns, uint64_t seed);

}  // namespace quantbench
