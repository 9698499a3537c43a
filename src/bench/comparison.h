// Whether two measurements of a cell differ (docs/method.md, The verdict): pure functions on samples.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "bench/statistics.h"
#include "bench/summary.h"

namespace quantbench {

// A difference within this share is none.
constexpr double kSameThreshold = 0.02;
// How often one of all differences that are claimed together may be none, at most.
constexpr double kSignificance = 0.05;

enum class Difference : uint8_t { faster, slower, same, ambiguous };
std::string_view name_of(Difference difference);

// Two series of one metric, each with a sample a run, all > 0.
struct SamplePair {
  std::span<const double> base, other;
  Better better = Better::lower;
};

struct Comparison {
  Ratio speed;            // how many times as good `other` is as `base`: above 1 where it is better
  double adjusted_p = 1;  // Holm's, over all pairs that were compared together
  Difference difference = Difference::ambiguous;  // of `other` from `base`
};

// same: the 95 % interval of the ratio lies within 1 ± threshold. faster, slower: the ratio lies beyond it, and the
// adjusted p-value is at most kSignificance. Else ambiguous, as is a pair that has no samples.
std::vector<Comparison> compare(std::span<const SamplePair> pairs, uint64_t seed, double threshold = kSameThreshold);
Difference difference_of(const Ratio& speed, double adjusted_p, double threshold);

// What two measurements of the same thing differ by, from the comparisons of an A/A run.
struct NoiseFloor {
  double largest = 0;    // |ratio − 1|
  double threshold = 0;  // the smallest at which all of them would be called the same: how far their intervals reach
};
NoiseFloor noise_floor(std::span<const Comparison> comparisons);

}  // namespace quantbench
