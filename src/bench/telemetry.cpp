#include "bench/telemetry.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace quantbench {

std::optional<uint64_t> RunTelemetry::reasons() const {
  std::optional<uint64_t> all;
  for (const CardSample& s : samples) {
    if (s.reading.reasons) all = all.value_or(0) | *s.reading.reasons;
  }
  return all;
}

bool RunTelemetry::throttled() const { return (reasons().value_or(0) & kThrottleReasons) != 0; }

std::vector<std::string> names_of_reasons(uint64_t reasons) {
  constexpr std::array<std::pair<uint64_t, const char*>, 9> kNames{{{0x1, "idle"},
                                                                    {0x2, "clocks set by an application"},
                                                                    {0x4, "power cap"},
                                                                    {0x8, "hardware slowdown"},
                                                                    {0x10, "sync boost"},
                                                                    {0x20, "software thermal slowdown"},
                                                                    {0x40, "hardware thermal slowdown"},
                                                                    {0x80, "hardware power brake"},
                                                                    {0x100, "display clock"}}};
  std::vector<std::string> names;
  for (const auto& [bit, name] : kNames) {
    if (reasons & bit) names.emplace_back(name);
    reasons &= ~bit;
  }
  if (reasons != 0) names.push_back(fmt::format("{:#x}", reasons));
  return names;
}

std::optional<double> EnergyReport::net_joules_per_token() const {
  if (!idle_w) return std::nullopt;
  return (joules - *idle_w * seconds) / static_cast<double>(tokens);
}

std::optional<int> other_processes(const std::optional<std::vector<uint32_t>>& on_card, std::span<const uint32_t> own) {
  if (!on_card || own.empty()) return std::nullopt;
  const auto has = [](std::span<const uint32_t> list, uint32_t pid) {
    return std::find(list.begin(), list.end(), pid) != list.end();
  };
  if (!std::all_of(own.begin(), own.end(), [&](uint32_t pid) { return has(*on_card, pid); })) return std::nullopt;
  return static_cast<int>(
      std::count_if(on_card->begin(), on_card->end(), [&](uint32_t pid) { return !has(own, pid); }));
}

std::optional<double> integrated_energy_j(std::span<const CardSample> samples) {
  if (samples.size() < 2) return std::nullopt;
  double energy_j = 0;
  for (size_t i = 0; i < samples.size(); ++i) {
    if (!samples[i].reading.power_w) return std::nullopt;
    if (i == 0) continue;
    const double seconds = static_cast<double>(samples[i].at_ns - samples[i - 1].at_ns) * 1e-9;
    energy_j += seconds * (*samples[i - 1].reading.power_w + *samples[i].reading.power_w) / 2;
  }
  return energy_j;
}

}  // namespace quantbench
