// The part of NVIDIA's nvml.h that is used here: its types have not changed since driver 470.
#pragma once

namespace quantbench::cuda::nvml {

using Device = struct nvmlDevice_st*;
using Status = int;  // 0: done
struct MemoryInfo {
  unsigned long long total, free, used;
};
struct ProcessInfo {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
};
using GetProcesses = Status(Device, unsigned* count, ProcessInfo*);
constexpr Status kDone = 0, kTooShort = 7;
constexpr unsigned long long kNotTold = ~0ULL;

}  // namespace quantbench::cuda::nvml
