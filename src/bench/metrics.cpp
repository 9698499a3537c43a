#include "bench/metrics.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "bench/inter_token.h"
#include "bench/statistics.h"

namespace quantbench {
namespace {

double length_ns(const Span& s) { return static_cast<double>(s.end_ns - s.start_ns); }

// The last of a phase by this clock; null where there is none.
const Span* last_of(const Run& run, Phase phase, Clock clock) {
  const auto found = std::find_if(run.spans.rbegin(), run.spans.rend(),
                                  [&](const Span& s) { return s.phase == phase && s.clock == clock; });
  return found == run.spans.rend() ? nullptr : &*found;
}

bool has(const Run& run, Phase phase, Clock clock) { return last_of(run, phase, clock) != nullptr; }

// All spans of a phase together, by the device's clock where it has told any; nothing where there is none.
std::optional<double> phase_ns(const Run& run, Phase phase) {
  const Clock clock = has(run, phase, Clock::device) ? Clock::device : Clock::host;
  std::optional<double> sum;
  for (const Span& s : run.spans) {
    if (s.phase == phase && s.clock == clock) sum = sum.value_or(0) + length_ns(s);
  }
  return sum;
}

// What the device was at work, by its own clock; nothing where it has not told every phase that the host has seen.
std::optional<double> device_ns(const Run& run) {
  std::optional<double> sum;
  for (const Span& s : run.spans) {
    if (s.clock == Clock::device) sum = sum.value_or(0) + length_ns(s);
    if (!has(run, s.phase, Clock::device)) return std::nullopt;
  }
  return sum;
}

std::optional<double> host_overhead_ns(const Run& run) {
  const auto device = device_ns(run);
  if (!device) return std::nullopt;
  return static_cast<double>(run.total_ns) - *device;
}

std::optional<double> per_second(double count, std::optional<double> ns) {
  if (!ns || *ns <= 0 || count <= 0) return std::nullopt;
  return count / *ns * 1e9;
}

std::optional<double> first_token_ns(const Run& run) {
  for (const Clock clock : {Clock::host, Clock::device}) {
    // The one that ends with the first tokens; from the start of the run.
    if (const Span* prefill = last_of(run, Phase::prefill, clock)) return static_cast<double>(prefill->end_ns);
  }
  return std::nullopt;
}

double total_ns(const RunSample& s) { return static_cast<double>(s.report.run.total_ns); }
// Of each sequence: a batch makes one token of each in a step, so that is what a latency is of.
double new_tokens(const RunSample& s) { return s.report.run.new_tokens(); }
double sequences(const RunSample& s) { return s.report.run.sequences; }

std::optional<double> read_share(const RunSample& s, const CellData& d) {
  const auto bytes = bytes_per_step(s, d), step_ns = decode_step_ns(s.report.run);
  if (!bytes || !step_ns || *step_ns <= 0) return std::nullopt;
  if (!s.read_before || !s.read_after) return std::nullopt;
  const double read_rate = (*s.read_before + *s.read_after) / 2;
  return *bytes / *step_ns * 1e9 / read_rate;
}

constexpr std::array kRunMetrics{
    RunMetric{"total_latency", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) -> std::optional<double> { return total_ns(s); }},
    RunMetric{"latency_per_token", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) -> std::optional<double> {
                if (new_tokens(s) == 0) return std::nullopt;
                return total_ns(s) / new_tokens(s);
              }},
    RunMetric{"time_to_first_token", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) { return first_token_ns(s.report.run); }},
    RunMetric{"encode_time", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) { return phase_ns(s.report.run, Phase::encode); }},
    RunMetric{"vision_time", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) { return phase_ns(s.report.run, Phase::vision); }},
    RunMetric{"prefill_time", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) { return phase_ns(s.report.run, Phase::prefill); }},
    RunMetric{"decode_time", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) { return phase_ns(s.report.run, Phase::decode); }},
    RunMetric{"device_time", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) { return device_ns(s.report.run); }},
    RunMetric{"host_overhead", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) { return host_overhead_ns(s.report.run); }},
    RunMetric{"inter_token_median", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) -> std::optional<double> {
                const auto steps = decode_steps_ns(s.report.run);
                if (steps.empty()) return std::nullopt;
                return median(steps);
              }},
    RunMetric{"inter_token_p95", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) { return tail_quantile(decode_steps_ns(s.report.run), 0.95); }},
    RunMetric{"prefill_tokens_per_second", Unit::per_second, Better::higher,
              [](const RunSample& s, const CellData&) {
                // An encoder's time is a part of it.
                return per_second(sequences(s) * s.report.run.prompt_tokens, first_token_ns(s.report.run));
              }},
    RunMetric{
        "decode_tokens_per_second", Unit::per_second, Better::higher,
        [](const RunSample& s, const CellData&) { return per_second(sequences(s), decode_step_ns(s.report.run)); }},
    RunMetric{
        "tokens_per_second", Unit::per_second, Better::higher,
        [](const RunSample& s, const CellData&) { return per_second(sequences(s) * new_tokens(s), total_ns(s)); }},
    RunMetric{"bytes_per_token", Unit::bytes, Better::lower,
              [](const RunSample& s, const CellData& d) -> std::optional<double> {
                const auto bytes = bytes_per_step(s, d);
                if (!bytes) return std::nullopt;
                return *bytes / sequences(s);
              }},
    RunMetric{kReadShare, Unit::fraction, Better::higher, read_share},
    RunMetric{kInterTokenHostMedian, Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) -> std::optional<double> {
                const auto steps = decode_steps_ns(s.report.run, Clock::host);
                if (steps.empty()) return std::nullopt;
                return median(steps);
              }},
    RunMetric{"inter_token_host_p95", Unit::nanoseconds, Better::lower,
              [](const RunSample& s, const CellData&) {
                return tail_quantile(decode_steps_ns(s.report.run, Clock::host), 0.95);
              }},
};

using MaybeBytes = std::optional<double>;
MaybeBytes of_memory(const CellData& d, int64_t MemoryReport::*part) {
  if (!d.memory) return std::nullopt;
  return static_cast<double>((*d.memory).*part);
}

constexpr std::array kCellMetrics{
    CellMetric{"load_time", Unit::nanoseconds, Better::lower,
               [](const CellData& d) -> MaybeBytes {
                 if (!d.load) return std::nullopt;
                 return static_cast<double>(d.load->load_ns());
               }},
    CellMetric{"weight_bytes", Unit::bytes, Better::lower,
               [](const CellData& d) -> MaybeBytes {
                 if (!d.load) return std::nullopt;
                 const MemoryUse& use = d.load->resident;
                 return static_cast<double>(use[Use::weights] + use[Use::scales] + use[Use::unquantized]);
               }},
    CellMetric{"memory_start", Unit::bytes, Better::lower,
               [](const CellData& d) { return of_memory(d, &MemoryReport::start_bytes); }},
    CellMetric{"memory_peak", Unit::bytes, Better::lower,
               [](const CellData& d) -> MaybeBytes {
                 if (!d.memory) return std::nullopt;
                 return static_cast<double>(d.memory->peak_bytes());
               }},
    CellMetric{"memory_end", Unit::bytes, Better::lower,
               [](const CellData& d) { return of_memory(d, &MemoryReport::end_bytes); }},
    CellMetric{kJoulesPerToken, Unit::joules, Better::lower,
               [](const CellData& d) -> std::optional<double> {
                 if (!d.energy || !d.energy->known()) return std::nullopt;
                 return d.energy->joules_per_token();
               }},
    CellMetric{"net_joules_per_token", Unit::joules, Better::lower,
               [](const CellData& d) -> std::optional<double> {
                 if (!d.energy || !d.energy->known()) return std::nullopt;
                 return d.energy->net_joules_per_token();
               }},
};

}  // namespace

std::string_view name_of(Unit unit) {
  switch (unit) {
    case Unit::nanoseconds: return "ns";
    case Unit::bytes: return "bytes";
    case Unit::per_second: return "1/s";
    case Unit::fraction: return "1";
    case Unit::joules: return "J";
  }
  return "?";
}

std::vector<MetricInfo> metric_infos() {
  std::vector<MetricInfo> infos;
  for (const RunMetric& m : kRunMetrics) infos.push_back({m.name, m.unit, true});
  for (const InterTokenPercentile& p : kInterTokenPercentiles) infos.push_back({p.name, Unit::nanoseconds, true});
  for (const CellMetric& m : kCellMetrics) infos.push_back({m.name, m.unit, false});
  return infos;
}

std::span<const RunMetric> run_metrics() { return kRunMetrics; }
std::span<const CellMetric> cell_metrics() { return kCellMetrics; }

std::optional<double> decode_step_ns(const Run& run) {
  for (const Clock clock : {Clock::host, Clock::device}) {
    const Span *prefill = last_of(run, Phase::prefill, clock), *decode = last_of(run, Phase::decode, clock);
    if (!prefill || !decode || run.new_tokens() < 2) continue;
    return static_cast<double>(decode->end_ns - prefill->end_ns) / (run.new_tokens() - 1);
  }
  return std::nullopt;
}

std::vector<double> decode_steps_ns(const Run& run, Clock clock) {
  std::vector<double> steps;
  for (const Span& s : run.spans) {
    if (s.phase == Phase::decode && s.clock == clock) steps.push_back(length_ns(s));
  }
  if (static_cast<int>(steps.size()) != run.new_tokens() - 1) steps.clear();
  return steps;
}

std::vector<double> decode_steps_ns(const Run& run) {
  std::vector<double> steps = decode_steps_ns(run, Clock::device);
  return steps.empty() ? decode_steps_ns(run, Clock::host) : steps;
}

std::optional<double> bytes_per_step(const RunSample& sample, const CellData& data) {
  const Run& run = sample.report.run;
  if (!data.load || run.new_tokens() < 2) return std::nullopt;
  return static_cast<double>(data.load->token_weight_bytes + data.load->kv_fixed_bytes) +
         run.sequences * mean_context(run, data) * static_cast<double>(data.load->kv_position_bytes);
}

std::optional<ReadPeak> read_peak(const CellData& data) {
  // As CUDA names them; a slice of a card has another name.
  constexpr std::array<std::pair<std::string_view, double>, 2> kCards{
      {{"NVIDIA H100 80GB HBM3", 3.16e12}, {"NVIDIA H200", 4.58e12}}};
  if (!data.plan) return std::nullopt;
  const auto card = std::find_if(kCards.begin(), kCards.end(),
                                 [&](const auto& known) { return known.first == data.plan->device.name; });
  if (card == kCards.end()) return std::nullopt;
  ReadPeak peak{0, card->second};
  for (const RunSample& s : data.runs) {
    peak.best = std::max({peak.best, s.read_before.value_or(0), s.read_after.value_or(0)});
  }
  if (peak.best == 0) return std::nullopt;
  return peak;
}

double mean_context(const Run& run, const CellData& data) {
  // Step i of 1 … n − 1 attends to context + prompt + i positions of each sequence.
  // A prompt that an encoder took is in no cache of that kind.
  const bool has_cross = data.plan && data.plan->shape.has_cross_attention();
  return run.context_tokens + (has_cross ? 0 : run.prompt_tokens) + run.new_tokens() / 2.0;
}

std::vector<Summary> summarize(const CellData& data) {
  std::vector<Summary> result;
  for (const RunMetric& metric : kRunMetrics) {
    Summary s{std::string(metric.name), metric.unit, metric.better};
    for (const RunSample& sample : data.runs) {
      if (const auto value = metric.of(sample, data)) s.samples.push_back(*value);
    }
    // A metric that some runs lack would compare unlike runs. The last one may lack it: of an interrupted cell the
    // probe was not read again.
    if (s.samples.empty() || s.samples.size() + 1 < data.runs.size()) continue;
    if (s.samples.size() != data.runs.size() && metric.of(data.runs.back(), data)) continue;
    s.runs = static_cast<int>(s.samples.size());
    s.median = median(s.samples);
    s.mad = median_absolute_deviation(s.samples);
    s.min = *std::min_element(s.samples.begin(), s.samples.end());
    s.max = *std::max_element(s.samples.begin(), s.samples.end());
    if (const auto interval = median_interval(s.samples)) {
      s.low = interval->low;
      s.high = interval->high;
      s.coverage = interval->coverage;
    }
    result.push_back(std::move(s));
  }
  std::vector<std::vector<double>> steps;
  for (const RunSample& sample : data.runs) steps.push_back(decode_steps_ns(sample.report.run));
  for (Summary& s : inter_token_percentiles(steps, data.order_seed)) result.push_back(std::move(s));
  for (const CellMetric& metric : kCellMetrics) {
    const auto value = metric.of(data);
    if (!value) continue;
    Summary s{std::string(metric.name), metric.unit, metric.better};
    s.median = s.min = s.max = *value;
    result.push_back(std::move(s));
  }
  return result;
}

}  // namespace quantbench
