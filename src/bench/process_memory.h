// This process's memory and CPU time as the kernel counts them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace quantbench {

// Resident pages now (Rss of /proc/self/smaps_rollup, exact; else VmRSS of /proc/self/status, which may lag by some
// hundred kilobytes). 0 where the kernel tells neither.
int64_t resident_bytes();
// The most there was since the start or the last reset (VmHWM).
int64_t peak_resident_bytes();
// Makes the present size the peak. False where the kernel does not allow it.
bool reset_peak_resident();
// The value of "<key>: <number> kB" in a text like /proc/meminfo, in bytes.
std::optional<int64_t> find_kilobytes(std::string_view text, std::string_view key);

// CPU time used by all processes of this machine since it started, and by this one.
struct CpuTimes {
  double all_s = 0, own_s = 0;
};
std::optional<CpuTimes> cpu_times();
int logical_cpus_of_machine();  // that are switched on, whether this process may use them or not
// The first line of /proc/stat: everything but idle and iowait, in seconds. Guest time is in user time already.
std::optional<double> busy_seconds(std::string_view proc_stat, double ticks_per_second);

}  // namespace quantbench
