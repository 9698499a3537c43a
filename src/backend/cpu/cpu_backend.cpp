#include <fmt/format.h>

#include <cstring>

#include "backend/cpu/cpu.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/features.h"
#include "backend/cpu/packing.h"
#include "backend/cpu/read_bandwidth.h"
#include "backend/host_memory.h"

namespace quantbench {
namespace cpu {
namespace {

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options)
      : isa_(select_isa(options.isa, detect_features())),
        kernels_(isa_ == Isa::avx512 ? avx512::kernels() : avx2::kernels()),
        pool_(options.threads),
        device_(host_device("cpu", std::string(features_of(isa_)) + (pool_.pins() ? "" : ", threads not pinned"),
                            pool_.size())),
        ops_(kernels_, pool_, detect_features().wants_fetching) {}

  const DeviceInfo& device() const override { return device_; }
  ThreadPool& host_pool() override { return pool_; }

  Plan plan(const Tape& step, int max_rows, const Tape& before) override {
    Plan plan{step, before, weight_bytes(step, before, nf4_rows), max_rows};
    plan.predicted[Use::workspace] += piece_bytes(workspace_bytes(shape_of(plan)));
    return plan;
  }
  Matrix pack(const HostMatrix& weight, Role role, const Plan& plan) override {
    memory_.expect(packed_bytes(plan.predicted));
    return cpu::pack(weight, role, memory_, pool_);
  }
  std::unique_ptr<Buffer> allocate(Use use, size_t bytes) override { return memory_.allocate(use, bytes); }
  void upload(Buffer& to, size_t offset, const void* from, size_t bytes) override {
    std::memcpy(static_cast<std::byte*>(to.data()) + offset, from, bytes);
  }
  void download(void* to, const void* device_from, size_t bytes) override { std::memcpy(to, device_from, bytes); }
  Ops& ops() override { return ops_; }
  std::unique_ptr<Program> record(const Plan& plan) override {
    const WorkspaceShape shape = shape_of(plan);
    workspace_.reset();  // before the next is taken, so that the ledger never holds two
    workspace_ = memory_.allocate(Use::workspace, workspace_bytes(shape));
    ops_.use(cut_workspace(shape, static_cast<std::byte*>(workspace_->data())));
    return replay(plan, ops_,
                  fmt::format("{}, {} thread{}", device_.features, device_.threads, device_.threads == 1 ? "" : "s"));
  }
  void synchronize() override {}
  MemoryUse memory() const override { return memory_.use(); }
  std::unique_ptr<ReadProbe> read_probe(size_t bytes) override {
    return std::make_unique<HostReadProbe>(pool_, isa_, bytes);
  }

 private:
  WorkspaceShape shape_of(const Plan& plan) const { return workspace_shape(plan, pool_.size(), kernels_); }

  Isa isa_;
  const Kernels& kernels_;
  ThreadPool pool_;
  DeviceInfo device_;
  HostMemory memory_;
  std::unique_ptr<Buffer> workspace_;
  CpuOps ops_;
};

}  // namespace
}  // namespace cpu

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  return std::make_unique<cpu::CpuBackend>(options);
}

}  // namespace quantbench
