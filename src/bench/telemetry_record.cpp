#include "bench/telemetry_record.h"

#include <algorithm>

#include "bench/statistics.h"

namespace quantbench {
namespace {

Record reasons_part(const std::optional<uint64_t>& reasons) {
  return reasons ? Record(names_of_reasons(*reasons)) : Record(nullptr);
}

// Over all samples of all timed runs; null where none has it.
template <typename Get>
Record range_part(const CellData& data, Get get) {
  std::vector<double> values;
  for (const RunSample& run : data.runs) {
    if (!run.telemetry) continue;
    for (const CardSample& s : run.telemetry->samples) {
      if (const auto value = get(s.reading)) values.push_back(static_cast<double>(*value));
    }
  }
  if (values.empty()) return nullptr;
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return {{"min", *least}, {"median", median(values)}, {"max", *most}};
}

}  // namespace

Record run_telemetry_part(const std::optional<RunTelemetry>& telemetry) {
  if (!telemetry) return nullptr;
  const RunTelemetry& t = *telemetry;
  Record samples = Record::array();
  for (const CardSample& s : t.samples) {
    const CardReading& r = s.reading;
    samples.push_back({s.at_ns, or_null(r.sm_mhz), or_null(r.memory_mhz), or_null(r.temperature_c), or_null(r.power_w),
                       or_null(r.reasons)});
  }
  return {{"throttled", t.reasons() ? Record(t.throttled()) : Record(nullptr)},
          {"reasons", reasons_part(t.reasons())},
          {"energy_joules", or_null(t.energy_j)},
          {"ecc_uncorrected_before", or_null(t.ecc_uncorrected_before)},
          {"ecc_uncorrected_after", or_null(t.ecc_uncorrected_after)},
          {"mig_mode", or_null(t.mig_mode)},
          {"other_processes", or_null(t.other_processes)},
          {"samples", samples}};
}

Record telemetry_part(const CellData& data, const std::string& missing) {
  std::optional<uint64_t> reasons;
  std::optional<int> others, capped, throttled;
  std::optional<bool> mig_mode;
  std::optional<int64_t> errors;
  bool watched = false;
  for (const RunSample& run : data.runs) {
    if (!run.telemetry) continue;
    const RunTelemetry& t = *run.telemetry;
    watched = true;
    if (const auto all = t.reasons()) {
      constexpr uint64_t kPowerCap = 0x4;
      reasons = reasons.value_or(0) | *all;
      capped = capped.value_or(0) + ((*all & kPowerCap) != 0 ? 1 : 0);
      throttled = throttled.value_or(0) + (t.throttled() ? 1 : 0);
    }
    if (t.other_processes) others = std::max(others.value_or(0), *t.other_processes);
    if (t.mig_mode) mig_mode = t.mig_mode;
    if (t.ecc_uncorrected_after) errors = t.ecc_uncorrected_after;
  }
  return {{"source", watched ? Record("NVML") : Record(nullptr)},
          {"missing", watched || missing.empty() ? Record(nullptr) : Record(missing)},
          {"sm_mhz", range_part(data, [](const CardReading& r) { return r.sm_mhz; })},
          {"memory_mhz", range_part(data, [](const CardReading& r) { return r.memory_mhz; })},
          {"temperature_celsius", range_part(data, [](const CardReading& r) { return r.temperature_c; })},
          {"power_watts", range_part(data, [](const CardReading& r) { return r.power_w; })},
          {"reasons", reasons_part(reasons)},
          {"power_capped_runs", or_null(capped)},
          {"throttled_runs", or_null(throttled)},
          {"repeated_runs", watched ? Record(data.throttled.size()) : Record(nullptr)},
          {"ecc_uncorrected", or_null(errors)},
          {"mig_mode", or_null(mig_mode)},
          {"other_processes", or_null(others)}};
}

Record energy_part(const std::optional<EnergyReport>& energy) {
  if (!energy) return nullptr;
  const EnergyReport& e = *energy;
  const auto if_known = [&](double value) { return e.known() ? Record(value) : Record(nullptr); };
  return {{"source", e.known() ? Record(e.source) : Record(nullptr)},
          {"missing", e.missing.empty() ? Record(nullptr) : Record(e.missing)},
          {"estimated", e.estimated},
          {"joules", if_known(e.joules)},
          {"seconds", e.seconds},
          {"runs", e.runs},
          {"tokens", e.tokens},
          {"idle_watts", or_null(e.idle_w)},
          {"reasons", reasons_part(e.reasons)}};
}

}  // namespace quantbench
