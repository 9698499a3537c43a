#include "bench/stamp.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "bench/statistics.h"

namespace quantbench {
namespace {

size_t weights_of(const MemoryUse& use) { return use[Use::weights] + use[Use::scales] + use[Use::unquantized]; }

class Judge {
 public:
  void invalid(std::string reason) { add(StampKind::invalid, std::move(reason)); }
  void flag(std::string reason) {
    stamp_.flags.push_back(reason);
    add(StampKind::flagged, std::move(reason));
  }
  Stamp stamp() && { return std::move(stamp_); }

 private:
  void add(StampKind kind, std::string reason) {
    stamp_.kind = std::max(stamp_.kind, kind);
    stamp_.reasons.push_back(std::move(reason));
  }
  Stamp stamp_;
};

void judge_outputs(const Cell& cell, const CellData& data, Judge& judge) {
  const auto wanted = static_cast<size_t>(cell.test.batch) * static_cast<size_t>(cell.test.new_tokens);
  const bool exact = cell.stop_at.empty();
  const auto differs = [&](const RunSample& s) { return s.report.run.tokens != data.runs.front().report.run.tokens; };
  const auto miscounts = [&](const RunSample& s) { return exact && s.report.run.tokens.size() != wanted; };
  const auto not_finite = [](const RunSample& s) { return !s.report.run.finite; };
  // A warm-up that differs says as much about the engine as a timed run.
  const auto any = [&](auto test) {
    return std::any_of(data.runs.begin(), data.runs.end(), test) ||
           std::any_of(data.warmup.begin(), data.warmup.end(), test) || (data.cold && test(*data.cold));
  };
  if (any(miscounts)) judge.invalid(fmt::format("token counts differ: not every run made {} tokens", wanted));
  if (any(differs)) judge.invalid("token ids differ between runs of the same input");
  if (any(not_finite)) judge.invalid("non-finite logits");  // --allow-nonfinite is about weights
}

void judge_memory(const CellData& data, Judge& judge) {
  if (!data.plan || !data.load) return;
  const size_t predicted = weights_of(data.plan->predicted), resident = weights_of(data.load->resident);
  const size_t allowed = static_cast<size_t>(kResidentTolerance * static_cast<double>(predicted)) + kResidentSlackBytes;
  const size_t apart = predicted > resident ? predicted - resident : resident - predicted;
  if (apart > allowed) {
    judge.invalid(fmt::format("weights take {} bytes, the format predicts {}", resident, predicted));
  }
}

void judge_others(const CellData& data, Judge& judge) {
  std::vector<double> shares;
  for (const RunSample& s : data.runs) {
    if (s.report.other_cpu) shares.push_back(*s.report.other_cpu);
  }
  if (shares.empty()) return;
  double sum = 0;
  for (double share : shares) sum += share;
  const double mean = sum / static_cast<double>(shares.size());
  if (mean > kOtherCpuLimit) judge.flag(fmt::format("other processes used {:.0f} % of the CPU", 100 * mean));
}

// What the card said of itself while the runs were timed.
void judge_card(const CellData& data, Judge& judge) {
  const auto count_of = [](const std::vector<RunSample>& runs, auto test) {
    return std::count_if(runs.begin(), runs.end(),
                         [&](const RunSample& s) { return s.telemetry && test(*s.telemetry); });
  };
  const auto throttled = [](const RunTelemetry& t) { return t.throttled(); };
  const auto reasons_of = [](const std::vector<RunSample>& runs) {
    uint64_t reasons = 0;
    for (const RunSample& s : runs) reasons |= s.telemetry ? s.telemetry->reasons().value_or(0) : 0;
    return fmt::format("{}", fmt::join(names_of_reasons(reasons & kThrottleReasons), ", "));
  };
  if (const auto bad = count_of(data.runs, throttled); bad > 0) {
    judge.invalid(fmt::format("throttled: {} of {} runs ({})", bad, data.runs.size(), reasons_of(data.runs)));
  }
  if (!data.throttled.empty()) {
    judge.flag(fmt::format("throttled runs were repeated: {} ({})", data.throttled.size(), reasons_of(data.throttled)));
  }
  std::optional<int64_t> first_errors, last_errors;
  int others = 0;
  for (const RunSample& s : data.runs) {
    if (!s.telemetry) continue;
    if (!first_errors) first_errors = s.telemetry->ecc_uncorrected_before;
    if (s.telemetry->ecc_uncorrected_after) last_errors = s.telemetry->ecc_uncorrected_after;
    others = std::max(others, s.telemetry->other_processes.value_or(0));
  }
  if (first_errors && last_errors && *last_errors > *first_errors) {
    judge.invalid(fmt::format("ECC errors: {} that were not corrected, during the runs", *last_errors - *first_errors));
  } else if (last_errors.value_or(0) > 0) {
    judge.flag(fmt::format("ECC errors: {} that were not corrected since the driver was loaded", *last_errors));
  }
  if (others > 0) {
    const auto runs = count_of(data.runs, [](const RunTelemetry& t) { return t.other_processes.value_or(0) > 0; });
    judge.flag(fmt::format("other processes on the GPU: up to {}, in {} of {} runs", others, runs, data.runs.size()));
  }
}

}  // namespace

std::string_view name_of(StampKind kind) {
  switch (kind) {
    case StampKind::valid: return "VALID";
    case StampKind::flagged: return "FLAGGED";
    case StampKind::invalid: return "INVALID";
  }
  return "?";
}

Stamp judge(const Cell& cell, const CellData& data, const MeasureOptions& options, const BuildInfo& build) {
  Judge judge;
  if (data.outcome.status != Status::ok) judge.invalid(std::string(name_of(data.outcome.status)));
  if (data.runs.empty()) {
    if (data.outcome.status == Status::ok) judge.invalid("no timed run");
    return std::move(judge).stamp();
  }
  judge_outputs(cell, data, judge);
  judge_memory(data, judge);
  const auto runs = static_cast<int>(data.runs.size());
  if (runs < kMinRuns) {
    // A cell that came to its end and was not told how many runs to make has fewer for one reason only.
    const bool time_was_up = data.outcome.status == Status::ok && options.runs == 0;
    judge.flag(fmt::format("{} run{}, fewer than {}{}", runs, runs == 1 ? "" : "s", kMinRuns,
                           time_was_up ? ": the time was up; raise --max-time" : ""));
  }
  const double width = relative_half_width(latencies_ns(data.runs));
  if (width > options.target_ci && runs >= kMinRuns) {
    judge.flag(fmt::format("interval target missed: ±{:.1f} % of the median, wanted ±{:g} %", 100 * width,
                           100 * options.target_ci));
  }
  if (!cell.stop_at.empty()) judge.flag("not comparable: generation may stop at end-of-sequence (--stop-at-eos)");
  if (cell.model.allow_nonfinite) judge.flag("--allow-nonfinite: weights were not required to be finite");
  if (!build.optimized) judge.flag("debug build: assertions, sanitizers or no optimisation");
  if (data.tuning_varied) judge.flag("its processes did not choose the same tuning");
  judge_others(data, judge);
  judge_card(data, judge);
  if (data.quality && !data.quality->error.empty()) {
    judge.flag(fmt::format("quality was not measured: {}", data.quality->error));
  }
  return std::move(judge).stamp();
}

}  // namespace quantbench
