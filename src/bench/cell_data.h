// What was measured in a cell: raw samples and reports of its process, before any statistics. Plain data.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "bench/explain.h"
#include "bench/quality.h"
#include "bench/telemetry.h"
#include "core/error.h"
#include "engine/session.h"
#include "model/model.h"

namespace quantbench {

// What --device stood for, found out once for all cells of a sweep.
struct DeviceReport {
  DeviceInfo device;
  std::string passed_over;  // why a GPU that is there was not taken; empty: it was, or there is none
};

// Before loading: what the model is and what it will take.
struct PlanReport {
  Shape shape;
  DeviceInfo device;
  std::vector<std::string> engines;  // that can run its steps (Plan::engines): where several, one is chosen by loading
  MemoryUse predicted;               // at the end of a run: weights and everything around them, with any of `engines`
  std::vector<std::string> skipped;  // linears kept in fp16 although the precision quantises
  // As CellLoad has them.
  size_t token_weight_bytes = 0, kv_position_bytes = 0, kv_fixed_bytes = 0;
};

// What became of a picture on the host, before anything that is timed as a run.
struct PictureReport {
  int width = 0, height = 0;  // of the file, upright
  int size = 0;               // that it was resized to, of a side
  int64_t decode_ns = 0;      // the file's bytes to pixels, one thread; medians of several times
  int64_t resize_ns = 0;
  std::string warning;  // of the file; empty mostly
};

struct CellLoad {
  // What becoming ready takes, from no device to a session that can generate, but for waiting in between.
  int64_t context_ns = 0;  // opening the device: driver, context, libraries, threads
  int64_t weights_ns = 0;  // opening the model's files, reading, converting and packing
  int64_t session_ns = 0;  // buffers, recording the step, choosing algorithms; not the self-test of engines
  int64_t load_ns() const { return context_ns + weights_ns + session_ns; }
  MemoryUse resident;             // what the backend holds after loading
  size_t token_weight_bytes = 0;  // weights that one decode step reads, for all its sequences
  size_t kv_position_bytes = 0;   // keys and values of one position of one sequence, all layers
  size_t kv_fixed_bytes = 0;      // those that every step reads whole (cross-attention), of all sequences
  ByPart<PartBytes> part_bytes;   // what these three are made of
  EngineChoice engine;            // that runs the steps; testing it is not a part of load_ns()
  std::string tuning;             // of the recorded step (Program::tuning); empty: there is nothing to choose
  std::optional<PictureReport> picture;
  std::string weight_form;  // "fp16 checkpoint", "bitsandbytes nf4, plain fp32 absmax", "random"
};

// Who counted a memory figure: the kernel (resident pages of a process), a GPU's driver, or the backend that asked the
// driver for it, where the driver does not tell what a process has.
enum class MemoryCount : uint8_t { resident, driver, allocations };
std::string_view name_of(MemoryCount count);

// Memory of the cell's own fresh process: on a CPU its resident memory, on a GPU what it has of the GPU's. The ledger
// at each moment: baseline (the process, or its context on the GPU, before the model) + the backend's bytes by use +
// other (the remainder, which may be negative where pages were never touched).
struct MemoryReport {
  MemoryCount count = MemoryCount::resident;
  int64_t start_bytes = 0;      // before anything of the model
  int64_t load_peak_bytes = 0;  // highest during load
  int64_t run_peak_bytes = 0;   // highest since then
  int64_t end_bytes = 0;        // now
  bool peaks_separate = false;  // the kernel let us reset the peak after load; else run_peak is that of the process
  MemoryUse load_use;           // the backend's ledger when all was loaded
  MemoryUse end_use;            // the backend's ledger now
  // Beside a GPU's memory: the host's that the process had at the most, what the GPU's driver counts now (NVML), and
  // what of the GPU is not free, as CUDA tells the process (cudaMemGetInfo).
  std::optional<int64_t> host_peak_bytes, driver_process_bytes, driver_device_bytes, taken_bytes;
  int64_t peak_bytes() const { return std::max(load_peak_bytes, run_peak_bytes); }
  // At the end: the baseline and everything that was booked by use.
  int64_t accounted_bytes() const { return start_bytes + static_cast<int64_t>(end_use.total()); }
  int64_t other_bytes() const { return end_bytes - accounted_bytes(); }
};

struct GenerateReport {
  Run run;
  std::optional<double>
      other_cpu;  // CPU time of other processes meanwhile ÷ (wall time × CPUs); unknown without /proc/stat
  std::optional<int> launches = {};  // kernels of a step; nothing where the host computes
};

struct ReadSample {   // one visit to the bandwidth probe
  int64_t at_ns = 0;  // since the sweep began
  double bytes_per_second = 0;
  std::string kernel;  // the fastest of those tried
};

struct RunSample {  // one generation, and what stood around it
  GenerateReport report;
  int64_t at_ns = 0;                              // since the sweep began
  int block = -1, place = -1;                     // place within the block; −1 outside blocks
  std::optional<double> read_before, read_after;  // neighbouring bandwidth samples, bytes per second
  std::optional<RunTelemetry> telemetry;          // of timed runs on a card that can be watched
};

enum class Status : uint8_t { ok, failed, interrupted };
std::string_view name_of(Status status);

struct Outcome {
  Status status = Status::ok;
  std::string error;  // of a cell that is not ok
  ErrorKind kind = ErrorKind::internal;
};

struct CellData {
  Outcome outcome;
  std::optional<PlanReport> plan;
  std::optional<CellLoad> load;
  std::optional<MemoryReport> memory;
  std::optional<RunSample> cold;
  std::vector<RunSample> warmup, runs;
  std::vector<RunSample> throttled;  // timed runs that do not count, since the card was slowed down; each was repeated
  std::optional<EnergyReport> energy;  // nothing: not asked for, or the cell did not get so far
  bool warmup_settled = false;
  bool tuning_varied = false;      // from one of its processes to another; `load` has that of the first
  bool resident_together = false;  // all cells' processes were alive at once; else one process a visit
  uint64_t order_seed = 0;
  std::string stop_reason;               // why no more runs were made
  std::optional<QualityData> quality;    // where it was asked for
  std::optional<ExplainReport> explain;  // likewise
};

}  // namespace quantbench
