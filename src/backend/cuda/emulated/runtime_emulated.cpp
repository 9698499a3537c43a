// Runtime over the emulator: device memory is the host's, and everything is done when it is asked for.
#include <algorithm>
#include <cstring>
#include <map>

#include "backend/cuda/cuda.h"
#include "backend/cuda/emulated/emulator.h"
#include "backend/cuda/persistent/persistent_plan.h"
#include "backend/cuda/persistent/persistent_program.h"
#include "backend/cuda/runtime.h"
#include "backend/host_memory.h"

namespace quantbench::QB_CUDA {
namespace {

class Repeat final : public Program {
 public:
  explicit Repeat(std::function<void()> step) : step_(std::move(step)) {}
  void run() override {
    const int64_t before = launches_made();
    step_();
    launches_ = static_cast<int>(launches_made() - before);
  }
  std::string tuning() const override { return "calls"; }
  std::optional<int> launches() const override { return launches_; }

 private:
  std::optional<int> launches_;
  std::function<void()> step_;
};

// What was asked for is done, so a mark is now.
class HostTimeline final : public Timeline {
 public:
  void restart() override { times_ns_.clear(); }
  int mark() override {
    times_ns_.push_back(os::steady_now_ns());
    return static_cast<int>(times_ns_.size()) - 1;
  }
  std::vector<int64_t> times_ns() override {
    std::vector<int64_t> times = times_ns_;
    for (int64_t& time : times) time -= times_ns_.front();
    return times;
  }

 private:
  std::vector<int64_t> times_ns_;
};

// As the oldest card that is taken, or, where the persistent engine or card kEmulatedHopper is asked for, as the oldest
// that has it.
class EmulatedRuntime final : public Runtime {
 public:
  explicit EmulatedRuntime(const BackendOptions& options)
      : has_persistent_(options.engine == "persistent" || options.gpu == kEmulatedHopper),
        stalls_(options.persistent_stalls) {}
  DeviceInfo device() const override {
    DeviceInfo info = host_device("cuda", "emulated", 1);
    info.id = "cuda:0";
    info.gpu = {.uuid = "GPU-emulated",
                .driver = "none",
                .major = has_persistent_ ? 9 : 7,
                .minor = has_persistent_ ? 0 : 5,
                .multiprocessors = multiprocessors(),
                // A Turing's by far too small, so that weights of NF4 are expanded in several turns.
                .cache_bytes = has_persistent_ ? size_t{50} << 20 : size_t{48} << 10};
    return info;
  }
  DeviceUse use() const override {
    return {.held_bytes = held_bytes_, .peak_bytes = peak_bytes_, .taken_bytes = held_bytes_};
  }
  void reset_peak() override { peak_bytes_ = held_bytes_; }
  // Few, so that blocks take several turns.
  int multiprocessors() const override { return has_persistent_ ? 3 : 1; }
  size_t shared_bytes() const override { return size_t{has_persistent_ ? 227u : 64u} << 10; }
  int compiled_for() const override { return has_persistent_ ? 90 : 75; }
  Stream stream() const override { return {}; }
  bool has_tensor_products() const override { return has_persistent_; }

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
  std::unique_ptr<Timeline> timeline() override { return std::make_unique<HostTimeline>(); }
  double seconds(const std::function<void()>& work) override {
    const int64_t start_ns = os::steady_now_ns();
    work();
    return static_cast<double>(os::steady_now_ns() - start_ns) * 1e-9;
  }
  std::unique_ptr<Program> record(std::function<void()> step) override {
    return std::make_unique<Repeat>(std::move(step));
  }

  std::string persistent_obstacle(const Tape& tape) const override {
    if (!has_persistent_) return "the emulated card is one without the persistent engine";
    return QB_CUDA::persistent_obstacle(tape, shared_bytes());
  }
  size_t persistent_bytes(const Tape& tape) const override {
    return persistent_program_bytes(tape, multiprocessors(), shared_bytes());
  }
  std::unique_ptr<Program> record_persistent(const Tape& tape, const Tables& tables, std::byte* memory) override {
    return make_persistent_program(*this, tape, tables, memory, stuck_, stalls_);
  }

 private:
  bool has_persistent_, stalls_;
  uint32_t stuck_[4] = {};
  std::map<void*, os::Block> blocks_;
  int64_t held_bytes_ = 0, peak_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Runtime> open_runtime(const BackendOptions& options) {
  return std::make_unique<EmulatedRuntime>(options);
}

}  // namespace quantbench::QB_CUDA
