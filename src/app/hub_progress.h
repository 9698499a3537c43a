// What people see of a download: bytes, rate and time left.
#pragma once

#include "app/progress.h"
#include "hub/hub.h"

namespace quantbench {

class HubProgress final : public HubListener {
 public:
  void begin(const std::string& model, size_t files, int64_t missing_bytes) override;
  void progress(const DownloadState& state) override;
  void waiting(const std::string& why) override { terminal_.status(why); }
  void line(const std::string& text) override { terminal_.line(text); }

 private:
  TerminalProgress terminal_;
  std::string model_;
};

}  // namespace quantbench
