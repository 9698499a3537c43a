#include "backend/cuda/nvml_telemetry.h"

#include <fmt/format.h>

#include "backend/cuda/nvml_api.h"
#include "core/os.h"

namespace quantbench::cuda {
namespace {

using namespace nvml;

// Of nvml.h.
constexpr int kSmClock = 1, kMemoryClock = 2, kGpuSensor = 0, kUncorrected = 1, kVolatile = 0;

class NvmlTelemetry final : public Telemetry {
 public:
  explicit NvmlTelemetry(os::Library library) : library_(std::move(library)) {}
  ~NvmlTelemetry() override {
    if (auto* const end = library_.find<Status()>("nvmlShutdown"); started_ && end) end();
  }

  // Why there is no telemetry, or nothing.
  std::string start(const std::string& uuid) {
    auto* const init = library_.find<Status()>("nvmlInit_v2");
    if (!init) return "the library lacks nvmlInit_v2";
    if (const Status status = init(); status != kDone) return fmt::format("nvmlInit_v2 answers {}", status);
    started_ = true;
    auto* const by_uuid = library_.find<Status(const char*, Device*)>("nvmlDeviceGetHandleByUUID");
    if (!by_uuid || by_uuid(uuid.c_str(), &device_) != kDone) return fmt::format("it does not know {}", uuid);
    card_ = device_;
    auto* const parent = library_.find<Status(Device, Device*)>("nvmlDeviceGetDeviceHandleFromMigDeviceHandle");
    Device whole = nullptr;
    is_slice_ = uuid.starts_with("MIG-");
    if (is_slice_ && parent && parent(device_, &whole) == kDone) card_ = whole;
    clock_ = library_.find<Status(Device, int, unsigned*)>("nvmlDeviceGetClockInfo");
    temperature_ = library_.find<Status(Device, int, unsigned*)>("nvmlDeviceGetTemperature");
    reasons_ = library_.find<Status(Device, unsigned long long*)>("nvmlDeviceGetCurrentClocksEventReasons");
    if (!reasons_) {  // as drivers before 535 name it
      reasons_ = library_.find<Status(Device, unsigned long long*)>("nvmlDeviceGetCurrentClocksThrottleReasons");
    }
    power_ = library_.find<Status(Device, unsigned*)>("nvmlDeviceGetPowerUsage");
    energy_ = library_.find<Status(Device, unsigned long long*)>("nvmlDeviceGetTotalEnergyConsumption");
    ecc_ = library_.find<Status(Device, int, int, unsigned long long*)>("nvmlDeviceGetTotalEccErrors");
    mig_ = library_.find<Status(Device, unsigned*, unsigned*)>("nvmlDeviceGetMigMode");
    processes_ = library_.find<GetProcesses>("nvmlDeviceGetComputeRunningProcesses_v3");
    if (!processes_) processes_ = library_.find<GetProcesses>("nvmlDeviceGetComputeRunningProcesses_v2");
    return "";
  }

  CardReading read() override {
    CardReading r;
    unsigned value = 0;
    if (clock_ && clock_(card_, kSmClock, &value) == kDone) r.sm_mhz = static_cast<int>(value);
    if (clock_ && clock_(card_, kMemoryClock, &value) == kDone) r.memory_mhz = static_cast<int>(value);
    if (temperature_ && temperature_(card_, kGpuSensor, &value) == kDone) r.temperature_c = static_cast<int>(value);
    unsigned long long reasons = 0;
    if (reasons_ && reasons_(card_, &reasons) == kDone) r.reasons = reasons;
    if (!is_slice_ && power_ && power_(card_, &value) == kDone) r.power_w = value * 1e-3;
    return r;
  }

  CardState state() override {
    CardState s;
    unsigned long long value = 0;
    if (!is_slice_ && energy_ && energy_(card_, &value) == kDone) s.energy_j = static_cast<double>(value) * 1e-3;
    if (ecc_ && ecc_(card_, kUncorrected, kVolatile, &value) == kDone) s.ecc_uncorrected = static_cast<int64_t>(value);
    unsigned now = 0, next = 0;
    if (mig_ && mig_(card_, &now, &next) == kDone) s.mig_mode = now != 0;
    return s;
  }

  std::optional<std::vector<uint32_t>> processes() override {
    if (!processes_) return std::nullopt;
    std::vector<ProcessInfo> all(16);
    for (int attempt = 0; attempt < 3; ++attempt) {  // others may start meanwhile
      auto count = static_cast<unsigned>(all.size());
      const Status status = processes_(device_, &count, all.data());
      if (status == kTooShort) {
        all.resize(2 * (size_t{count} + 1));
        continue;
      }
      if (status != kDone) return std::nullopt;
      std::vector<uint32_t> pids;
      for (unsigned i = 0; i < count && i < all.size(); ++i) pids.push_back(all[i].pid);
      return pids;
    }
    return std::nullopt;
  }

 private:
  os::Library library_;
  bool started_ = false, is_slice_ = false;
  Device device_ = nullptr, card_ = nullptr;  // two where the first is a slice of the second
  // Null where the library has no such function.
  Status (*clock_)(Device, int, unsigned*) = nullptr;
  Status (*temperature_)(Device, int, unsigned*) = nullptr;
  Status (*reasons_)(Device, unsigned long long*) = nullptr;
  Status (*power_)(Device, unsigned*) = nullptr;
  Status (*energy_)(Device, unsigned long long*) = nullptr;
  Status (*ecc_)(Device, int, int, unsigned long long*) = nullptr;
  Status (*mig_)(Device, unsigned*, unsigned*) = nullptr;
  GetProcesses* processes_ = nullptr;
};

}  // namespace

OpenedTelemetry open_nvml_telemetry(const std::string& uuid, const std::string& library) {
  auto opened = os::Library::open(library);
  if (!opened) return {nullptr, fmt::format("NVML ({}), which comes with the driver, was not found", library)};
  auto telemetry = std::make_unique<NvmlTelemetry>(std::move(*opened));
  if (const std::string wrong = telemetry->start(uuid); !wrong.empty()) {
    return {nullptr, fmt::format("NVML ({}) cannot be used: {}", library, wrong)};
  }
  return {std::move(telemetry), ""};
}

}  // namespace quantbench::cuda
