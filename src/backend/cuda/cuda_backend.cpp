#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "backend/cuda/cuda.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/device_memory.h"
#include "backend/host_memory.h"
#include "quant/nf4.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr size_t kStagingBytes = size_t{16} << 20;  // of a weight on its way from the host

// Reads its bytes with as many blocks as are in flight at once; the best of a few numbers of them is kept.
class DeviceReadProbe final : public ReadProbe {
 public:
  DeviceReadProbe(Runtime& runtime, size_t bytes)
      : runtime_(runtime),
        bytes_((bytes + kReadBytes - 1) / kReadBytes * kReadBytes),
        data_(runtime.allocate(bytes_ + kReadBytes)) {
    const int processors = runtime_.multiprocessors();
    fill({static_cast<uint32_t*>(data_), bytes_ / sizeof(uint32_t)}, kBlocks[0] * processors, runtime_.stream());
    double best = 0;
    for (const int blocks : kBlocks) {
      constexpr int kTrials = 3;
      for (int i = 0; i < kTrials; ++i) {
        const double rate = pass(blocks);
        if (rate > best) best = rate, chosen_ = blocks;
      }
    }
  }
  ~DeviceReadProbe() override { runtime_.release(data_); }
  double measure() override { return pass(chosen_); }
  std::string kernel() const override { return fmt::format("16-byte loads, {} blocks a multiprocessor", chosen_); }

 private:
  static constexpr int kBlocks[] = {8, 4, 16};  // a multiprocessor

  double pass(int blocks) {
    const ReadArgs args{data_, bytes_, reinterpret_cast<uint32_t*>(static_cast<std::byte*>(data_) + bytes_)};
    const double seconds =
        runtime_.seconds([&] { read(args, blocks * runtime_.multiprocessors(), runtime_.stream()); });
    return static_cast<double>(bytes_) / seconds;
  }

  Runtime& runtime_;
  size_t bytes_;
  void* data_;
  int chosen_ = kBlocks[0];
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const BackendOptions& options)
      : runtime_(open_runtime()), pool_(options.threads), memory_(*runtime_), device_(runtime_->device()) {
    auto* const code = static_cast<float*>(memory_.keep(Use::tables, nested_code().size() * sizeof(float)));
    runtime_->to_device(code, nested_code().data(), nested_code().size() * sizeof(float));
    ops_ = std::make_unique<CudaOps>(*runtime_, code);
  }

  const DeviceInfo& device() const override { return device_; }
  ThreadPool& host_pool() override { return pool_; }

  Plan plan(const Tape& step, int max_rows) override {
    Plan plan{step, weight_bytes(step), max_rows};
    plan.predicted[Use::tables] += piece_bytes(nested_code().size() * sizeof(float));
    plan.predicted[Use::workspace] += piece_bytes(workspace_bytes(workspace_shape(step, max_rows)));
    return plan;
  }
  Matrix pack(const HostMatrix& weight, Role role, const Plan&) override {
    return std::visit([&](const auto& m) { return keep(m, role); }, weight);
  }
  std::unique_ptr<Buffer> allocate(Use use, size_t bytes) override { return memory_.allocate(use, bytes); }
  void upload(Buffer& to, size_t offset, const void* from, size_t bytes) override {
    runtime_->to_device(static_cast<std::byte*>(to.data()) + offset, from, bytes);
  }
  void download(void* to, const void* device_from, size_t bytes) override {
    runtime_->from_device(to, device_from, bytes);
  }
  Ops& ops() override { return *ops_; }
  std::unique_ptr<Program> record(const Plan& plan) override {
    const WorkspaceShape shape = workspace_shape(plan.tape, plan.max_rows);
    workspace_.reset();  // before the next is taken, so that the ledger never holds two
    workspace_ = memory_.allocate(Use::workspace, workspace_bytes(shape));
    ops_->use(cut_workspace(shape, static_cast<std::byte*>(workspace_->data())));
    return runtime_->record([this, tape = plan.tape] {
      for (const Op& op : tape) quantbench::run(op, *ops_);
    });
  }
  void synchronize() override { runtime_->synchronize(); }
  MemoryUse memory() const override { return memory_.use(); }
  std::unique_ptr<ReadProbe> read_probe(size_t bytes) override {
    return std::make_unique<DeviceReadProbe>(*runtime_, bytes);
  }

 private:
  Matrix keep(const HostF16& m, Role role) { return F16Matrix{m.n, m.k, stream_rows<f16>(m, role)}; }
  Matrix keep(const HostF32& m, Role role) { return F32Matrix{m.n, m.k, stream_rows<float>(m, role)}; }
  Matrix keep(const HostInt8& m, Role role) {
    return Int8Matrix{m.n, m.k, copy(codes_use(role), m.codes), copy(Use::scales, m.absmax)};
  }
  Matrix keep(const HostNf4& m, Role role) {
    Nf4Matrix out{m.n, m.k};
    out.w = copy(codes_use(role), m.codes);
    out.double_quantized = m.absmax.empty();
    if (out.double_quantized) {
      out.absmax8 = copy(Use::scales, m.absmax8);
      out.nested_absmax = copy(Use::scales, m.nested_absmax);
      out.offset = m.offset;
    } else {
      out.absmax = copy(Use::scales, m.absmax);
    }
    return out;
  }

  // Rows are read by all threads into a staging buffer and sent on from there.
  template <typename T, typename Host>
  const T* stream_rows(const Host& m, Role role) {
    const size_t n = static_cast<size_t>(m.n), k = static_cast<size_t>(m.k), row_bytes = k * sizeof(T);
    auto* const w = static_cast<T*>(memory_.keep(codes_use(role), n * row_bytes));
    const size_t at_once =
        std::clamp<size_t>(kStagingBytes / std::max<size_t>(row_bytes, 1), 1, std::max<size_t>(n, 1));
    std::vector<T> staging(at_once * k);
    for (size_t first = 0; first < n; first += at_once) {
      const size_t count = std::min(at_once, n - first);
      constexpr size_t kRowsOfAThread = 64;
      pool_.for_chunks(count, kRowsOfAThread, [&](size_t begin, size_t end, int) {
        m.read(static_cast<int>(first + begin), static_cast<int>(end - begin), staging.data() + begin * k);
      });
      runtime_->to_device(w + first * k, staging.data(), count * row_bytes);
    }
    return w;
  }
  template <typename T>
  const T* copy(Use use, std::span<const T> from) {
    auto* const to = static_cast<T*>(memory_.keep(use, from.size_bytes()));
    if (!from.empty()) runtime_->to_device(to, from.data(), from.size_bytes());
    return to;
  }

  std::unique_ptr<Runtime> runtime_;
  ThreadPool pool_;
  DeviceMemory memory_;
  DeviceInfo device_;
  std::unique_ptr<Buffer> workspace_;
  std::unique_ptr<CudaOps> ops_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(const BackendOptions& options) { return std::make_unique<CudaBackend>(options); }

}  // namespace quantbench::QB_CUDA
