// A backend: where weights and buffers live, and how a recorded step is run. `model/` and `engine/` know no other.
#pragma once

#include <array>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/ops.h"
#include "core/parallel.h"

namespace quantbench {

// The rows of the memory ledger. A backend accounts every byte it takes under one of them.
enum class Use : uint8_t { weights, scales, unquantized, kv_cache, activations, workspace, tables };
constexpr int kUses = 7;
std::string_view name_of(Use use);

struct MemoryUse {
  std::array<size_t, kUses> bytes{};
  size_t& operator[](Use use) { return bytes[static_cast<size_t>(use)]; }
  size_t operator[](Use use) const { return bytes[static_cast<size_t>(use)]; }
  size_t total() const;
};

// cuBLASLt, which multiplies the many rows of prompts on a GPU where it is there; else kernels of our own do.
struct MatrixLibrary {
  std::string version;  // "13.1.0"; empty: it is not used
  std::string path;     // of its file
  std::string missing;  // why it is not used, and what to do; empty: it is
};

// What only a GPU has.
struct GpuInfo {
  std::string uuid;          // "GPU-…", or "MIG-…" of a slice
  std::string driver;        // "580.65.06"; empty: not told
  std::string driver_cuda;   // the newest CUDA that the driver supports, "13.0"
  std::string runtime_cuda;  // the CUDA that this program was built with
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  size_t cache_bytes = 0;     // L2
  bool is_mig_slice = false;  // name, memory and multiprocessors are the slice's
  // As Backend::matrix_library() tells it; nothing: not asked.
  std::optional<MatrixLibrary> cublaslt = {};

  const std::string& driver_or_cuda() const { return driver.empty() ? driver_cuda : driver; }
};

struct DeviceInfo {
  std::string backend;   // "reference", "cpu", "cuda"
  std::string id;        // what --device calls it: "cpu", "cuda:0"
  std::string name;      // "AMD EPYC …"
  std::string features;  // "avx512+vnni", "avx2, threads not pinned", "sm_90"
  int threads = 1;
  size_t memory_bytes = 0;     // physical
  size_t available_bytes = 0;  // for a new process, now; of a GPU: beside what this process has
  std::optional<GpuInfo> gpu;  // a device with memory of its own; nothing where its memory is the host's
};

// For people: "AMD EPYC …, avx512+vnni, 1 thread" of a host, "NVIDIA H100 …, cuda:0, sm_90" of a card.
std::string described(const DeviceInfo& device);
// "13.1.0, /usr/…/libcublasLt.so.13.1.0", or what multiplies prompts without it.
std::string described(const MatrixLibrary& library);

// Memory of a GPU that this process has taken.
struct DeviceUse {
  int64_t context_bytes = 0;             // by the driver, before the first weight; 0 where it does not tell
  int64_t held_bytes = 0;                // by the backend, now: its ledger and what its blocks have left over
  int64_t peak_bytes = 0;                // the most of that since the start or the last reset
  std::optional<int64_t> process_bytes;  // of this process, as the driver counts
  std::optional<int64_t> device_bytes;   // of all processes, as the driver counts
  std::optional<int64_t> taken_bytes;    // of the device, what is not free, as CUDA tells this process (cudaMemGetInfo)
};

// What a weight is for; decides where the ledger books it and which layout a backend gives it. A vector (norm weight,
// bias) is packed as F32Matrix [1, n] and stays n plain floats.
enum class Role : uint8_t { linear, output_head, embedding, vector };

// A way to repeat a step, which is a part of what makes two cells alike: "native", or of a GPU "graph" or "persistent".
struct StepEngine {
  std::string_view name = "native";
  size_t workspace_bytes = 0;  // beside what every engine takes
};

// A step cut to this backend: what it will run, and what it will take before the first weight is loaded.
struct Plan {
  Tape tape;
  Tape before;          // what else is called, outside the step
  MemoryUse predicted;  // weights, scales and unquantised by format, and the backend's workspace for any of `engines`
  int max_rows = 1;     // the most rows any op will be called with (prefill)
  // Those that can repeat the step: more than one where none was asked for. The first runs wherever the backend does.
  std::vector<StepEngine> engines{{}};

  bool has(std::string_view engine) const;
  void keep(std::string_view engine);  // leaves this one of them alone
};

// Memory with one owner and one row in the ledger; given back on destruction, which must come before the backend's.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual void* data() const = 0;  // on the device
  virtual size_t bytes() const = 0;
};

// One decode step, ready to repeat.
class Program {
 public:
  virtual ~Program() = default;
  virtual void run() = 0;
  // For records: the choices that its kernels were cut by, a part of what makes two cells alike. Empty, unless
  // overridden: there were none.
  virtual std::string tuning() const { return {}; }
  // Kernels that a run launches on a device of its own. Nothing, unless overridden: there is none, or (emulated) it has
  // not run yet.
  virtual std::optional<int> launches() const { return std::nullopt; }
};

// Reads device memory while the device goes on: a look shows what is there once all that was asked for before it is
// done, and nothing that is asked for after it waits. What is looked at must not be written by that.
class Lookout {
 public:
  virtual ~Lookout() = default;
  virtual void look(const void* device_from, size_t bytes) = 0;
  virtual int pending() const = 0;  // looks that next() has not given yet
  virtual bool has_next() = 0;      // whether the oldest of them has come
  virtual const void* next() = 0;   // waits for it; valid until the look after it is asked for `most` looks later
};

// Times of a device by its own clock: a mark is made when all that was asked for before it is done, in order with what
// is asked for after it, and nobody waits for it. What it takes of its own is there after as many marks as it ever had.
class Timeline {
 public:
  virtual ~Timeline() = default;
  virtual void restart() = 0;                   // forgets all marks
  virtual int mark() = 0;                       // its number, from 0 on
  virtual std::vector<int64_t> times_ns() = 0;  // of every mark, since the first; waits for them
};

// How fast the device's memory can be read, for shares of that. Owns the memory that it reads, outside the ledger.
class ReadProbe {
 public:
  virtual ~ReadProbe() = default;
  virtual double measure() = 0;            // bytes per second of one pass over all its bytes
  virtual std::string kernel() const = 0;  // the fastest of the read loops tried, which measure() uses
};

// Quantises weights on the device while a model is loaded; holds memory there (Use::workspace) as long as it lives.
class WeightQuantizer {
 public:
  virtual ~WeightQuantizer() = default;
  // As Backend::pack of what quantize_int8() or quantize_nf4() makes of the weight, byte for byte. format: int8 or nf4.
  // Error out_of_memory.
  virtual Matrix quantize(const HostF16& weight, Format format, Role role) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const DeviceInfo& device() const = 0;
  virtual ThreadPool& host_pool() = 0;  // for loading and quantising on the host
  // What prompts would be multiplied with. Opens the library and closes it again: 0.1 s, and more where it has to be
  // read from disk, so a cell's process leaves it. Nothing, unless overridden: a backend that has no use for one.
  virtual std::optional<MatrixLibrary> matrix_library() { return std::nullopt; }

  // Shapes only: Linears of the tapes have n, k and format, their pointers may still be null. An embedding tied to the
  // head is the head's own Matrix (one address), counted once. The same step gives the same plan. before: ops that
  // are called outside the step (an encoder), with as many rows as they are written down with; max_rows: the most that
  // the step's own ops are called with.
  virtual Plan plan(const Tape& step, int max_rows, const Tape& before) = 0;
  Plan plan(const Tape& step, int max_rows) { return plan(step, max_rows, {}); }
  // Copies (and permutes) a weight into the one layout that every op of this backend reads; it stays as long as the
  // backend. A table tied to the head is packed once, as output_head. Error out_of_memory.
  virtual Matrix pack(const HostMatrix& weight, Role role, const Plan& plan) = 0;
  // The largest magnitude that it multiplies of a bf16 weight: on a GPU they become fp16.
  virtual float largest_bf16() const { return std::numeric_limits<float>::max(); }
  // For the weights of this plan, which are packed while it lives. To be destroyed before the backend. Null, unless
  // overridden: then the host's threads quantise.
  virtual std::unique_ptr<WeightQuantizer> weight_quantizer(const Plan&) { return nullptr; }
  // Zeroed. Error out_of_memory with wanted and available bytes.
  virtual std::unique_ptr<Buffer> allocate(Use use, size_t bytes) = 0;
  virtual void upload(Buffer& to, size_t offset, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* device_from, size_t bytes) = 0;
  virtual Ops& ops() = 0;
  // Makes the step ready to repeat, by the first of the plan's engines, and takes the plan's workspace; a session
  // records before it calls any op.
  virtual std::unique_ptr<Program> record(const Plan& plan) = 0;
  // The step that was recorded last, by another engine of its plan and with the same workspace: either program may be
  // run, in any order. What the engine takes of its own is given back with the program. Null, unless overridden: a
  // backend whose plans have one engine.
  virtual std::unique_ptr<Program> record_beside(const Plan& plan, std::string_view engine);
  // Some ops of the step that was recorded last, in its workspace, ready to repeat: for timing them apart. Where there
  // are several engines, by the one that has a kernel an op. Takes nothing that the ledger books. Unless overridden,
  // calls the ops one by one.
  virtual std::unique_ptr<Program> record_part(const Tape& part);
  // *hash becomes that of itself and `count` words (hashing.h). Both lie on the device; in order with the ops, and not
  // waited for.
  virtual void hash(uint64_t* hash, const uint32_t* words, int count);
  virtual void synchronize() = 0;  // waits until everything asked for is done
  // bytes: the most of one look; most: looks pending at the same time. Takes memory of the host, none of the device's.
  // Unless overridden, looks by download(): right where ops are done when they return.
  virtual std::unique_ptr<Lookout> lookout(size_t bytes, int most);
  // Null, unless overridden: a backend whose ops are done when they return, so that the host's clock is its own.
  virtual std::unique_ptr<Timeline> timeline() { return nullptr; }
  virtual MemoryUse memory() const = 0;
  // Nothing where the device's memory is the host's: there the kernel counts.
  virtual std::optional<DeviceUse> device_use() const { return std::nullopt; }
  virtual void reset_device_peak() {}
  // Null, unless overridden: a backend that makes no claim on speed. bytes: several times the last-level cache. Error
  // out_of_memory.
  virtual std::unique_ptr<ReadProbe> read_probe(size_t bytes);
};

struct BackendOptions {
  int threads = 0;           // 0: one per physical core
  std::string isa = "auto";  // cpu only: "auto", "avx2", "avx512"; also QUANTBENCH_ISA
  // cuda only: "graph", "persistent", or "auto" for plans that name all that device and model allow.
  std::string engine = "auto";
  std::optional<int> gpu;  // cuda only: its number among those that can be seen; nothing: the first that can be used
  bool several_processes = false;  // others of ours will use the GPU as well, so it must let them
  bool persistent_stalls = false;  // cuda only, for tests: a step of the persistent engine waits for what never comes
};
// name: "auto", "cpu", "reference", "cuda" or "cuda:N". Error usage for any other, device where it cannot run,
// out_of_memory for a GPU that is full.
std::unique_ptr<Backend> make_backend(std::string_view name, const BackendOptions& options);
std::vector<std::string> backend_names();  // of this build
// Throws what is wrong with the name, before anything is started: Error usage, or device where it is not built in.
void check_device_name(std::string_view name);

struct ChosenDevice {
  std::unique_ptr<Backend> backend;
  std::string passed_over;  // of "auto": why a GPU that is there was not taken; empty: it was, or there is none
};
ChosenDevice choose_device(std::string_view name, const BackendOptions& options);
// For people: a line for each NVIDIA GPU, with why it cannot be used, or the one that says why there is none.
std::vector<std::string> describe_gpus();

}  // namespace quantbench
