#include "backend/device_choice.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"

namespace quantbench {
namespace {

constexpr std::string_view kCuda = "cuda", kCudaNumber = "cuda:";

const BackendEntry* find(const DeviceSources& sources, std::string_view name) {
  const auto found = std::find_if(sources.backends.begin(), sources.backends.end(),
                                  [&](const BackendEntry& entry) { return entry.name == name; });
  return found == sources.backends.end() ? nullptr : &*found;
}

// The number of "cuda:N"; nothing for "cuda".
std::optional<int> gpu_number(std::string_view name) {
  if (name == kCuda) return std::nullopt;
  const std::string_view digits = name.substr(kCudaNumber.size());
  constexpr size_t kMostDigits = 4;  // so that they fit an int
  const bool whole = !digits.empty() && digits.size() <= kMostDigits &&
                     digits.find_first_not_of("0123456789") == std::string_view::npos;
  if (!whole)
    fail(ErrorKind::usage, "--device: '{}' names no GPU; expected cuda, or cuda: and a number from 0 on", name);
  int number = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return number;
}

// What the CPU is a way round.
bool may_use_cpu(const Error& error) {
  return error.kind() == ErrorKind::device || error.kind() == ErrorKind::out_of_memory;
}

bool is_cuda(std::string_view name) { return name == kCuda || name.starts_with(kCudaNumber); }

}  // namespace

std::string built_without_cuda(std::string_view missing, std::string_view remedy) {
  return fmt::format("this program was built without its CUDA backend; CMake found: {}; {}", missing, remedy);
}

void check_device_name(std::string_view name, const DeviceSources& sources) {
  if (name == "auto") return;
  if (is_cuda(name)) {
    gpu_number(name);
    if (!find(sources, kCuda))
      fail(ErrorKind::device, "--device {}: {}; or use --device cpu", name, sources.without_cuda);
    return;
  }
  if (find(sources, name)) return;
  // A build without the CUDA backend knows its name too, as the help does, and says what to do.
  std::vector<std::string> names{"auto", "cuda[:N]"};
  for (const BackendEntry& entry : sources.backends) {
    if (entry.name != kCuda) names.push_back(entry.name);
  }
  fail(ErrorKind::usage, "--device: there is no backend '{}'; expected {}", name, fmt::join(names, ", "));
}

ChosenDevice choose_device(std::string_view name, const BackendOptions& options, const DeviceSources& sources) {
  check_device_name(name, sources);
  BackendOptions wanted = options;
  if (is_cuda(name)) {
    wanted.gpu = gpu_number(name);
    try {
      return {find(sources, kCuda)->make(wanted), ""};
    } catch (const Error& error) {
      if (!may_use_cpu(error)) throw;
      fail(error.kind(), "--device {}: {}; or use --device cpu", name, error.what());
    }
  }
  if (name != "auto") return {find(sources, name)->make(wanted), ""};

  std::string why = sources.without_cuda;
  if (const BackendEntry* cuda = find(sources, kCuda)) {
    try {
      return {cuda->make(wanted), ""};
    } catch (const Error& error) {
      if (!may_use_cpu(error)) throw;
      why = error.what();
    }
  }
  const auto other = std::find_if(sources.backends.begin(), sources.backends.end(),
                                  [](const BackendEntry& entry) { return entry.name != kCuda; });
  return {other->make(wanted), sources.gpu_is_there() ? why : ""};
}

}  // namespace quantbench
