// The phases of one generation by the device's own clock.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/session.h"

namespace quantbench {

// The phases of one generation between marks of the device's timeline; does nothing without one.
class DevicePhases {
 public:
  explicit DevicePhases(Timeline* timeline) : timeline_(timeline) {
    if (!timeline_) return;
    timeline_->restart();
    begin();
  }
  void begin() {
    if (timeline_) begin_ = timeline_->mark();
  }
  // From begin() or the end before it, whichever came last.
  void end(Phase phase) {
    if (!timeline_) return;
    const int end = timeline_->mark();
    spans_.push_back({phase, begin_, end});
    begin_ = end;
  }
  // What follows lies so much later than the run's own time: the run was held up.
  void leave_out(int64_t ns) {
    left_out_from_ = spans_.size();
    left_out_ns_ = ns;
  }
  // Adds those to a run, decode steps no more than it has further tokens.
  void add_to(Run* run) const {
    if (!timeline_) return;
    const std::vector<int64_t> times_ns = timeline_->times_ns();
    int steps = run->new_tokens() - 1;
    for (size_t i = 0; i < spans_.size(); ++i) {
      const auto& [phase, begin, end] = spans_[i];
      if (phase == Phase::decode && steps-- <= 0) break;
      const int64_t later_ns = i >= left_out_from_ ? left_out_ns_ : 0;
      run->spans.push_back({phase, Clock::device, times_ns[static_cast<size_t>(begin)] - later_ns,
                            times_ns[static_cast<size_t>(end)] - later_ns});
    }
  }

 private:
  struct Marked {
    Phase phase;
    int begin, end;
  };
  Timeline* timeline_;
  std::vector<Marked> spans_;
  int begin_ = 0;
  size_t left_out_from_ = 0;
  int64_t left_out_ns_ = 0;
};

}  // namespace quantbench
