// A worker in a process of its own, seen from the parent.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/protocol.h"
#include "core/os.h"

namespace quantbench {

struct WorkerCommand {
  std::string program;
  std::vector<std::string> arguments;
  double answer_timeout_s = 900;  // the watchdog: a worker that says nothing for so long is ended
};

// Every call may throw Error: what the worker answered; internal if it died (with the signal or exit code) or was
// ended by the watchdog; interrupted if the user asked to stop. After any of the latter three the process is gone.
class WorkerProcess final : public Worker {
 public:
  explicit WorkerProcess(const WorkerCommand& command);
  ~WorkerProcess() override;

  DeviceReport device() override;
  PlanReport plan(const Cell& cell) override;
  CellLoad load(const OnProgress& progress) override;
  void fill_context(std::span<const int32_t> context) override;
  GenerateReport generate(std::span<const int32_t> prompt, int new_tokens, std::span<const int32_t> stop_at) override;
  MemoryReport memory() override;
  ExplainReport explain(std::span<const int32_t> prompt, int new_tokens) override;
  ReadSample probe() override;
  std::optional<uint32_t> process() const override { return static_cast<uint32_t>(process_.pid()); }
  QualityReport quality(const QualityRequest& request, const OnProgress& progress) override;

 private:
  protocol::json ask(const protocol::json& request, const char* doing, const OnProgress& progress = {});

  os::Process process_;
  int64_t timeout_ns_;
};

}  // namespace quantbench
