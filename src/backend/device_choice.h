// Which backend a name stands for, and what "auto" takes. A function of what this build and machine have, so that tests
// can give any.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace quantbench {

struct BackendEntry {
  std::string name;
  std::function<std::unique_ptr<Backend>(const BackendOptions&)> make;
};

struct DeviceSources {
  std::vector<BackendEntry> backends;  // "auto" takes cuda where it can be used, else the first of the others
  std::function<bool()> gpu_is_there;  // whether there is an NVIDIA GPU, usable or not
  std::string without_cuda;            // of a build without its CUDA backend: why, and what to do
};

ChosenDevice choose_device(std::string_view name, const BackendOptions& options, const DeviceSources& sources);
// Error usage for what no device is called, device for one that this build lacks.
void check_device_name(std::string_view name, const DeviceSources& sources);

// Says that a build has no CUDA backend, from what CMake found missing and what it says is to be done.
std::string built_without_cuda(std::string_view missing, std::string_view remedy);

}  // namespace quantbench
