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
};

ChosenDevice choose_device(std::string_view name, const BackendOptions& options, const DeviceSources& sources);
// Error usage for what no device is called, device for one that this build lacks.
void check_device_name(std::string_view name, const DeviceSources& sources);

// What to do where there is a GPU and no CUDA backend.
extern const char* const kBuiltWithoutCuda;

}  // namespace quantbench
