#include "bench/forecast.h"

#include <algorithm>
#include <cmath>

namespace quantbench {
namespace {

// Rows of prompts that a call takes together (docs/method.md, "What is measured").
constexpr int kRowsOfACall = 2048;

double gib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

Forecast follow_protocol(const MeasureOptions& options, double generation_s, double probe_s, bool resident_together,
                         bool settles) {
  Forecast f;
  double spent_s = 0;  // generating
  const auto generate = [&] {
    ++f.generations;
    spent_s += generation_s;
  };
  generate();  // cold
  for (int warmups = 1; warmups <= kMaxWarmups; ++warmups) {
    generate();
    if (warmups >= kMinWarmups && (settles || spent_s > options.max_time_s / 3)) break;
  }
  const auto is_done = [&] {
    if (options.runs > 0) return f.runs >= options.runs;
    return f.runs >= (settles ? kMinRuns : kMaxRuns) || (f.runs > 0 && spent_s >= options.max_time_s);
  };
  while (!is_done()) {
    if (!resident_together) generate();
    generate();
    ++f.runs;
  }
  f.seconds = spent_s + f.runs * probe_s;
  return f;
}

}  // namespace

int64_t predicted_bytes(const PlanReport& plan) { return static_cast<int64_t>(plan.predicted.total()) + kProcessBytes; }

void check_fits(const PlanReport& plan, std::optional<int64_t> available_bytes) {
  if (!available_bytes || predicted_bytes(plan) <= *available_bytes) return;
  const bool gpu = plan.device.gpu.has_value();
  fail(ErrorKind::out_of_memory,
       "it needs {:.2f} GiB (weights, cache and buffers), {:.2f} GiB {}; choose a smaller model or precision, or "
       "free memory{}",
       gib(predicted_bytes(plan)), gib(*available_bytes),
       gpu ? fmt::format("of {} are free", plan.device.name) : "are available",
       gpu ? " there (nvidia-smi lists what has it)" : "");
}

double generation_bytes(const Cell& cell, const PlanReport& plan) {
  const Test& test = cell.test;
  const MemoryUse& use = plan.predicted;
  double prompt_bytes = 0;
  if (plan.shape.encoder) {
    prompt_bytes = static_cast<double>(use[Use::weights] + use[Use::scales] + use[Use::unquantized]);
  } else {
    const int prompts_of_a_call = std::max(1, kRowsOfACall / std::max(1, test.prompt_tokens));
    const int calls = (test.batch + prompts_of_a_call - 1) / prompts_of_a_call;
    prompt_bytes = static_cast<double>(calls) * static_cast<double>(plan.token_weight_bytes);
  }
  const int before = test.depth + (plan.shape.has_cross_attention() ? 1 : test.prompt_tokens);
  const double mean_context = before + test.new_tokens / 2.0;
  const double step_bytes = static_cast<double>(plan.token_weight_bytes + plan.kv_fixed_bytes) +
                            test.batch * static_cast<double>(plan.kv_position_bytes) * mean_context;
  return prompt_bytes + (test.new_tokens - 1) * step_bytes;
}

ForecastRange forecast(const MeasureOptions& options, double generation_s, double probe_s, bool resident_together) {
  return {follow_protocol(options, generation_s, probe_s, resident_together, true),
          follow_protocol(options, generation_s, probe_s, resident_together, false)};
}

double seconds_after_runs(const MeasureOptions& options, const Test& test, double generation_s,
                          bool resident_together) {
  double seconds = 0;
  if (options.energy) {
    if (!resident_together) seconds += generation_s;
    seconds += std::max(1.0, std::ceil(kEnergySeconds / generation_s)) * generation_s;
  }
  constexpr double kExplainSeconds = 1;  // engine/step_times.cpp
  if (options.explain && test.new_tokens >= 2) seconds += generation_s + kExplainSeconds;
  return seconds;
}

int expected_runs(const MeasureOptions& options, std::span<const double> latencies_ns, double spent_s) {
  if (options.runs > 0) return options.runs;
  const auto runs = static_cast<int>(latencies_ns.size());
  if (runs == 0) return kMinRuns;
  int expected = kMinRuns;
  if (runs >= kMinRuns) {
    const double times_too_wide = relative_half_width(latencies_ns) / options.target_ci;
    if (times_too_wide <= 1) return runs;
    const double wanted = std::min<double>(kMaxRuns, std::ceil(runs * times_too_wide * times_too_wide));
    expected = std::clamp(static_cast<int>(wanted), std::min(runs + 1, kMaxRuns), kMaxRuns);
  }
  double run_s = 0;
  for (const double ns : latencies_ns) run_s += ns * 1e-9 / runs;
  const double left_s = options.max_time_s - spent_s;
  if (left_s <= 0) return runs;
  if (run_s > 0 && left_s / run_s < kMaxRuns) {
    expected = std::min(expected, runs + static_cast<int>(std::ceil(left_s / run_s)));
  }
  return std::max(expected, runs);
}

std::string rough_time(double seconds) {
  if (seconds < 1) return "1 s";
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  const auto minutes = static_cast<int64_t>(std::lround(seconds / 60));
  if (minutes < 90) return fmt::format("{} min", minutes);
  const int64_t rest = minutes % 60;
  return rest == 0 ? fmt::format("{} h", minutes / 60) : fmt::format("{} h {} min", minutes / 60, rest);
}

}  // namespace quantbench
