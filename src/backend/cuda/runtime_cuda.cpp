// Runtime over CUDA's own: linked statically, it opens the driver when it is first called, so a machine without one can
// start the program.
#include <cuda_runtime_api.h>

#include "backend/cuda/check.h"
#include "backend/cuda/gpu_choice.h"
#include "backend/cuda/persistent/persistent_program.h"
#include "backend/cuda/runtime.h"
#include "core/error.h"

namespace quantbench::cuda {
namespace {

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

// Asks for everything but a context, which costs time and memory on every GPU.
DriverAnswer ask_driver() {
  DriverAnswer answer;
  answer.runtime_version = CUDART_VERSION;
  if (cudaDriverGetVersion(&answer.driver_version) != cudaSuccess) answer.driver_version = 0;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    answer.error = cudaGetErrorString(status);
    return answer;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties");
    GpuAnswer gpu;
    gpu.name = properties.name;
    gpu.major = properties.major;
    gpu.minor = properties.minor;
    gpu.mode = mode_of(attribute(cudaDevAttrComputeMode, i));
    answer.gpus.push_back(std::move(gpu));
  }
  return answer;
}

// A step as one graph: a single launch for all of its kernels.
class Graph final : public Program {
 public:
  Graph(cudaStream_t stream, const std::function<void()>& step) : stream_(stream) {
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
    const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    check(cudaGraphUpload(graph_, stream), "cudaGraphUpload");
  }
  ~Graph() override { cudaGraphExecDestroy(graph_); }
  void run() override { check(cudaGraphLaunch(graph_, stream_), "cudaGraphLaunch"); }
  std::string_view engine() const override { return "graph"; }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t graph_ = nullptr;
};

class CudaRuntime final : public Runtime {
 public:
  CudaRuntime() {
    DriverAnswer answer = ask_driver();
    gpu_ = choose_gpu(answer, std::nullopt);
    GpuAnswer& gpu = answer.gpus[static_cast<size_t>(gpu_)];
    cudaError_t status = cudaSetDevice(gpu_);
    if (status == cudaSuccess) status = cudaFree(nullptr);  // makes the context
    if (status != cudaSuccess) {
      gpu.opens = false;
      gpu.open_error = cudaGetErrorString(status);
      choose_gpu(answer, gpu_);
    }
    name_ = gpu.name;
    constexpr int kOverlapMajor = 9;
    overlap_ = gpu.major >= kOverlapMajor;
    has_persistent_ = gpu.major == kOverlapMajor && attribute(cudaDevAttrCooperativeLaunch, gpu_) != 0;
    features_ = fmt::format("sm_{}{}", gpu.major, gpu.minor);
    shared_bytes_ = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, gpu_));
    multiprocessors_ = attribute(cudaDevAttrMultiProcessorCount, gpu_);
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaEventCreate(&start_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~CudaRuntime() override {
    cudaEventDestroy(start_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }

  DeviceInfo device() const override {
    size_t free_bytes = 0, total_bytes = 0;
    check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
    DeviceInfo info;
    info.backend = "cuda";
    info.name = name_;
    info.features = features_;
    info.memory_bytes = total_bytes;
    info.available_bytes = free_bytes;
    return info;
  }
  int multiprocessors() const override { return multiprocessors_; }
  size_t shared_bytes() const override { return shared_bytes_; }
  Stream stream() const override { return {stream_, overlap_}; }

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
    zero(data, bytes);
    return data;
  }
  void release(void* data) noexcept override { cudaFree(data); }
  void zero(void* data, size_t bytes) override { check(cudaMemsetAsync(data, 0, bytes, stream_), "cudaMemsetAsync"); }
  void to_device(void* to, const void* from, size_t bytes) override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
    synchronize();
  }
  void from_device(void* to, const void* from, size_t bytes) override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    synchronize();
  }
  void synchronize() override { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }
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
    return std::make_unique<Graph>(stream_, step);
  }
  size_t persistent_bytes(const Tape& tape) const override {
    return has_persistent_ ? persistent_program_bytes(tape, multiprocessors_, shared_bytes_) : 0;
  }
  std::unique_ptr<Program> record_persistent(const Tape& tape, const Tables& tables, std::byte* memory) override {
    synchronize();
    return make_persistent_program(*this, tape, tables, memory);
  }

 private:
  static double mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

  int gpu_ = 0, multiprocessors_ = 0;
  bool overlap_ = false, has_persistent_ = false;
  size_t shared_bytes_ = 0;
  std::string name_, features_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t start_ = nullptr, end_ = nullptr;
};

}  // namespace

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  fail(ErrorKind::device, "the GPU answered {} with {} ({}); see nvidia-smi and the kernel's log", call,
       cudaGetErrorName(status), cudaGetErrorString(status));
}

std::unique_ptr<Runtime> open_runtime() { return std::make_unique<CudaRuntime>(); }

}  // namespace quantbench::cuda
