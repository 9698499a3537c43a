#include "bench/energy.h"

namespace quantbench {

EnergyMeter::EnergyMeter(Monitor& monitor, std::optional<Rapl> host, Now now, Pause pause)
    : monitor_(monitor), host_(std::move(host)), now_(std::move(now)), pause_(std::move(pause)) {}

double EnergyMeter::seconds() const { return static_cast<double>(now_() - start_ns_) * 1e-9; }

const std::string& EnergyMeter::look() {
  begin();
  missing_ = end(0, 0).missing;
  return missing_;
}

bool EnergyMeter::measure_idle() {
  if (idle_) return false;
  if (!look().empty()) {
    idle_.emplace();
    return true;
  }
  pause_(kSettleSeconds);
  begin();
  pause_(kEnergySeconds);
  idle_ = end(0, 0);
  return true;
}

void EnergyMeter::begin() {
  monitor_.begin();
  if (host_) host_start_j_ = host_->joules();
  start_ns_ = now_();
}

EnergyReport EnergyMeter::end(int runs, int64_t tokens) {
  EnergyReport r;
  r.seconds = seconds();
  r.runs = runs;
  r.tokens = tokens;
  std::optional<double> joules;
  if (const auto card = monitor_.end({})) {
    r.reasons = card->reasons();
    joules = card->energy_j;
    r.source = "NVML energy counter";
    if (!joules) {
      joules = integrated_energy_j(card->samples);
      r.source = "NVML power samples";
      r.estimated = true;
    }
    if (!joules) r.missing = "the card tells neither energy nor power";
  } else if (host_) {
    const auto now_j = host_->joules();
    if (host_start_j_ && now_j) joules = *now_j - *host_start_j_;
    r.source = "RAPL";
    if (!joules) r.missing = host_->missing();
  } else {
    r.missing = monitor_.missing();
  }
  if (!joules) {
    r.source.clear();
    r.estimated = false;
    return r;
  }
  r.joules = *joules;
  if (idle_ && idle_->source == r.source && idle_->seconds > 0) r.idle_w = idle_->joules / idle_->seconds;
  return r;
}

}  // namespace quantbench
