// What a card tells of itself while it works: clocks, power, errors, who else is on it. Needs no context on it and
// takes none of its memory, so that the process that measures nothing itself can ask.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace quantbench {

// Now. Each is nothing where the card or its driver does not tell it, never 0 instead.
struct CardReading {
  std::optional<int> sm_mhz, memory_mhz, temperature_c;
  std::optional<uint64_t> reasons;  // why clocks are what they are: bits of nvml.h's clock event reasons
  std::optional<double> power_w;    // of the card
};

// What is asked for before and after a run alone.
struct CardState {
  std::optional<double> energy_j;  // since the driver was loaded
  std::optional<int64_t> ecc_uncorrected;
  std::optional<bool> mig_mode;  // the card is cut into slices
};

// May be called from any thread, by one at a time.
class Telemetry {
 public:
  virtual ~Telemetry() = default;
  virtual CardReading read() = 0;
  virtual CardState state() = 0;
  // That have a context there, as the driver numbers processes.
  virtual std::optional<std::vector<uint32_t>> processes() = 0;
};

struct OpenedTelemetry {
  std::unique_ptr<Telemetry> telemetry;  // null: there is none
  std::string missing;                   // why
};
// Of the device that a backend chose. Without it everything else works.
OpenedTelemetry open_telemetry(const DeviceInfo& device);

}  // namespace quantbench
