// Progress on standard error: a line that rewrites itself on a terminal, now and then a plain line elsewhere.
#pragma once

#include <cstdint>
#include <string>

#include "bench/measure.h"

namespace quantbench {

class TerminalProgress final : public Progress {
 public:
  TerminalProgress();
  ~TerminalProgress() override;
  TerminalProgress(const TerminalProgress&) = delete;
  void line(const std::string& text) override;
  void status(const std::string& text) override;
  void clear();  // takes the status away, so that other output starts on a clean line

 private:
  bool terminal_ = false;
  bool shown_ = false;
  int64_t last_ns_;
};

}  // namespace quantbench
