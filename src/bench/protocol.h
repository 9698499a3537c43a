// The language between the parent and a worker process: one JSON object a line.
//   request  {"op": "device" | "plan" | "load" | "fill" | "generate" | "probe" | "memory" | "quality" |
//            "explain" | "quit", …}
//   answer   {"event": "result", …} or {"event": "error", "kind", "text"}, after any number of {"event": "progress", …}
// A worker exits with 0 on "quit" and when its input ends.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "bench/cell.h"
#include "bench/cell_data.h"
#include "core/json.h"

namespace quantbench {

// `done` in [0, 1]. Called from the thread that loads.
using OnProgress = std::function<void(double done)>;

// What a worker can do: implemented by the engine in the child, by the pipe in the parent, by fakes in tests.
// Called in this order: plan, load, then any of the others; device and probe at any time. Errors are Error.
class Worker {
 public:
  virtual ~Worker() = default;
  virtual DeviceReport device() = 0;  // needs no plan; the device is kept for probe()
  virtual PlanReport plan(const Cell& cell) = 0;
  virtual CellLoad load(const OnProgress& progress) = 0;
  // Puts ids [batch, depth] into the cache, before every prompt from now on; not a part of any run.
  virtual void fill_context(std::span<const int32_t> context) = 0;
  // prompt: [batch, prompt tokens]
  virtual GenerateReport generate(std::span<const int32_t> prompt, int new_tokens,
                                  std::span<const int32_t> stop_at) = 0;
  virtual MemoryReport memory() = 0;
  virtual ReadSample probe() = 0;  // needs no plan; at_ns is left to the caller
  // That it runs in, as this machine numbers them; nothing where it is none of its own.
  virtual std::optional<uint32_t> process() const { return std::nullopt; }
  // Of the decode steps of one more such generation, of at least two new tokens. What is asked of memory() later has
  // what this takes in it.
  virtual ExplainReport explain(std::span<const int32_t> prompt, int new_tokens) = 0;
  // Needs no plan, and of a process that does nothing else. progress: 0 while models are loaded, then the texts done.
  virtual QualityReport quality(const QualityRequest& request, const OnProgress& progress) = 0;
};

// Serves requests from standard input until "quit" or its end. Returns the exit code.
int serve(Worker& worker);

namespace protocol {

using nlohmann::json;

json to_json(const Cell& cell);
Cell cell_from(const json& j);
json to_json(const DeviceReport& report);
DeviceReport device_from(const json& j);
json to_json(const PlanReport& report);
PlanReport plan_from(const json& j);
json to_json(const EngineChoice& choice);
EngineChoice choice_from(const json& j);
json to_json(const CellLoad& report);
CellLoad load_from(const json& j);
json to_json(const GenerateReport& report);
GenerateReport generate_from(const json& j);
json to_json(const MemoryReport& report);
MemoryReport memory_from(const json& j);
json to_json(const ReadSample& sample);
ReadSample read_sample_from(const json& j);
json to_json(const MemoryUse& use);
MemoryUse use_from(const json& j);

}  // namespace protocol
}  // namespace quantbench
