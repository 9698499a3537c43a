#include "bench/rapl.h"

#include <fmt/format.h>

#include <charconv>

#include "core/os.h"

namespace quantbench {
namespace {

std::optional<double> number_in(const std::string& file) {
  const auto text = os::read_small_file(file);
  uint64_t value = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), value).ec != std::errc()) return std::nullopt;
  return static_cast<double>(value);
}

}  // namespace

// Packages are intel-rapl:0, :1, … on CPUs of both makers, their parts intel-rapl:0:0 and so on. Cores and graphics are
// inside the package's count, memory (dram) is not; psys holds packages again, and devices beside them.
Rapl::Rapl(std::string folder) {
  constexpr int kMost = 64, kParts = 8;
  for (int i = 0; i < kMost; ++i) {
    const std::string package = fmt::format("{}/intel-rapl:{}", folder, i);
    const auto name = os::read_small_file(package + "/name");
    if (!name) break;
    if (!name->starts_with("package")) continue;
    add(package);
    for (int part = 0; part < kParts; ++part) {
      const std::string inside = fmt::format("{}/intel-rapl:{}:{}", package, i, part);
      if (os::read_small_file(inside + "/name") == "dram") add(inside);
    }
  }
  if (domains_.empty()) missing_ = fmt::format("there are no counters of the CPU's energy in {}", folder);
}

void Rapl::add(const std::string& folder) {
  domains_.push_back({folder + "/energy_uj", number_in(folder + "/max_energy_range_uj").value_or(0), {}});
}

std::optional<double> Rapl::joules() {
  if (domains_.empty()) return std::nullopt;
  for (Domain& d : domains_) {
    const auto now_uj = number_in(d.file);
    if (!now_uj) {
      missing_ = fmt::format("{} cannot be read: most systems allow it to root alone", d.file);
      return std::nullopt;
    }
    if (d.last_uj) sum_uj_ += *now_uj - *d.last_uj + (*now_uj < *d.last_uj ? d.range_uj : 0);
    d.last_uj = now_uj;
  }
  return sum_uj_ * 1e-6;
}

}  // namespace quantbench
