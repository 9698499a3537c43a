// Energy of the host's CPU packages and their memory, as Intel's and AMD's CPUs count it (RAPL), through the kernel's
// files in /sys/class/powercap.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace quantbench {

class Rapl {
 public:
  explicit Rapl(std::string folder = "/sys/class/powercap");

  // Since the first call. To be asked at least once in the time in which a counter of the CPU runs over (several
  // minutes). Nothing where there are no counters, or one cannot be read.
  std::optional<double> joules();
  const std::string& missing() const { return missing_; }  // why there was nothing

 private:
  struct Domain {
    std::string file;
    double range_uj = 0;  // where the counter begins anew
    std::optional<double> last_uj;
  };
  void add(const std::string& folder);

  std::vector<Domain> domains_;
  std::string missing_;
  double sum_uj_ = 0;
};

}  // namespace quantbench
