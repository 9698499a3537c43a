// The worker that really measures: the engine on a backend, in the child process.
#pragma once

#include <functional>
#include <memory>

#include "backend/backend.h"
#include "bench/open_model.h"
#include "bench/protocol.h"
#include "bench/quality_pass.h"
#include "engine/choose_engine.h"
#include "engine/session.h"

namespace quantbench {

// The bandwidth probe reads at least so much, and several times the last-level cache. On a GPU, where starting and
// ending cost a part of a pass, about as much as a model that is measured there.
constexpr size_t kProbeBytes = size_t{1} << 30;
constexpr size_t kGpuProbeBytes = size_t{2400} << 20;
constexpr size_t kProbeCaches = 4;
constexpr int kProbePasses = 3;  // of one visit; the median counts

// A pool pins the thread that makes it, so anything that asks which CPUs there are must be asked before a backend is
// made: `cache_bytes` is the last-level cache that all of them share. A GPU has its own.
std::unique_ptr<ReadProbe> make_read_probe(Backend& backend, int64_t cache_bytes);  // Error device, out_of_memory
ReadSample sample(ReadProbe& probe);

// The figures of MemoryReport that are of a moment, as the device's memory is counted.
struct MemoryNow {
  int64_t bytes = 0, peak_bytes = 0;  // now, and at the most since the last reset
};
MemoryNow memory_now(const DeviceUse& use);

class EngineWorker : public Worker {
 public:
  // choose, cache: for tests, which put a backend of theirs in the place of the one that the name stands for, and a
  // file of theirs in that of the user's.
  explicit EngineWorker(EngineOptions probe_options, ChooseDevice choose = {}, EngineCache cache = EngineCache());

  DeviceReport device() override;
  PlanReport plan(const Cell& cell) override;
  CellLoad load(const OnProgress& progress) override;
  void fill_context(std::span<const int32_t> context) override;
  GenerateReport generate(std::span<const int32_t> prompt, int new_tokens, std::span<const int32_t> stop_at) override;
  MemoryReport memory() override;
  ExplainReport explain(std::span<const int32_t> prompt, int new_tokens) override;
  ReadSample probe() override;
  QualityReport quality(const QualityRequest& request, const OnProgress& progress) override;

 private:
  void load_picture(const std::string& path, const Picture& picture);
  // Of the device: the peak since the last reset, what is taken now.
  MemoryNow memory_of_device();

  EngineOptions probe_options_;
  ChooseDevice choose_;
  EngineCache cache_;
  int64_t cache_bytes_;
  std::unique_ptr<Backend> backend_;  // outlives what was made from it
  std::unique_ptr<ReadProbe> probe_;
  OpenedModel opened_;
  Tape step_;
  Plan plan_;
  EngineChoice engine_;
  StateShape shape_;
  std::optional<PictureReport> picture_;
  std::vector<float> patches_;  // of each sequence; empty of a model that takes no picture
  CellLoad load_;               // what is known before load()
  std::unique_ptr<Session> session_;
  bool host_tokens_ = false;
  MemoryReport memory_;
};

}  // namespace quantbench
