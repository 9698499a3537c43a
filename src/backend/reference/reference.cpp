#include "backend/reference/reference.h"

#include <cstring>

#include "backend/host_memory.h"
#include "backend/reference/reference_ops.h"

namespace quantbench {
namespace {

class ReferenceBackend final : public Backend {
 public:
  explicit ReferenceBackend(const BackendOptions& options)
      : pool_(options.threads), device_(host_device("reference", "scalar", 1)) {}

  const DeviceInfo& device() const override { return device_; }
  ThreadPool& host_pool() override { return pool_; }

  Plan plan(const Tape& step, int max_rows, const Tape& before) override {
    return {step, before, weight_bytes(step, before), max_rows};
  }

  Matrix pack(const HostMatrix& weight, Role role, const Plan& plan) override {
    memory_.expect(packed_bytes(plan.predicted));
    return std::visit([&](const auto& w) { return keep(w, role); }, weight);
  }
  std::unique_ptr<Buffer> allocate(Use use, size_t bytes) override { return memory_.allocate(use, bytes); }
  void upload(Buffer& to, size_t offset, const void* from, size_t bytes) override {
    std::memcpy(static_cast<std::byte*>(to.data()) + offset, from, bytes);
  }
  void download(void* to, const void* device_from, size_t bytes) override { std::memcpy(to, device_from, bytes); }
  Ops& ops() override { return ops_; }
  std::unique_ptr<Program> record(const Plan& plan) override { return replay(plan, ops_); }
  void synchronize() override {}
  MemoryUse memory() const override { return memory_.use(); }

 private:
  Matrix keep(const HostF16& m, Role role) { return F16Matrix{m.n, m.k, read_all<f16>(m, role)}; }
  Matrix keep(const HostBf16& m, Role role) { return Bf16Matrix{m.n, m.k, read_all<bf16>(m, role)}; }
  Matrix keep(const HostF32& m, Role role) { return F32Matrix{m.n, m.k, read_all<float>(m, role)}; }
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

  // The rows are read straight to where they stay, by all threads.
  template <typename T, typename Host>
  const T* read_all(const Host& m, Role role) {
    constexpr size_t kRowsAtOnce = 64;
    const size_t n = static_cast<size_t>(m.n), k = static_cast<size_t>(m.k);
    T* const w = memory_.keep_array<T>(codes_use(role), n * k);
    pool_.for_chunks(n, kRowsAtOnce, [&](size_t begin, size_t end, int) {
      m.read(static_cast<int>(begin), static_cast<int>(end - begin), w + begin * k);
    });
    return w;
  }
  template <typename T>
  const T* copy(Use use, std::span<const T> from) {
    T* const to = memory_.keep_array<T>(use, from.size());
    if (!from.empty()) std::memcpy(to, from.data(), from.size_bytes());
    return to;
  }

  HostMemory memory_;
  ThreadPool pool_;
  DeviceInfo device_;
  ReferenceOps ops_;
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend(const BackendOptions& options) {
  return std::make_unique<ReferenceBackend>(options);
}

}  // namespace quantbench
