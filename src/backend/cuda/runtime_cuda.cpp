// Runtime over CUDA's own: linked statically, it opens the driver when it is first called, so a machine without one can
// start the program.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <map>
#include <vector>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda.h"
#include "backend/cuda/gpu_choice.h"
#include "backend/cuda/nvml.h"
#include "backend/cuda/persistent/persistent_plan.h"
#include "backend/cuda/persistent/persistent_program.h"
#include "backend/cuda/row_products.h"
#include "backend/cuda/runtime.h"
#include "backend/cuda/shared_limits.h"
#include "core/error.h"
#include "core/os.h"

namespace quantbench::cuda {
namespace {

constexpr int kHopperMajor = 9;  // of the compute capability

ComputeMode mode_of(int mode) {
  switch (mode) {
    case cudaComputeModeProhibited: return ComputeMode::prohibited;
    case cudaComputeModeExclusive:
    case cudaComputeModeExclusiveProcess: return ComputeMode::exclusive;
    default: return ComputeMode::shared;
  }
}

int attribute(cudaDeviceAttr which, int gpu) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, gpu), "cudaDeviceGetAttribute");
  return value;
}

// "GPU-…" as nvidia-smi writes it; "MIG-…" of a slice, which CUDA tells in its name or NVML knows under that prefix
// alone.
std::string uuid_text(const cudaUUID_t& uuid, const char* prefix) {
  std::string text = prefix;
  for (size_t i = 0; i < sizeof uuid.bytes; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(uuid.bytes[i]));
  }
  return text;
}

DriverAnswer ask_driver(const Nvml* nvml) {
  DriverAnswer answer;
  answer.runtime_version = CUDART_VERSION;
  answer.visible = os::environment("CUDA_VISIBLE_DEVICES");
  answer.installed = installed_gpus();
  answer.code = QB_CUDA_CODE;
  if (nvml) {
    answer.driver = nvml->driver();
    for (const Nvml::Card& card : nvml->cards()) {
      if (card.mig_mode) answer.mig_cards.push_back(card.name);
    }
  }
  if (cudaDriverGetVersion(&answer.driver_version) != cudaSuccess) answer.driver_version = 0;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    if (status != cudaErrorNoDevice) answer.error = cudaGetErrorString(status);
    return answer;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties");
    GpuAnswer gpu;
    gpu.name = properties.name;
    gpu.major = properties.major;
    gpu.minor = properties.minor;
    gpu.multiprocessors = properties.multiProcessorCount;
    gpu.memory_bytes = properties.totalGlobalMem;
    gpu.mode = mode_of(attribute(cudaDevAttrComputeMode, i));
    const std::string slice = uuid_text(properties.uuid, "MIG-");
    gpu.is_mig_slice = gpu.name.find(" MIG ") != std::string::npos || (nvml && nvml->knows(slice));
    gpu.uuid = gpu.is_mig_slice ? slice : uuid_text(properties.uuid, "GPU-");
    answer.gpus.push_back(std::move(gpu));
  }
  return answer;
}

// A step as one graph: a single launch for all of its kernels.
class Graph final : public Program {
 public:
  Graph(cudaStream_t stream, bool overlap, const std::function<void()>& step) : stream_(stream), overlap_(overlap) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      step();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    launches_ = kernels_of(graph);
    const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    check(cudaGraphUpload(graph_, stream), "cudaGraphUpload");
  }
  ~Graph() override { cudaGraphExecDestroy(graph_); }
  void run() override { check(cudaGraphLaunch(graph_, stream_), "cudaGraphLaunch"); }
  std::string tuning() const override { return overlap_ ? "launches that overlap" : "launches in turn"; }
  std::optional<int> launches() const override { return launches_; }

 private:
  // Nothing where the driver does not tell; nothing depends on it.
  static std::optional<int> kernels_of(cudaGraph_t graph) {
    size_t count = 0;
    if (cudaGraphGetNodes(graph, nullptr, &count) != cudaSuccess) return std::nullopt;
    std::vector<cudaGraphNode_t> nodes(count);
    if (cudaGraphGetNodes(graph, nodes.data(), &count) != cudaSuccess) return std::nullopt;
    int kernels = 0;
    for (const cudaGraphNode_t node : nodes) {
      cudaGraphNodeType type{};
      if (cudaGraphNodeGetType(node, &type) != cudaSuccess) return std::nullopt;
      if (type == cudaGraphNodeTypeKernel) ++kernels;
    }
    return kernels;
  }

  cudaStream_t stream_;
  bool overlap_;
  std::optional<int> launches_;
  cudaGraphExec_t graph_ = nullptr;
};

// Copies on a stream of its own, which waits for the other and never the other for it.
class CopyingLookout final : public Lookout {
 public:
  CopyingLookout(Runtime& runtime, size_t bytes, int most)
      : runtime_(runtime), bytes_(bytes), slots_(static_cast<size_t>(most)) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaHostAlloc(reinterpret_cast<void**>(&seen_), bytes * slots_.size(), cudaHostAllocDefault),
          "cudaHostAlloc");
    for (Slot& slot : slots_) {
      for (cudaEvent_t* event : {&slot.written, &slot.copied}) {
        check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreate");
      }
    }
  }
  ~CopyingLookout() override {
    cudaStreamSynchronize(stream_);  // a copy may be on its way into what is given back
    for (const Slot& slot : slots_) {
      for (cudaEvent_t event : {slot.written, slot.copied}) {
        if (event) cudaEventDestroy(event);
      }
    }
    if (seen_) cudaFreeHost(seen_);
    cudaStreamDestroy(stream_);
  }
  void look(const void* device_from, size_t bytes) override {
    assert(bytes <= bytes_ && pending() < static_cast<int>(slots_.size()));
    const Slot& slot = slots_[asked_ % slots_.size()];
    check(cudaEventRecord(slot.written, runtime_.stream().handle), "cudaEventRecord");
    check(cudaStreamWaitEvent(stream_, slot.written, 0), "cudaStreamWaitEvent");
    check(cudaMemcpyAsync(at(asked_), device_from, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    check(cudaEventRecord(slot.copied, stream_), "cudaEventRecord");
    ++asked_;
  }
  int pending() const override { return static_cast<int>(asked_ - given_); }
  bool has_next() override {
    if (pending() == 0) return false;
    const cudaError_t status = cudaEventQuery(slots_[given_ % slots_.size()].copied);
    return status == cudaErrorNotReady ? false : arrived(status, "cudaEventQuery");
  }
  const void* next() override {
    arrived(cudaEventSynchronize(slots_[given_ % slots_.size()].copied), "cudaEventSynchronize");
    return at(given_++);
  }

 private:
  struct Slot {
    cudaEvent_t written = nullptr, copied = nullptr;
  };
  std::byte* at(size_t look) { return seen_ + look % slots_.size() * bytes_; }
  // A fault is told as where everything is waited for.
  bool arrived(cudaError_t status, const char* call) {
    if (status != cudaSuccess) runtime_.synchronize();
    check(status, call);
    return true;
  }

  Runtime& runtime_;
  size_t bytes_, asked_ = 0, given_ = 0;
  std::vector<Slot> slots_;
  std::byte* seen_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

// An event a mark; those of a generation are used again by the next.
class EventTimeline final : public Timeline {
 public:
  explicit EventTimeline(cudaStream_t stream) : stream_(stream) {}
  ~EventTimeline() override {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  void restart() override { marks_ = 0; }
  int mark() override {
    if (marks_ == events_.size()) {
      cudaEvent_t event = nullptr;
      check(cudaEventCreate(&event), "cudaEventCreate");
      events_.push_back(event);
    }
    check(cudaEventRecord(events_[marks_], stream_), "cudaEventRecord");
    return static_cast<int>(marks_++);
  }
  std::vector<int64_t> times_ns() override {
    std::vector<int64_t> times;
    if (marks_ > 0) check(cudaEventSynchronize(events_[marks_ - 1]), "cudaEventSynchronize");
    for (size_t i = 0; i < marks_; ++i) {
      // Between neighbours: of a float's 24 bits a long run would leave too few for a step.
      float ms = 0;
      if (i > 0) check(cudaEventElapsedTime(&ms, events_[i - 1], events_[i]), "cudaEventElapsedTime");
      times.push_back((i > 0 ? times.back() : 0) + std::llround(static_cast<double>(ms) * 1e6));
    }
    return times;
  }

 private:
  cudaStream_t stream_;
  std::vector<cudaEvent_t> events_;
  size_t marks_ = 0;
};

class CudaRuntime final : public Runtime {
 public:
  explicit CudaRuntime(const BackendOptions& options) : nvml_(open_nvml()), stalls_(options.persistent_stalls) {
    const DriverAnswer answer = ask_driver(nvml_.get());
    gpu_ = open_gpu(answer, {options.gpu, options.several_processes},
                    [&](int gpu) { return open(gpu, answer.gpus[static_cast<size_t>(gpu)].uuid); });
    const GpuAnswer& gpu = answer.gpus[static_cast<size_t>(gpu_)];
    name_ = gpu.name;
    // Kernels that were compiled for an older card do not wait for the one before them, and have no persistent one.
    constexpr int kHopper = 90;
    code_for(answer.code, gpu.major, gpu.minor, &compiled_for_);
    overlap_ = compiled_for_ >= kHopper;
    if (gpu.major != kHopperMajor) {
      no_persistent_ = fmt::format("{} has compute capability {}.{}, and the persistent engine runs on 9.0 alone",
                                   gpu.name, gpu.major, gpu.minor);
    } else if (!overlap_) {
      no_persistent_ = fmt::format(
          "this program was built for compute capability {}.{}, and the persistent engine is "
          "built for 9.0 alone",
          compiled_for_ / 10, compiled_for_ % 10);
    } else if (attribute(cudaDevAttrCooperativeLaunch, gpu_) == 0) {
      no_persistent_ = fmt::format("{} has no cooperative launches, which the persistent engine needs", gpu.name);
    }
    features_ = fmt::format("sm_{}{}", gpu.major, gpu.minor);
    if (gpu.major >= kHopperMajor && !overlap_) features_ += fmt::format(", as sm_{}", compiled_for_);
    info_ = {.uuid = gpu.uuid,
             .driver = answer.driver,
             .driver_cuda = version_text(answer.driver_version),
             .runtime_cuda = version_text(answer.runtime_version),
             .major = gpu.major,
             .minor = gpu.minor,
             .multiprocessors = gpu.multiprocessors,
             .cache_bytes = static_cast<size_t>(attribute(cudaDevAttrL2CacheSize, gpu_)),
             .is_mig_slice = gpu.is_mig_slice};
    // What runs an older card's code on another one shows what that card does, and has the kernels that it can launch.
    shared_bytes_ = std::min(static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, gpu_)),
                             shared_of(compiled_for_));
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaEventCreate(&start_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~CudaRuntime() override {
    if (stuck_) cudaFreeHost(stuck_);
    cudaEventDestroy(start_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }

  DeviceInfo device() const override {
    size_t free_bytes = 0, total_bytes = 0;
    check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
    DeviceInfo info;
    info.backend = "cuda";
    info.id = fmt::format("cuda:{}", gpu_);
    info.name = name_;
    info.features = features_;
    info.memory_bytes = total_bytes;
    info.available_bytes = free_bytes;
    info.gpu = info_;
    return info;
  }
  DeviceUse use() const override {
    DeviceUse use{.context_bytes = context_bytes_, .held_bytes = held_bytes_, .peak_bytes = peak_bytes_};
    size_t free_bytes = 0, total_bytes = 0;
    if (cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess) {
      use.taken_bytes = static_cast<int64_t>(total_bytes - free_bytes);
    }
    if (counts_us_) use.process_bytes = nvml_->process_bytes(info_.uuid, os::process_id());
    if (!nvml_) return use;
    if (const auto memory = nvml_->memory(info_.uuid)) use.device_bytes = memory->used_bytes;
    return use;
  }
  void reset_peak() override { peak_bytes_ = held_bytes_; }
  int multiprocessors() const override { return info_.multiprocessors; }
  size_t shared_bytes() const override { return shared_bytes_; }
  double memory_rate() const override {
    constexpr double kHertz = 1000, kTwiceAClock = 2, kBits = 8;
    return attribute(cudaDevAttrMemoryClockRate, gpu_) * kHertz * kTwiceAClock *
           (attribute(cudaDevAttrGlobalMemoryBusWidth, gpu_) / kBits);
  }
  int compiled_for() const override { return compiled_for_; }
  Stream stream() const override { return {stream_, overlap_}; }
  bool has_tensor_products() const override {
#if defined(QB_CUDA_SM90A)
    return overlap_ && info_.major == kHopperMajor;
#else
    return false;  // the build has no code for them
#endif
  }

  void* allocate(size_t bytes) override {
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // it is reported here, and not again at the next launch
      size_t free_bytes = 0, total_bytes = 0;
      cudaMemGetInfo(&free_bytes, &total_bytes);
      fail(ErrorKind::out_of_memory,
           "{}: no room for {:.1f} MiB more; {:.1f} of {:.1f} MiB are free; choose int8 or 4bit, a shorter context, or "
           "end "
           "other programs on this GPU (nvidia-smi lists them)",
           name_, mib(bytes), mib(free_bytes), mib(total_bytes));
    }
    check(status, "cudaMalloc");
    sizes_.emplace(data, bytes);
    held_bytes_ += static_cast<int64_t>(bytes);
    peak_bytes_ = std::max(peak_bytes_, held_bytes_);
    zero(data, bytes);
    return data;
  }
  void release(void* data) noexcept override {
    const auto found = sizes_.find(data);
    if (found == sizes_.end()) return;
    held_bytes_ -= static_cast<int64_t>(found->second);
    sizes_.erase(found);
    cudaFree(data);
  }
  void zero(void* data, size_t bytes) override { check(cudaMemsetAsync(data, 0, bytes, stream_), "cudaMemsetAsync"); }
  void to_device(void* to, const void* from, size_t bytes) override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
    synchronize();
  }
  void from_device(void* to, const void* from, size_t bytes) override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    synchronize();
  }
  void synchronize() override {
    const cudaError_t status = cudaStreamSynchronize(stream_);
    if (status != cudaSuccess && stuck_ && stuck_[0] != 0) {
      fail(
          ErrorKind::device,
          "{}: the persistent engine waited for seconds and gave up (wait {} of step {}, block {}, thread {}); another "
          "program on this GPU can be why; run again, or with --engine graph",
          name_, stuck_[0], stuck_[1], stuck_[2], stuck_[3]);
    }
    check(status, "cudaStreamSynchronize");
  }
  std::unique_ptr<Lookout> lookout(size_t bytes, int most) override {
    return std::make_unique<CopyingLookout>(*this, bytes, most);
  }
  std::unique_ptr<Timeline> timeline() override { return std::make_unique<EventTimeline>(stream_); }
  double seconds(const std::function<void()>& work) override {
    check(cudaEventRecord(start_, stream_), "cudaEventRecord");
    work();
    check(cudaEventRecord(end_, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start_, end_), "cudaEventElapsedTime");
    return static_cast<double>(ms) * 1e-3;
  }
  std::unique_ptr<Program> record(std::function<void()> step) override {
    synchronize();
    return std::make_unique<Graph>(stream_, overlap_, step);
  }
  std::string persistent_obstacle(const Tape& tape) const override {
    if (!no_persistent_.empty()) return no_persistent_;
    return cuda::persistent_obstacle(tape, shared_bytes_);
  }
  size_t persistent_bytes(const Tape& tape) const override {
    return persistent_program_bytes(tape, info_.multiprocessors, shared_bytes_);
  }
  std::unique_ptr<Program> record_persistent(const Tape& tape, const Tables& tables, std::byte* memory) override {
    synchronize();
    if (!stuck_) {
      check(cudaHostAlloc(reinterpret_cast<void**>(&stuck_), kStuckWords * sizeof(uint32_t), cudaHostAllocMapped),
            "cudaHostAlloc");
      std::fill_n(stuck_, kStuckWords, 0u);
    }
    uint32_t* on_device = nullptr;
    check(cudaHostGetDevicePointer(reinterpret_cast<void**>(&on_device), stuck_, 0), "cudaHostGetDevicePointer");
    return make_persistent_program(*this, tape, tables, memory, on_device, stalls_);
  }

 private:
  // Makes the context, and sees what the driver takes for it: the first thing that this process has on the GPU.
  Opened open(int gpu, const std::string& uuid) {
    const auto process_bytes = [&] {
      return nvml_ ? nvml_->process_bytes(uuid, os::process_id()) : std::optional<int64_t>();
    };
    const auto memory = [&] { return nvml_ ? nvml_->memory(uuid) : std::optional<Nvml::Memory>(); };
    const auto memory_before = memory();
    const bool other_of_our_number = process_bytes().has_value();  // in a container that numbers processes anew
    cudaError_t status = cudaSetDevice(gpu);
    if (status == cudaSuccess) status = cudaFree(nullptr);  // makes the context
    Opened opened;
    if (status != cudaSuccess) {
      cudaGetLastError();  // it is told here, and not again at the next GPU
      opened.error = cudaGetErrorString(status);
      opened.no_memory = status == cudaErrorMemoryAllocation;
      if (memory_before) {
        opened.free_bytes = static_cast<size_t>(memory_before->free_bytes);
        opened.total_bytes = static_cast<size_t>(memory_before->total_bytes);
      }
      return opened;
    }
    check(cudaMemGetInfo(&opened.free_bytes, &opened.total_bytes), "cudaMemGetInfo");
    const auto ours = process_bytes();
    counts_us_ = ours && !other_of_our_number;
    const auto memory_after = memory();
    if (counts_us_) {
      context_bytes_ = *ours;
    } else if (memory_before && memory_after) {
      context_bytes_ = std::max<int64_t>(0, memory_after->used_bytes - memory_before->used_bytes);
    }
    return opened;
  }

  static double mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

  std::unique_ptr<Nvml> nvml_;
  bool stalls_;  // for tests
  GpuInfo info_;
  int gpu_ = 0;
  bool counts_us_ = false;  // the driver tells what this process has
  int64_t context_bytes_ = 0, held_bytes_ = 0, peak_bytes_ = 0;
  std::map<void*, size_t> sizes_;
  bool overlap_ = false;
  size_t shared_bytes_ = 0;
  int compiled_for_ = 0;
  std::string name_, features_;
  std::string no_persistent_;  // why the card cannot run the persistent engine; empty: it can
  static constexpr int kStuckWords = 4;
  uint32_t* stuck_ = nullptr;  // on the host: what a wait of the persistent kernel that never ended waited for
  cudaStream_t stream_ = nullptr;
  cudaEvent_t start_ = nullptr, end_ = nullptr;
};

}  // namespace

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  fail(ErrorKind::device, "the GPU answered {} with {} ({}); see nvidia-smi and the kernel's log", call,
       cudaGetErrorName(status), cudaGetErrorString(status));
}

void allow_shared(const void* kernel, size_t bytes) {
  static SharedLimits limits;  // the one state outside a backend: what it mirrors is CUDA's, for the process
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  limits.raise(device, kernel, bytes, [&] {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
          "cudaFuncSetAttribute");
  });
}

DriverAnswer ask_driver() { return ask_driver(open_nvml().get()); }

std::unique_ptr<Runtime> open_runtime(const BackendOptions& options) { return std::make_unique<CudaRuntime>(options); }

}  // namespace quantbench::cuda
