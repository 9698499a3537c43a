#include "bench/environment.h"

#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <set>
#include <sstream>

#include "backend/host_memory.h"
#include "bench/quantbench_build.h"
#include "core/os.h"
#include "core/parallel.h"

namespace quantbench {
namespace {

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

std::vector<int> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  return cpus;
}

int64_t last_level_cache(const std::vector<int>& cpus) {
  std::set<std::string> counted;  // by the CPUs that share it
  int64_t total = 0;
  for (int cpu : cpus) {
    int best_level = 0;
    std::string best_shared;
    int64_t best_bytes = 0;
    for (int index = 0; index < 8; ++index) {
      const std::string folder = fmt::format("/sys/devices/system/cpu/cpu{}/cache/index{}", cpu, index);
      const auto level = os::read_small_file(folder + "/level"), size = os::read_small_file(folder + "/size");
      if (!level || !size) break;
      if (std::atoi(level->c_str()) <= best_level) continue;
      best_level = std::atoi(level->c_str());
      best_shared = os::read_small_file(folder + "/shared_cpu_list").value_or(std::to_string(cpu));
      best_bytes = parse_cache_size(*size);
    }
    if (best_level > 0 && counted.insert(best_shared).second) total += best_bytes;
  }
  return total;
}

// "always [madvise] never" → "madvise"
std::optional<std::string> chosen(const std::optional<std::string>& options) {
  if (!options) return std::nullopt;
  const size_t open = options->find('['), close = options->find(']');
  if (open == std::string::npos || close == std::string::npos || close < open) return options;
  return options->substr(open + 1, close - open - 1);
}

std::string operating_system() {
  std::istringstream lines(os::read_small_file("/etc/os-release").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    constexpr std::string_view kKey = "PRETTY_NAME=";
    if (!line.starts_with(kKey)) continue;
    std::string name = line.substr(kKey.size());
    std::erase(name, '"');
    return name;
  }
  return "unknown";
}

}  // namespace

BuildInfo build_info() {
  BuildInfo info{QB_VERSION, QB_GIT_COMMIT, QB_COMPILER, QB_BUILD_TYPE, QB_SANITIZERS, true};
#ifndef NDEBUG
  info.optimized = false;
#endif
#ifndef __OPTIMIZE__
  info.optimized = false;
#endif
  if (!info.flags.empty()) info.optimized = false;
  return info;
}

int64_t parse_cache_size(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return 0;
  const std::string unit(end, text.data() + text.size());
  return value * (unit == "K" ? 1024 : unit == "M" ? 1024 * 1024 : unit == "G" ? 1024 * 1024 * 1024 : 1);
}

std::optional<std::string> cpuinfo_value(const std::string& cpuinfo, const std::string& key) {
  std::istringstream lines(cpuinfo);
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(':');
    if (colon != std::string::npos && trimmed(line.substr(0, colon)) == key) return trimmed(line.substr(colon + 1));
  }
  return std::nullopt;
}

std::vector<std::string> known_features(const std::string& cpuinfo) {
  std::istringstream words(cpuinfo_value(cpuinfo, "flags").value_or(""));
  std::set<std::string> present;
  for (std::string word; words >> word;) present.insert(word);
  std::vector<std::string> found;
  for (const char* feature : {"avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl",
                              "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"}) {
    if (present.contains(feature)) found.emplace_back(feature);
  }
  return found;
}

Environment read_environment() {
  Environment e;
  const std::string cpuinfo = os::read_small_file("/proc/cpuinfo").value_or("");
  e.cpu_name = cpuinfo_value(cpuinfo, "model name").value_or("unknown");
  e.cpu_features = known_features(cpuinfo);
  const std::string flags = fmt::format(" {} ", cpuinfo_value(cpuinfo, "flags").value_or(""));
  e.virtual_machine = flags.find(" hypervisor ") != std::string::npos;
  const std::vector<int> cpus = usable_cpus();
  e.logical_cpus = std::max(1, static_cast<int>(cpus.size()));
  e.physical_cores = physical_cores();
  e.last_level_cache_bytes = last_level_cache(cpus);
  utsname name;
  if (::uname(&name) == 0) e.kernel = fmt::format("{} {} {}", name.sysname, name.release, name.machine);
  e.operating_system = operating_system();
  const DeviceInfo host = host_device("", "", 1);
  if (host.memory_bytes > 0) e.memory_bytes = static_cast<int64_t>(host.memory_bytes);
  if (host.available_bytes > 0) e.available_bytes = static_cast<int64_t>(host.available_bytes);
  e.huge_pages = chosen(os::read_small_file("/sys/kernel/mm/transparent_hugepage/enabled"));
  e.governor = os::read_small_file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  std::array<double, 3> load{};
  const std::string averages = os::read_small_file("/proc/loadavg").value_or("");
  if (std::sscanf(averages.c_str(), "%lf %lf %lf", &load[0], &load[1], &load[2]) == 3) e.load_average = load;
  return e;
}

}  // namespace quantbench
