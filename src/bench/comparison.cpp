#include "bench/comparison.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <thread>

#include "core/parallel.h"

namespace quantbench {

std::string_view name_of(Difference difference) {
  switch (difference) {
    case Difference::faster: return "faster";
    case Difference::slower: return "slower";
    case Difference::same: return "same";
    case Difference::ambiguous: return "ambiguous";
  }
  return "?";
}

Difference difference_of(const Ratio& speed, double adjusted_p, double threshold) {
  if (1 - threshold <= speed.low && speed.high <= 1 + threshold) return Difference::same;
  if (adjusted_p > kSignificance) return Difference::ambiguous;
  if (speed.value > 1 + threshold) return Difference::faster;
  if (speed.value < 1 - threshold) return Difference::slower;
  return Difference::ambiguous;
}

namespace {
constexpr size_t kPairsForThreads = 50;  // below, there is nothing to be gained
constexpr unsigned kMostThreads = 8;

uint64_t bits_of(std::span<const double> samples) {
  uint64_t bits = samples.size();
  for (const double x : samples) bits = derived_seed(bits, std::bit_cast<uint64_t>(x));
  return bits;
}
}  // namespace

std::vector<Comparison> compare(std::span<const SamplePair> pairs, uint64_t seed, double threshold) {
  std::vector<Comparison> comparisons(pairs.size());
  std::vector<double> p_values;
  std::vector<size_t> compared;
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (pairs[i].base.empty() || pairs[i].other.empty()) continue;
    compared.push_back(i);
  }
  const unsigned cpus = std::clamp(std::thread::hardware_concurrency(), 1U, kMostThreads);
  ThreadPool pool(compared.size() < kPairsForThreads ? 1 : static_cast<int>(cpus));
  pool.for_chunks(compared.size(), 1, [&](size_t begin, size_t end, int) {
    for (size_t c = begin; c < end; ++c) {
      const size_t i = compared[c];
      const auto& [base, other, better] = pairs[i];
      // A seed a pair, which does not depend on what else is compared: two pairs must not be lucky together, and a pair
      // must have the same interval in every report.
      const uint64_t own = derived_seed(seed, bits_of(base) ^ 3 * bits_of(other));
      comparisons[i].speed = better == Better::higher ? bootstrap_median_ratio(other, base, own)
                                                      : bootstrap_median_ratio(base, other, own);
    }
  });
  for (const size_t i : compared) p_values.push_back(comparisons[i].speed.p);
  const std::vector<double> adjusted = holm_adjusted(p_values);
  for (size_t i = 0; i < compared.size(); ++i) {
    Comparison& c = comparisons[compared[i]];
    c.adjusted_p = adjusted[i];
    c.difference = difference_of(c.speed, c.adjusted_p, threshold);
  }
  return comparisons;
}

NoiseFloor noise_floor(std::span<const Comparison> comparisons) {
  NoiseFloor floor;
  for (const Comparison& c : comparisons) {
    floor.largest = std::max(floor.largest, std::abs(c.speed.value - 1));
    floor.threshold = std::max({floor.threshold, 1 - c.speed.low, c.speed.high - 1});
  }
  return floor;
}

}  // namespace quantbench
