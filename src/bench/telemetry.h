// What the card told while a run was timed. Plain data, and what follows from it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/telemetry.h"

namespace quantbench {

struct CardSample {
  int64_t at_ns = 0;  // since the run began; the first is from just before it, the last from just after it
  CardReading reading;
};

// Of one run. What is not told is nothing.
struct RunTelemetry {
  std::vector<CardSample> samples;
  std::optional<double> energy_j;                                        // between the first sample and the last
  std::optional<int64_t> ecc_uncorrected_before, ecc_uncorrected_after;  // since the driver was loaded
  std::optional<bool> mig_mode;
  std::optional<int> other_processes;  // that have a context there, at the most

  std::optional<uint64_t> reasons() const;  // all that held at any of the samples
  bool throttled() const;
};

// Reasons (nvml.h: clock event reasons) for which a run does not count: the card is slowed down by its hardware (0x8),
// by its temperature, as software (0x20) or hardware (0x40) sees it, or by its power supply (0x80). The power cap (0x4)
// is the state that a busy card is mostly in.
constexpr uint64_t kThrottleReasons = 0x8 | 0x20 | 0x40 | 0x80;
std::vector<std::string> names_of_reasons(uint64_t reasons);

// How many of the processes on a card are none of `own`. Nothing where the list is not told, or lacks one of `own`:
// then processes are numbered otherwise here than there, as in a container, and none can be told from ours.
std::optional<int> other_processes(const std::optional<std::vector<uint32_t>>& on_card, std::span<const uint32_t> own);

// Power over time; nothing where a sample lacks it or there are fewer than two.
std::optional<double> integrated_energy_j(std::span<const CardSample> samples);

// What a cell's runs took. Plain data.
struct EnergyReport {
  std::string source;      // "NVML energy counter", "NVML power samples", "RAPL"; empty: it is not known
  std::string missing;     // why it is not known
  bool estimated = false;  // from samples of power, of which a sensor may see a part of the time alone
  double joules = 0, seconds = 0;
  int runs = 0;
  int64_t tokens = 0;               // that the joules are of: those that t/s counts
  std::optional<double> idle_w;     // of the same device, before a model was loaded
  std::optional<uint64_t> reasons;  // of a card, as in RunTelemetry

  bool known() const { return !source.empty() && tokens > 0; }
  double joules_per_token() const { return joules / static_cast<double>(tokens); }
  std::optional<double> net_joules_per_token() const;
};

}  // namespace quantbench
