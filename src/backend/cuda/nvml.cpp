#include "backend/cuda/nvml.h"

#include <array>

#include "backend/cuda/nvml_api.h"
#include "core/os.h"

namespace quantbench::cuda {
namespace {

using namespace nvml;

class Library final : public Nvml {
 public:
  explicit Library(os::Library library) : library_(std::move(library)) {}
  ~Library() override {
    if (auto* const end = library_.find<Status()>("nvmlShutdown"); started_ && end) end();
  }
  bool start() {
    auto* const init = library_.find<Status()>("nvmlInit_v2");
    started_ = init && init() == kDone;
    return started_;
  }

  std::string driver() const override {
    return text([get = library_.find<Status(char*, unsigned)>("nvmlSystemGetDriverVersion")](char* to, unsigned size) {
      return get ? get(to, size) : -1;
    });
  }

  std::vector<Card> cards() const override {
    std::vector<Card> all;
    auto* const count = library_.find<Status(unsigned*)>("nvmlDeviceGetCount_v2");
    auto* const handle = library_.find<Status(unsigned, Device*)>("nvmlDeviceGetHandleByIndex_v2");
    auto* const name = library_.find<Status(Device, char*, unsigned)>("nvmlDeviceGetName");
    auto* const mig = library_.find<Status(Device, unsigned*, unsigned*)>("nvmlDeviceGetMigMode");
    unsigned number = 0;
    if (!count || !handle || count(&number) != kDone) return all;
    for (unsigned i = 0; i < number; ++i) {
      Device device = nullptr;
      if (handle(i, &device) != kDone) continue;
      Card card;
      card.name = text([&](char* to, unsigned size) { return name ? name(device, to, size) : -1; });
      unsigned now = 0, next = 0;
      card.mig_mode = mig && mig(device, &now, &next) == kDone && now != 0;
      all.push_back(std::move(card));
    }
    return all;
  }

  bool knows(const std::string& uuid) const override { return find(uuid) != nullptr; }

  std::optional<Memory> memory(const std::string& uuid) const override {
    auto* const get = library_.find<Status(Device, MemoryInfo*)>("nvmlDeviceGetMemoryInfo");
    const Device device = find(uuid);
    MemoryInfo info{};
    if (!get || !device || get(device, &info) != kDone) return std::nullopt;
    return Memory{static_cast<int64_t>(info.total), static_cast<int64_t>(info.free), static_cast<int64_t>(info.used)};
  }

  std::optional<int64_t> process_bytes(const std::string& uuid, uint32_t process) const override {
    auto* get = library_.find<GetProcesses>("nvmlDeviceGetComputeRunningProcesses_v3");
    if (!get) get = library_.find<GetProcesses>("nvmlDeviceGetComputeRunningProcesses_v2");
    const Device device = find(uuid);
    if (!get || !device) return std::nullopt;
    std::vector<ProcessInfo> processes(16);
    for (int attempt = 0; attempt < 3; ++attempt) {  // others may start meanwhile
      auto count = static_cast<unsigned>(processes.size());
      const Status status = get(device, &count, processes.data());
      if (status == kTooShort) {
        processes.resize(2 * (size_t{count} + 1));
        continue;
      }
      if (status != kDone) return std::nullopt;
      for (unsigned i = 0; i < count && i < processes.size(); ++i) {
        if (processes[i].pid == process && processes[i].used != kNotTold) {
          return static_cast<int64_t>(processes[i].used);
        }
      }
      return std::nullopt;
    }
    return std::nullopt;
  }

 private:
  template <typename Get>
  static std::string text(const Get& get) {
    std::array<char, 128> buffer{};
    if (get(buffer.data(), static_cast<unsigned>(buffer.size() - 1)) != kDone) return "";
    return buffer.data();
  }
  Device find(const std::string& uuid) const {
    auto* const get = library_.find<Status(const char*, Device*)>("nvmlDeviceGetHandleByUUID");
    Device device = nullptr;
    return get && get(uuid.c_str(), &device) == kDone ? device : nullptr;
  }

  os::Library library_;
  bool started_ = false;
};

}  // namespace

std::unique_ptr<Nvml> open_nvml(const std::string& library) {
  auto opened = os::Library::open(library);
  if (!opened) return nullptr;
  auto nvml = std::make_unique<Library>(std::move(*opened));
  if (!nvml->start()) return nullptr;
  return nvml;
}

}  // namespace quantbench::cuda
