#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "backend/cuda/cuda.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/device_memory.h"
#include "backend/cuda/weight_quantizer.h"
#include "backend/host_memory.h"
#include "core/error.h"
#include "quant/nf4.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr std::string_view kGraph = "graph", kPersistent = "persistent";

// A byte's two codes as fp16, the first in the low half; bitsandbytes puts the first into the byte's high half.
std::array<uint32_t, 256> code_pairs() {
  std::array<uint32_t, 256> pairs{};
  for (uint32_t byte = 0; byte < pairs.size(); ++byte) {
    pairs[byte] = to_f16(kNf4Code[byte >> 4]).bits | uint32_t{to_f16(kNf4Code[byte & 15]).bits} << 16;
  }
  return pairs;
}

// Reads its bytes by loads with as many blocks as are in flight at once, or by copies where there are such; the fastest
// of these is kept.
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
      if (blocks == kByCopies && !has_copies()) continue;
      constexpr int kTrials = 3;
      for (int i = 0; i < kTrials; ++i) {
        const double rate = pass(blocks);
        if (rate > best) best = rate, chosen_ = blocks;
      }
    }
  }
  ~DeviceReadProbe() override { runtime_.release(data_); }
  double measure() override { return pass(chosen_); }
  std::string kernel() const override {
    if (chosen_ == kByCopies) {
      return fmt::format("copies of {} KiB, {} on the way a multiprocessor", kCopyReadBytes >> 10, kCopyReadStages);
    }
    return fmt::format("16-byte loads, {} blocks a multiprocessor", chosen_);
  }

 private:
  static constexpr int kByCopies = 0;
  static constexpr int kBlocks[] = {8, 4, 16, kByCopies};  // a multiprocessor

  bool has_copies() const {
    constexpr int kFirst = 90, kBehind = 100;
    return runtime_.compiled_for() >= kFirst && runtime_.compiled_for() < kBehind &&
           runtime_.shared_bytes() >= kCopyReadShared;
  }
  double pass(int blocks) {
    const ReadArgs args{data_, bytes_, reinterpret_cast<uint32_t*>(static_cast<std::byte*>(data_) + bytes_)};
    const double seconds = runtime_.seconds([&] {
      if (blocks == kByCopies)
        read_by_copies(args, runtime_.multiprocessors(), runtime_.stream());
      else
        read(args, blocks * runtime_.multiprocessors(), runtime_.stream());
    });
    return static_cast<double>(bytes_) / seconds;
  }

  Runtime& runtime_;
  size_t bytes_;
  void* data_;
  int chosen_ = kBlocks[0];
};

// A recorded step, which leaves nothing that the ops know of rows made ready before it.
class StepProgram final : public Program {
 public:
  // memory: of its own, or null. choice: what is left to do behind the step, or null.
  StepProgram(CudaOps& ops, std::unique_ptr<Buffer> memory, std::unique_ptr<Program> step,
              std::unique_ptr<Program> choice)
      : ops_(ops), memory_(std::move(memory)), step_(std::move(step)), choice_(std::move(choice)) {
    tuning_ = step_->tuning();
    if (const std::string& prompts = ops_.wide().tuning(); !prompts.empty()) tuning_ += "; prompts: " + prompts;
  }
  void run() override {
    ops_.forget();
    step_->run();
    if (choice_) choice_->run();
  }
  std::string tuning() const override { return tuning_; }
  std::optional<int> launches() const override {
    const std::optional<int> of_step = step_->launches();
    if (!of_step || !choice_) return of_step;
    return *of_step + choice_->launches().value_or(0);
  }

 private:
  CudaOps& ops_;
  std::unique_ptr<Buffer> memory_;
  std::unique_ptr<Program> step_, choice_;
  std::string tuning_;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const BackendOptions& options)
      : runtime_(open_runtime(options)),
        pool_(options.threads),
        memory_(*runtime_),
        device_(runtime_->device()),
        engine_(options.engine) {
    tables_.nested_code = copy<float>(Use::tables, nested_code());
    tables_.code_pairs = copy<uint32_t>(Use::tables, code_pairs());
    ops_ = std::make_unique<CudaOps>(*runtime_, tables_);
  }

  const DeviceInfo& device() const override { return device_; }
  ThreadPool& host_pool() override { return pool_; }
  std::optional<MatrixLibrary> matrix_library() override { return ops_->wide().library(); }

  Plan plan(const Tape& step, int max_rows, const Tape& before) override {
    Plan plan{step, before, weight_bytes(step, before), max_rows};
    plan.predicted[Use::tables] += piece_bytes(nested_code().size() * sizeof(float));
    plan.predicted[Use::tables] += piece_bytes(sizeof(code_pairs()));
    plan.predicted[Use::workspace] += piece_bytes(workspace_bytes(shape_of(plan)));
    plan.engines = engines_of(step);
    size_t most = 0;
    for (const StepEngine& engine : plan.engines) most = std::max(most, engine.workspace_bytes);
    plan.predicted[Use::workspace] += most;
    return plan;
  }
  Matrix pack(const HostMatrix& weight, Role role, const Plan& plan) override {
    memory_.expect(packed_bytes(plan.predicted));
    return std::visit([&](const auto& m) { return keep(m, role); }, weight);
  }
  float largest_bf16() const override { return kMaxF16; }
  std::unique_ptr<WeightQuantizer> weight_quantizer(const Plan& plan) override {
    memory_.expect(packed_bytes(plan.predicted));
    return make_weight_quantizer(*runtime_, memory_, pool_, tables_);
  }
  std::unique_ptr<Buffer> allocate(Use use, size_t bytes) override { return memory_.allocate(use, bytes); }
  void upload(Buffer& to, size_t offset, const void* from, size_t bytes) override {
    ops_->forget();
    runtime_->to_device(static_cast<std::byte*>(to.data()) + offset, from, bytes);
  }
  void download(void* to, const void* device_from, size_t bytes) override {
    runtime_->from_device(to, device_from, bytes);
  }
  Ops& ops() override { return *ops_; }
  std::unique_ptr<Program> record(const Plan& plan) override {
    const WorkspaceShape shape = shape_of(plan);
    workspace_.reset();  // before the next is taken, so that the ledger never holds two
    workspace_ = memory_.allocate(Use::workspace, workspace_bytes(shape));
    ops_->use(cut_workspace(shape, static_cast<std::byte*>(workspace_->data())));
    ops_->wide().tune(plan.tape, plan.max_rows);
    return record_beside(plan, plan.engines.front().name);
  }
  std::unique_ptr<Program> record_beside(const Plan& plan, std::string_view engine) override {
    std::unique_ptr<Buffer> memory;
    std::unique_ptr<Program> step, choice;
    if (engine == kPersistent) {
      memory = memory_.allocate(Use::workspace, runtime_->persistent_bytes(plan.tape));
      step = runtime_->record_persistent(plan.tape, tables_, static_cast<std::byte*>(memory->data()));
      const auto& next = std::get<NextToken>(plan.tape.back());
      // The persistent kernel chooses among all ids or not at all.
      if (next.sampling.cuts(next.logits.cols)) choice = runtime_->record([this, next] { ops_->next_token(next); });
    } else {
      step = record_graph(plan.tape);
    }
    ops_->forget();  // what was only recorded is not done
    return std::make_unique<StepProgram>(*ops_, std::move(memory), std::move(step), std::move(choice));
  }
  std::unique_ptr<Program> record_part(const Tape& part) override {
    ops_->forget();
    std::unique_ptr<Program> step = record_graph(part);
    ops_->forget();
    return std::make_unique<StepProgram>(*ops_, nullptr, std::move(step), nullptr);
  }
  void hash(uint64_t* hash, const uint32_t* words, int count) override {
    QB_CUDA::hash({hash, words, count}, runtime_->stream());
  }
  void synchronize() override { runtime_->synchronize(); }
  std::unique_ptr<Timeline> timeline() override { return runtime_->timeline(); }
  std::unique_ptr<Lookout> lookout(size_t bytes, int most) override {
    auto own = runtime_->lookout(bytes, most);
    return own ? std::move(own) : Backend::lookout(bytes, most);
  }
  MemoryUse memory() const override { return memory_.use(); }
  std::optional<DeviceUse> device_use() const override { return runtime_->use(); }
  void reset_device_peak() override { runtime_->reset_peak(); }
  std::unique_ptr<ReadProbe> read_probe(size_t bytes) override {
    return std::make_unique<DeviceReadProbe>(*runtime_, bytes);
  }

 private:
  std::unique_ptr<Program> record_graph(const Tape& tape) {
    return runtime_->record([this, tape] {
      for (const Op& op : tape) quantbench::run(op, *ops_);
    });
  }
  std::vector<StepEngine> engines_of(const Tape& step) const {
    std::vector<StepEngine> engines;
    if (engine_ != kPersistent) engines.push_back({kGraph});
    if (engine_ == kGraph) return engines;
    const std::string obstacle = runtime_->persistent_obstacle(step);
    if (obstacle.empty()) {
      engines.push_back({kPersistent, piece_bytes(runtime_->persistent_bytes(step))});
    } else if (engine_ == kPersistent) {
      fail(ErrorKind::device, "--engine persistent: {}; use --engine graph or auto", obstacle);
    }
    return engines;
  }
  // The library is opened only for a plan that could use it. Where there is none, a batch has kernels all the same.
  WorkspaceShape shape_of(const Plan& plan) {
    // What stands behind the step is as if it were a part of it with more rows.
    Tape all = plan.tape;
    all.insert(all.end(), plan.before.begin(), plan.before.end());
    int rows = plan.max_rows;
    for (const Op& op : plan.before) {
      if (const auto* const embed = std::get_if<Embed>(&op)) rows = std::max(rows, embed->x.rows);
    }
    return workspace_shape(all, rows, rows > kStreamedRows && ops_->wide().open(),
                           device_.gpu ? device_.gpu->cache_bytes : 0, runtime_->has_tensor_products());
  }
  Matrix keep(const HostF16& m, Role role) { return F16Matrix{m.n, m.k, stream<f16>(m, role)}; }
  Matrix keep(const HostBf16& m, Role role) { return Bf16Matrix{m.n, m.k, stream<bf16>(m, role)}; }
  Matrix keep(const HostF32& m, Role role) { return F32Matrix{m.n, m.k, stream<float>(m, role)}; }
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

  template <typename T, typename Host>
  const T* stream(const Host& m, Role role) {
    const size_t k = static_cast<size_t>(m.k);
    auto* const w = static_cast<T*>(memory_.keep(codes_use(role), static_cast<size_t>(m.n) * k * sizeof(T)));
    stream_rows<T>(m, 1, pool_, [&](size_t first, size_t count, const T* rows) {
      runtime_->to_device(w + first * k, rows, count * k * sizeof(T));
    });
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
  std::string engine_;
  Tables tables_;
  std::unique_ptr<Buffer> workspace_;
  std::unique_ptr<CudaOps> ops_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(const BackendOptions& options) { return std::make_unique<CudaBackend>(options); }

}  // namespace quantbench::QB_CUDA
