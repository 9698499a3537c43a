#include "backend/cpu/read_bandwidth.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <vector>

#include "backend/cpu/kernels.h"

namespace quantbench::cpu {
namespace {

constexpr size_t kPieceBytes = size_t{2} << 20;  // one huge page
constexpr int kTrials = 3;                       // of each loop, when the best is chosen; the median counts

struct Loop {
  const char* name;
  uint64_t (*read)(const void*, size_t);
};

std::vector<Loop> loops(Isa isa) {
  std::vector<Loop> list;
  if (isa == Isa::avx512) {
    const Kernels& k = avx512::kernels();
    list.insert(list.end(), {{"512-bit loads", k.read_plain},
                             {"512-bit loads, prefetch", k.read_prefetch},
                             {"512-bit loads, 4 streams", k.read_streams}});
  }
  const Kernels& k = avx2::kernels();
  list.insert(list.end(), {{"256-bit loads", k.read_plain},
                           {"256-bit loads, prefetch", k.read_prefetch},
                           {"256-bit loads, 4 streams", k.read_streams}});
  return list;
}

}  // namespace

HostReadProbe::HostReadProbe(ThreadPool& pool, Isa isa, size_t bytes)
    : pool_(pool), block_((bytes + kPieceBytes - 1) / kPieceBytes * kPieceBytes), isa_(isa) {
  // Touched, or every page would be the one page of zeros; not zero, since constant zeros may be read faster.
  pool_.for_chunks(block_.bytes(), kPieceBytes, [&](size_t begin, size_t end, int) {
    std::memset(block_.data() + begin, static_cast<int>(begin / kPieceBytes % 251 + 1), end - begin);
  });
  const std::vector<Loop> candidates = loops(isa_);
  double best = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    std::array<double, kTrials> rates;
    for (double& rate : rates) rate = pass(candidates[i].read);
    std::nth_element(rates.begin(), rates.begin() + kTrials / 2, rates.end());
    if (rates[kTrials / 2] > best) best = rates[kTrials / 2], chosen_ = i;
  }
}

double HostReadProbe::pass(uint64_t (*read)(const void*, size_t)) {
  std::atomic<uint64_t> seen{0};
  const int64_t start_ns = os::steady_now_ns();
  pool_.for_chunks(block_.bytes(), kPieceBytes, [&](size_t begin, size_t end, int) {
    seen.fetch_or(read(block_.data() + begin, end - begin), std::memory_order_relaxed);
  });
  const int64_t ns = os::steady_now_ns() - start_ns;
  sink_ |= seen.load();
  return static_cast<double>(block_.bytes()) * 1e9 / static_cast<double>(std::max<int64_t>(ns, 1));
}

double HostReadProbe::measure() { return pass(loops(isa_)[chosen_].read); }

std::string HostReadProbe::kernel() const { return loops(isa_)[chosen_].name; }

}  // namespace quantbench::cpu
