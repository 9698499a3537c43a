#include "backend/cuda/gpu_choice.h"

#include "core/error.h"

namespace quantbench::cuda {
namespace {

constexpr int kLeastMajor = 7, kLeastMinor = 5;

std::string version(int number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); }

}  // namespace

std::string refusal(const GpuAnswer& gpu) {
  if (gpu.major < kLeastMajor || (gpu.major == kLeastMajor && gpu.minor < kLeastMinor)) {
    return fmt::format("{} has compute capability {}.{}, {}.{} or newer is needed (Turing, 2018); use --device cpu",
                       gpu.name, gpu.major, gpu.minor, kLeastMajor, kLeastMinor);
  }
  if (gpu.mode == ComputeMode::prohibited) {
    return fmt::format(
        "{} is in compute mode 'prohibited': its administrator lets no program use it (nvidia-smi -q -d COMPUTE shows "
        "it); ask for another mode, name another GPU, or use --device cpu",
        gpu.name);
  }
  if (!gpu.opens && gpu.mode == ComputeMode::exclusive) {
    return fmt::format(
        "{} is in compute mode 'exclusive process' and another process has it (nvidia-smi lists them); end that "
        "process, "
        "name another GPU, or use --device cpu",
        gpu.name);
  }
  if (!gpu.opens) {
    return fmt::format("{} could not be opened: {}; see nvidia-smi, or use --device cpu", gpu.name, gpu.open_error);
  }
  return "";
}

int choose_gpu(const DriverAnswer& driver, std::optional<int> wanted) {
  if (driver.driver_version == 0) {
    fail(ErrorKind::device,
         "no NVIDIA driver was found (libcuda.so.1); install it (nvidia-smi then lists the GPU), or use --device cpu");
  }
  if (driver.driver_version / 1000 < driver.runtime_version / 1000) {
    fail(ErrorKind::device,
         "the NVIDIA driver is too old: it supports CUDA {}, this program was built with {}; update the driver, build "
         "with "
         "an older CUDA toolkit, or use --device cpu",
         version(driver.driver_version), version(driver.runtime_version));
  }
  if (driver.gpus.empty()) {
    fail(ErrorKind::device,
         "the NVIDIA driver is there but no GPU can be seen{}{}; check nvidia-smi, CUDA_VISIBLE_DEVICES and, in a "
         "container, "
         "that GPUs are passed in, or use --device cpu",
         driver.error.empty() ? "" : ": ", driver.error);
  }
  const int count = static_cast<int>(driver.gpus.size());
  if (wanted) {
    if (*wanted < 0 || *wanted >= count) {
      fail(ErrorKind::usage,
           "there is no cuda:{}: {} GPU{} can be seen, cuda:0{}; CUDA_VISIBLE_DEVICES may hide others", *wanted, count,
           count == 1 ? "" : "s", count == 1 ? "" : fmt::format(" to cuda:{}", count - 1));
    }
    const std::string why = refusal(driver.gpus[static_cast<size_t>(*wanted)]);
    if (!why.empty()) fail(ErrorKind::device, "cuda:{}: {}", *wanted, why);
    return *wanted;
  }
  std::string all;
  for (int i = 0; i < count; ++i) {
    const std::string why = refusal(driver.gpus[static_cast<size_t>(i)]);
    if (why.empty()) return i;
    all += fmt::format("{}cuda:{}: {}", all.empty() ? "" : "\n", i, why);
  }
  fail(ErrorKind::device, "{}", all);
}

}  // namespace quantbench::cuda
