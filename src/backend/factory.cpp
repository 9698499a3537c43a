// The one place that names concrete backends.
#include <fmt/format.h>

#include "backend/cpu/cpu.h"
#include "backend/cuda/cuda.h"
#include "backend/cuda/gpu_choice.h"
#include "backend/cuda/nvml_telemetry.h"
#include "backend/cuda_absence.h"
#include "backend/device_choice.h"
#include "backend/reference/reference.h"
#include "backend/telemetry.h"

namespace quantbench {
namespace {

DeviceSources sources() {
  DeviceSources all;
#if defined(QB_CUDA_BACKEND)
  all.backends.push_back({"cuda", cuda::make_backend});
#endif
#if defined(__x86_64__)
  all.backends.push_back({"cpu", make_cpu_backend});
#endif
  all.backends.push_back({"reference", make_reference_backend});
  all.without_cuda = built_without_cuda(QB_CUDA_MISSING, QB_CUDA_REMEDY);
  all.gpu_is_there = [] { return !cuda::installed_gpus().empty(); };
  return all;
}

}  // namespace

ChosenDevice choose_device(std::string_view name, const BackendOptions& options) {
  return choose_device(name, options, sources());
}

std::unique_ptr<Backend> make_backend(std::string_view name, const BackendOptions& options) {
  return choose_device(name, options).backend;
}

void check_device_name(std::string_view name) { check_device_name(name, sources()); }

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const BackendEntry& entry : sources().backends) names.push_back(entry.name);
  return names;
}

std::vector<std::string> describe_gpus() {
#if defined(QB_CUDA_BACKEND)
  return cuda::describe(cuda::ask_driver());
#else
  std::vector<std::string> lines;
  for (const std::string& name : cuda::installed_gpus())
    lines.push_back(fmt::format("{}: not used: {}", name, sources().without_cuda));
  if (lines.empty()) lines.push_back("no NVIDIA driver was found, and " + sources().without_cuda);
  return lines;
#endif
}

OpenedTelemetry open_telemetry(const DeviceInfo& device) {
  if (device.gpu) return cuda::open_nvml_telemetry(device.gpu->uuid);
#if defined(QB_CUDA_BACKEND)
  return {nullptr, "the device is no GPU"};
#else
  return {nullptr, "the device is no GPU, and this program has no CUDA backend"};
#endif
}

}  // namespace quantbench
