// Which GPU to use, or in one sentence why there is none. A function of what the driver answers, so that tests can give
// any answer.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quantbench::cuda {

enum class ComputeMode : uint8_t { shared, exclusive, prohibited };

struct GpuAnswer {
  std::string name;          // "NVIDIA H100 80GB HBM3"
  std::string uuid;          // "GPU-…" or "MIG-…"
  int major = 0, minor = 0;  // compute capability
  ComputeMode mode = ComputeMode::shared;
  bool is_mig_slice = false;
  int multiprocessors = 0;
  size_t memory_bytes = 0;  // physical
};

struct DriverAnswer {
  int driver_version = 0;   // as cudaDriverGetVersion gives it, 13000 for 13.0; 0: no driver
  int runtime_version = 0;  // that this program was built with
  std::string driver;       // "580.65.06"; empty: not told
  std::string error;        // CUDA's words where counting the GPUs failed; empty where there were none to count
  std::optional<std::string> visible;  // CUDA_VISIBLE_DEVICES
  std::vector<std::string> mig_cards;  // names of cards that are cut into MIG slices
  std::vector<std::string> installed;  // names of the GPUs of this machine, whether CUDA lets us see them or not
  std::string code;                    // what this program's kernels were compiled for: "75-real,90-virtual"
  std::vector<GpuAnswer> gpus;         // those that can be seen
};

struct GpuWish {
  std::optional<int> number;       // nothing: the first that can be used
  bool several_processes = false;  // of ours, at the same time
};

// What came of making a context on a GPU.
struct Opened {
  std::string error;  // CUDA's words where it could not be made
  bool no_memory = false;
  size_t free_bytes = 0, total_bytes = 0;  // 0: not told
};

// Why a GPU cannot be used as far as is known without opening it, or an empty string.
std::string refusal(const GpuAnswer& gpu, const DriverAnswer& driver, bool several_processes);
// Why a GPU that was tried cannot be used, or an empty string.
std::string refusal(const GpuAnswer& gpu, const Opened& opened);

// The GPU to use, opened: the one wished for, or the first that can be used. Error device or out_of_memory: what is
// wrong with it, or with each, and what to do; usage for a number that is not there.
int open_gpu(const DriverAnswer& driver, const GpuWish& wish, const std::function<Opened(int gpu)>& open);

// Whether kernels compiled for `code` run on this compute capability, and whether the driver must compile them first.
// *compiled_for: the compute capability that they were compiled for, 75; 0 for none.
enum class Code : uint8_t { none, ready, to_compile };
Code code_for(std::string_view code, int major, int minor, int* compiled_for = nullptr);

// For people: a line a GPU, or the one that says why there is none.
std::vector<std::string> describe(const DriverAnswer& driver);

// The NVIDIA GPUs that the kernel's driver lists, by name; needs neither CUDA nor NVML.
std::vector<std::string> installed_gpus();

std::string version_text(int cuda_version);  // "13.0" of 13000

}  // namespace quantbench::cuda
