// Statistics of repeated measurements: pure functions on samples. Nothing here knows what was measured.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace quantbench {

// 50 % point; the mean of the two middle values for an even count. samples: at least one.
double median(std::span<const double> samples);

// Linear interpolation between order statistics (Hyndman and Fan 1996, type 7: the default of R and NumPy).
// q in [0, 1]; samples: at least one.
double quantile(std::span<const double> samples, double q);

// median |x − median(x)|, not scaled to a normal distribution's sigma.
double median_absolute_deviation(std::span<const double> samples);

struct Interval {
  double low = 0, high = 0;
  double coverage = 0;              // the exact probability that the interval holds the true value
  int low_rank = 0, high_rank = 0;  // 1-based order statistics, 0 where it is not made of ranks
};

// The narrowest symmetric order-statistic interval of the median with at least `confidence` (David and Nagaraja,
// Order Statistics, 7.1): it assumes nothing of the distribution. 10 samples at 95 %: 2nd to 9th value, 97.9 %.
// Nothing with fewer samples than allow it (6 at 95 %).
std::optional<Interval> median_interval(std::span<const double> samples, double confidence = 0.95);

// Samples needed before the largest of them exceeds the q-quantile with 95 % probability: p90 29, p95 59, p99 299.
int samples_for_quantile(double q);
// The q-quantile if there are enough samples for it, else nothing (printed as n/a).
std::optional<double> tail_quantile(std::span<const double> samples, double q);

// Tukey's fences: beyond 1.5 interquartile ranges from the quartiles is mild, beyond 3 severe. Outliers are named,
// never removed.
enum class Outlier : uint8_t { none, mild, severe };
std::vector<Outlier> classify_outliers(std::span<const double> samples);

// A counter-based generator: value i of a seed is the same on every machine and compiler, unlike std::shuffle's.
class SeededNumbers {
 public:
  explicit SeededNumbers(uint64_t seed) : state_(seed) {}
  uint64_t next();                 // SplitMix64 (Steele, Lea and Flood 2014)
  uint64_t below(uint64_t bound);  // uniform in [0, bound), without modulo bias

 private:
  uint64_t state_;
};

// A seed of its own for the `index`-th use of a seed.
uint64_t derived_seed(uint64_t seed, uint64_t index);

// A uniformly random order of 0 … count − 1.
std::vector<int> shuffled(int count, uint64_t seed);

constexpr int kBootstrapResamples = 10000;

// Percentile bootstrap of the mean. samples: at least one.
Interval bootstrap_mean(std::span<const double> samples, uint64_t seed, double confidence = 0.95,
                        int resamples = kBootstrapResamples);
// BCa bootstrap of the mean: bias-corrected and accelerated (Efron 1987, Better Bootstrap Confidence Intervals; Efron
// and Tibshirani, An Introduction to the Bootstrap, 14.3), for means whose samples are skewed. samples: at least two.
// Of samples that are all the same, both bounds are that value.
Interval bca_mean(std::span<const double> samples, uint64_t seed, double confidence = 0.95,
                  int resamples = kBootstrapResamples);

struct Ratio {
  double value = 0;  // median(numerator) / median(denominator)
  double low = 0, high = 0;
  // Two-sided, of the hypothesis that the ratio is 1: twice the smaller share of the resampled ratios that are at most,
  // or at least, 1; the ratio that was measured counts as one of them, so that no number of resamples gives 0 (Davison
  // and Hinkley, Bootstrap Methods and their Application, 4.2).
  double p = 1;
};
// Percentile bootstrap of the ratio of two medians; both sides are resampled independently, run by run.
// Both sides: at least one sample, all > 0.
Ratio bootstrap_median_ratio(std::span<const double> numerator, std::span<const double> denominator, uint64_t seed,
                             double confidence = 0.95, int resamples = kBootstrapResamples);

// Holm's step-down adjustment of the p-values of several tests (Holm 1979), in the order given: a test whose adjusted
// value is at most α is significant where the chance of any false one among them is to be at most α.
std::vector<double> holm_adjusted(std::span<const double> p_values);

// Of the standard normal distribution. p in (0, 1).
double normal_probability(double x);
double normal_quantile(double p);

}  // namespace quantbench
