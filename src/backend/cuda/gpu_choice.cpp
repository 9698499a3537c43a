#include "backend/cuda/gpu_choice.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>

#include "core/error.h"
#include "core/os.h"

namespace quantbench::cuda {
namespace {

constexpr int kLeastMajor = 7, kLeastMinor = 5;
// Weights are taken in blocks of this size: less is as good as nothing.
constexpr size_t kLeastFreeBytes = size_t{64} << 20;

double mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

int capability(int major, int minor) { return 10 * major + minor; }

// "CUDA_VISIBLE_DEVICES is '1'", where it is set.
std::string visible_text(const DriverAnswer& driver) {
  return driver.visible ? fmt::format("CUDA_VISIBLE_DEVICES is '{}'", *driver.visible) : "";
}

// Why there is no GPU to choose from, or an empty string.
std::string nothing_to_choose(const DriverAnswer& driver) {
  if (driver.driver_version == 0) {
    if (driver.installed.empty()) {
      return "no NVIDIA driver was found (libcuda.so.1); install it, nvidia-smi then lists the GPU";
    }
    return fmt::format(
        "{} is there, but the library of its driver (libcuda.so.1) was not found; install it or, in a container, pass "
        "the GPU in (docker run --gpus all)",
        fmt::join(driver.installed, ", "));
  }
  if (driver.driver_version / 1000 < driver.runtime_version / 1000) {
    return fmt::format(
        "the NVIDIA driver{} is too old: it supports CUDA {}, this program was built with {}; update the driver, or "
        "build with an older CUDA toolkit",
        driver.driver.empty() ? "" : " " + driver.driver, version_text(driver.driver_version),
        version_text(driver.runtime_version));
  }
  if (!driver.gpus.empty()) return "";
  if (driver.error.empty() && driver.visible && !driver.installed.empty()) {
    return fmt::format("{} is there, but {} and hides it; unset that, or set it to a number or UUID of nvidia-smi -L",
                       fmt::join(driver.installed, ", "), visible_text(driver));
  }
  if (driver.error.empty() && !driver.mig_cards.empty()) {
    return fmt::format(
        "{} is in MIG mode and no slice of it can be seen; nvidia-smi -L lists slices, nvidia-smi mig -cgi makes them, "
        "nvidia-smi -mig 0 ends the mode",
        fmt::join(driver.mig_cards, ", "));
  }
  return fmt::format(
      "the NVIDIA driver is there but no GPU can be seen{}{}; check nvidia-smi{} and, in a container, "
      "that GPUs are passed in",
      driver.error.empty() ? "" : ": ", driver.error, driver.visible ? ", " + visible_text(driver) : "");
}

}  // namespace

std::string version_text(int cuda_version) {
  return fmt::format("{}.{}", cuda_version / 1000, cuda_version % 1000 / 10);
}

Code code_for(std::string_view code, int major, int minor, int* compiled_for) {
  const int card = capability(major, minor);
  Code best = Code::none;
  int ignored = 0, &of = compiled_for ? *compiled_for : ignored;
  of = 0;
  for (size_t at = 0; at < code.size();) {
    const size_t end = std::min(code.find(',', at), code.size());
    const std::string target(code.substr(at, end - at));
    at = end + 1;
    char* suffix = nullptr;
    const auto number = static_cast<int>(std::strtol(target.c_str(), &suffix, 10));
    const std::string_view rest(suffix);
    if (rest.starts_with('a')) {  // of this card alone
      if (number == card && !rest.ends_with("-virtual")) {
        of = number;
        return Code::ready;
      }
      continue;
    }
    if (!rest.ends_with("-virtual") && number / 10 == major && number <= card) {
      of = number;
      return Code::ready;
    }
    if (!rest.ends_with("-real") && number <= card) {
      best = Code::to_compile;
      of = std::max(of, number);
    }
  }
  return best;
}

std::string refusal(const GpuAnswer& gpu, const DriverAnswer& driver, bool several_processes) {
  if (capability(gpu.major, gpu.minor) < capability(kLeastMajor, kLeastMinor)) {
    return fmt::format("{} has compute capability {}.{}, {}.{} or newer is needed (Turing, 2018)", gpu.name, gpu.major,
                       gpu.minor, kLeastMajor, kLeastMinor);
  }
  const Code code = code_for(driver.code, gpu.major, gpu.minor);
  if (code == Code::none) {
    return fmt::format(
        "{} has compute capability {}.{}, for which this program was not built (it was for {}); build it on this "
        "machine "
        "(./quickstart.sh), or with QB_CUDA_ARCHITECTURES=default",
        gpu.name, gpu.major, gpu.minor, driver.code);
  }
  if (code == Code::to_compile && driver.driver_version < driver.runtime_version) {
    return fmt::format(
        "{} is newer than what this program was built for ({}), and its driver, of CUDA {}, cannot compile for it what "
        "CUDA {} made; update the driver, or build on this machine (./quickstart.sh)",
        gpu.name, driver.code, version_text(driver.driver_version), version_text(driver.runtime_version));
  }
  if (gpu.mode == ComputeMode::prohibited) {
    return fmt::format(
        "{} is in compute mode 'prohibited': its administrator lets no program use it (nvidia-smi -q -d COMPUTE shows "
        "it); ask for another mode, or name another GPU",
        gpu.name);
  }
  if (gpu.mode == ComputeMode::exclusive && several_processes) {
    return fmt::format(
        "{} is in compute mode 'exclusive process', which lets one process use it, and a run takes several (one a "
        "precision, and one that reads the memory); ask its administrator for the default mode (nvidia-smi -c 0), or "
        "name another GPU",
        gpu.name);
  }
  return "";
}

std::string refusal(const GpuAnswer& gpu, const Opened& opened) {
  if (!opened.no_memory && opened.error.empty() && (opened.total_bytes == 0 || opened.free_bytes >= kLeastFreeBytes)) {
    return "";
  }
  if (opened.no_memory || opened.error.empty()) {
    const std::string figures = opened.total_bytes == 0 ? ""
                                                        : fmt::format(": {:.1f} of {:.1f} MiB are free",
                                                                      mib(opened.free_bytes), mib(opened.total_bytes));
    return fmt::format("{} has no free memory{}; end other programs on it (nvidia-smi lists them), or name another GPU",
                       gpu.name, figures);
  }
  if (gpu.mode == ComputeMode::exclusive) {
    return fmt::format(
        "{} is in compute mode 'exclusive process' and another process has it (nvidia-smi lists them); end that "
        "process, or name another GPU",
        gpu.name);
  }
  return fmt::format("{} could not be opened: {}; see nvidia-smi", gpu.name, opened.error);
}

int open_gpu(const DriverAnswer& driver, const GpuWish& wish, const std::function<Opened(int gpu)>& open) {
  const std::string nothing = nothing_to_choose(driver);
  if (!nothing.empty()) fail(ErrorKind::device, "{}", nothing);
  const int count = static_cast<int>(driver.gpus.size());
  if (wish.number && (*wish.number < 0 || *wish.number >= count)) {
    fail(ErrorKind::usage, "there is no cuda:{}: {} GPU{} can be seen, cuda:0{}{}", *wish.number, count,
         count == 1 ? "" : "s", count == 1 ? "" : fmt::format(" to cuda:{}", count - 1),
         driver.visible ? "; " + visible_text(driver) + " and may hide others" : "");
  }
  std::vector<std::string> reasons;
  bool full = false;  // of what was tried, the last
  for (int i = wish.number.value_or(0); i < (wish.number ? *wish.number + 1 : count); ++i) {
    const GpuAnswer& gpu = driver.gpus[static_cast<size_t>(i)];
    std::string why = refusal(gpu, driver, wish.several_processes);
    full = false;
    if (why.empty()) {
      const Opened opened = open(i);
      why = refusal(gpu, opened);
      if (why.empty()) return i;
      full = opened.no_memory || opened.error.empty();
    }
    reasons.push_back(fmt::format("cuda:{}: {}", i, why));
  }
  fail(full && reasons.size() == 1 ? ErrorKind::out_of_memory : ErrorKind::device, "{}", fmt::join(reasons, "; "));
}

std::vector<std::string> describe(const DriverAnswer& driver) {
  std::string nothing = nothing_to_choose(driver);
  if (!nothing.empty()) return {std::move(nothing)};
  std::vector<std::string> lines;
  for (size_t i = 0; i < driver.gpus.size(); ++i) {
    const GpuAnswer& gpu = driver.gpus[i];
    std::string line = fmt::format(
        "cuda:{}: {}, {}, compute capability {}.{}, {} multiprocessors, {:.1f} GiB, driver {} "
        "(CUDA {})",
        i, gpu.name, gpu.uuid, gpu.major, gpu.minor, gpu.multiprocessors,
        static_cast<double>(gpu.memory_bytes) / (1 << 30), driver.driver.empty() ? "unknown" : driver.driver,
        version_text(driver.driver_version));
    if (gpu.is_mig_slice) line += "; a MIG slice: its memory and speed are a part of the card's";
    if (gpu.mode == ComputeMode::exclusive) line += "; compute mode 'exclusive process': one process at a time";
    const std::string why = refusal(gpu, driver, false);
    if (!why.empty()) line += "; cannot be used: " + why;
    lines.push_back(std::move(line));
  }
  return lines;
}

std::vector<std::string> installed_gpus() {
  constexpr const char* kFolder = "/proc/driver/nvidia/gpus";
  constexpr std::string_view kModel = "Model:";
  std::vector<std::string> names;
  if (!os::is_directory(kFolder)) {
    if (os::exists("/dev/nvidia0")) names.emplace_back("an NVIDIA GPU");
    return names;
  }
  for (const std::string& slot : os::list_directory(kFolder)) {
    const std::string text = os::read_small_file(fmt::format("{}/{}/information", kFolder, slot)).value_or("");
    std::string name = "an NVIDIA GPU";
    if (text.starts_with(kModel)) {
      const size_t end = std::min(text.find('\n'), text.size());
      const size_t first = text.find_first_not_of(" \t", kModel.size());
      if (first < end) name = text.substr(first, end - first);
    }
    names.push_back(std::move(name));
  }
  return names;
}

}  // namespace quantbench::cuda
