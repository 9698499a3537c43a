// Which GPU to use, or in one sentence why there is none. A function of what the driver answers, so that tests can give
// any answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace quantbench::cuda {

enum class ComputeMode : uint8_t { shared, exclusive, prohibited };

struct GpuAnswer {
  std::string name;          // "NVIDIA H100 80GB HBM3"
  std::string uuid;          // "GPU-…" or "MIG-…"
  int major = 0, minor = 0;  // compute capability
  ComputeMode mode = ComputeMode::shared;
  bool is_mig_slice = false;
  bool opens = true;       // whether a context could be made; false in exclusive mode while another process has one
  std::string open_error;  // CUDA's words where it could not
};

struct DriverAnswer {
  int driver_version = 0;   // as cudaDriverGetVersion gives it, 13000 for 13.0; 0: no driver
  int runtime_version = 0;  // that this program was built with
  std::string error;        // CUDA's words where counting the GPUs failed otherwise
  std::vector<GpuAnswer> gpus;
};

// The GPU to use: `wanted`, or the first that can be used. Error device: what is wrong with it, or with each, and what
// to do.
int choose_gpu(const DriverAnswer& driver, std::optional<int> wanted);

// Why a GPU cannot be used, or an empty string.
std::string refusal(const GpuAnswer& gpu);

}  // namespace quantbench::cuda
