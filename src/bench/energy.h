// Energy of a token: that of several seconds of runs back to back, whole and without what the idle device takes.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "bench/monitor.h"
#include "bench/rapl.h"

namespace quantbench {

constexpr double kEnergySeconds = 5;  // the least of runs, and of the idle device
constexpr double kSettleSeconds = 2;  // of the device that has just been opened

class EnergyMeter {
 public:
  using Now = std::function<int64_t()>;
  using Pause = std::function<void(double seconds)>;

  // Reads the card that the monitor watches; host: its counters, where the device is no card.
  EnergyMeter(Monitor& monitor, std::optional<Rapl> host, Now now, Pause pause);

  // The first time it is called, a few seconds of the idle device; then true. Takes no time where nothing can be read.
  bool measure_idle();
  const std::string& missing() const { return missing_; }  // why nothing can be read; empty: it can
  const std::string& look();                               // finds that out; takes no time
  void begin();
  // Of what was done since begin().
  EnergyReport end(int runs, int64_t tokens);
  double seconds() const;  // since begin()

 private:
  Monitor& monitor_;
  std::optional<Rapl> host_;
  Now now_;
  Pause pause_;
  int64_t start_ns_ = 0;
  std::optional<double> host_start_j_;
  std::optional<EnergyReport> idle_;
  std::string missing_;
};

}  // namespace quantbench
