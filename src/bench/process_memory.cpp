#include "bench/process_memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string>

#include "core/os.h"

namespace quantbench {

std::optional<int64_t> find_kilobytes(std::string_view text, std::string_view key) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    if (!line.starts_with(key) || line.substr(key.size(), 1) != ":") continue;
    line.remove_prefix(std::min(line.find_first_of("0123456789"), line.size()));
    int64_t kilobytes = 0;
    if (std::from_chars(line.data(), line.data() + line.size(), kilobytes).ec != std::errc()) return std::nullopt;
    return kilobytes * 1024;
  }
  return std::nullopt;
}

int64_t resident_bytes() {
  if (const auto rollup = os::read_small_file("/proc/self/smaps_rollup")) {
    if (const auto bytes = find_kilobytes(*rollup, "Rss")) return *bytes;
  }
  return find_kilobytes(os::read_small_file("/proc/self/status").value_or(""), "VmRSS").value_or(0);
}

int64_t peak_resident_bytes() {
  const auto status = os::read_small_file("/proc/self/status");
  // The kernel updates its peak lazily: never report less than what is resident.
  return std::max(find_kilobytes(status.value_or(""), "VmHWM").value_or(0), resident_bytes());
}

bool reset_peak_resident() { return os::write_small_file("/proc/self/clear_refs", "5"); }

std::optional<double> busy_seconds(std::string_view proc_stat, double ticks_per_second) {
  if (!proc_stat.starts_with("cpu ")) return std::nullopt;
  std::array<int64_t, 8> ticks{};  // user nice system idle iowait irq softirq steal
  const char* at = proc_stat.data() + 4;
  const char* end = proc_stat.data() + std::min(proc_stat.find('\n'), proc_stat.size());
  for (int64_t& value : ticks) {
    while (at < end && *at == ' ') ++at;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc()) return std::nullopt;
    at = next;
  }
  constexpr size_t kIdle = 3, kIoWait = 4;
  int64_t busy = 0;
  for (size_t i = 0; i < ticks.size(); ++i) {
    if (i != kIdle && i != kIoWait) busy += ticks[i];
  }
  return static_cast<double>(busy) / ticks_per_second;
}

std::optional<CpuTimes> cpu_times() {
  const auto stat = os::read_small_file("/proc/stat");
  if (!stat) return std::nullopt;
  const auto busy = busy_seconds(*stat, static_cast<double>(::sysconf(_SC_CLK_TCK)));
  rusage own;
  if (!busy || ::getrusage(RUSAGE_SELF, &own) != 0) return std::nullopt;
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return CpuTimes{*busy, seconds(own.ru_utime) + seconds(own.ru_stime)};
}

int logical_cpus_of_machine() { return static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)); }

}  // namespace quantbench
