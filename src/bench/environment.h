// The machine and the program, as a record describes them. Collected without loading a model.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace quantbench {

struct BuildInfo {
  std::string version, git_commit, compiler, build_type, flags;
  bool optimized = true;  // false: assertions, sanitizers or no optimisation; timings mean little
};
BuildInfo build_info();

struct Environment {
  std::string cpu_name;
  int logical_cpus = 0, physical_cores = 0;  // that this process may use
  std::vector<std::string> cpu_features;     // those that matter to the kernels, as the kernel spells them
  int64_t last_level_cache_bytes = 0;        // of all such caches that these CPUs share; 0 if unknown
  std::string kernel, operating_system;
  std::optional<int64_t> memory_bytes, available_bytes;  // the tighter of the machine's and the cgroup's
  std::optional<std::string> huge_pages;                 // transparent huge pages: "always", "madvise", "never"
  std::optional<std::string> governor;                   // of CPU 0
  std::optional<std::array<double, 3>> load_average;
  bool virtual_machine = false;  // the CPU says that a hypervisor runs it
};
Environment read_environment();

// Parsing, for tests.
std::vector<std::string> known_features(const std::string& cpuinfo);
std::optional<std::string> cpuinfo_value(const std::string& cpuinfo, const std::string& key);
int64_t parse_cache_size(const std::string& text);  // "32768K", "1M"; 0 if unreadable

}  // namespace quantbench
