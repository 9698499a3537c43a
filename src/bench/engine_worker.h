// The worker that really measures: the engine on a backend, in the child process.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "bench/open_model.h"
#include "bench/protocol.h"
#include "engine/session.h"

namespace quantbench {

// The bandwidth probe reads at least so much, and several times the last-level cache.
constexpr size_t kProbeBytes = size_t{1} << 30;
constexpr size_t kProbeCaches = 4;
constexpr int kProbePasses = 3;  // of one visit; the median counts

// A pool pins the thread that makes it, so anything that asks which CPUs there are must be asked before a backend is
// made: `cache_bytes` is the last-level cache that all of them share.
std::unique_ptr<ReadProbe> make_read_probe(Backend& backend, int64_t cache_bytes);  // Error device, out_of_memory
ReadSample sample(ReadProbe& probe);

class EngineWorker final : public Worker {
 public:
  explicit EngineWorker(EngineOptions probe_options);

  PlanReport plan(const Cell& cell) override;
  CellLoad load(const OnProgress& progress) override;
  GenerateReport generate(std::span<const int32_t> prompt, int new_tokens, std::span<const int32_t> stop_at) override;
  MemoryReport memory() override;
  ReadSample probe() override;

 private:
  EngineOptions probe_options_;
  int64_t cache_bytes_;
  std::unique_ptr<Backend> backend_;  // outlives what was made from it
  std::unique_ptr<ReadProbe> probe_;
  OpenedModel opened_;
  Tape step_;
  Plan plan_;
  StateShape shape_;
  std::unique_ptr<Session> session_;
  MemoryReport memory_;
};

}  // namespace quantbench
