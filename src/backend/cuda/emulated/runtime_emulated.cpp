// Runtime over the emulator: device memory is the host's, and everything is done when it is asked for.
#include <algorithm>
#include <cstring>
#include <map>

#include "backend/cuda/runtime.h"
#include "backend/host_memory.h"

namespace quantbench::QB_CUDA {
namespace {

class Repeat final : public Program {
 public:
  explicit Repeat(std::function<void()> step) : step_(std::move(step)) {}
  void run() override { step_(); }

 private:
  std::function<void()> step_;
};

class EmulatedRuntime final : public Runtime {
 public:
  DeviceInfo device() const override {
    DeviceInfo info = host_device("cuda", "emulated", 1);
    info.id = "cuda:0";
    info.gpu = {.uuid = "GPU-emulated", .driver = "none", .major = 7, .minor = 5, .multiprocessors = multiprocessors()};
    return info;
  }
  DeviceUse use() const override { return {.held_bytes = held_bytes_, .peak_bytes = peak_bytes_}; }
  void reset_peak() override { peak_bytes_ = held_bytes_; }
  int multiprocessors() const override { return 1; }                 // so that blocks take several turns
  size_t shared_bytes() const override { return size_t{64} << 10; }  // as the oldest card has
  Stream stream() const override { return {}; }

  void* allocate(size_t bytes) override {
    os::Block block(bytes);
    void* const data = block.data();
    blocks_.emplace(data, std::move(block));
    held_bytes_ += static_cast<int64_t>(bytes);
    peak_bytes_ = std::max(peak_bytes_, held_bytes_);
    return data;
  }
  void release(void* data) noexcept override {
    const auto found = blocks_.find(data);
    if (found == blocks_.end()) return;
    held_bytes_ -= static_cast<int64_t>(found->second.bytes());
    blocks_.erase(found);
  }
  void zero(void* data, size_t bytes) override { std::memset(data, 0, bytes); }
  void to_device(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void from_device(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void synchronize() override {}
  double seconds(const std::function<void()>& work) override {
    const int64_t start_ns = os::steady_now_ns();
    work();
    return static_cast<double>(os::steady_now_ns() - start_ns) * 1e-9;
  }
  std::unique_ptr<Program> record(std::function<void()> step) override {
    return std::make_unique<Repeat>(std::move(step));
  }

 private:
  std::map<void*, os::Block> blocks_;
  int64_t held_bytes_ = 0, peak_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Runtime> open_runtime(const BackendOptions&) { return std::make_unique<EmulatedRuntime>(); }

}  // namespace quantbench::QB_CUDA
