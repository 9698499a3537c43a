#include "bench/statistics.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

namespace quantbench {
namespace {

std::vector<double> sorted(std::span<const double> samples) {
  std::vector<double> result(samples.begin(), samples.end());
  std::sort(result.begin(), result.end());
  return result;
}

double quantile_of_sorted(const std::vector<double>& x, double q) {
  assert(!x.empty() && q >= 0 && q <= 1);
  const double at = q * static_cast<double>(x.size() - 1);
  const auto below = static_cast<size_t>(at);
  if (below + 1 >= x.size()) return x.back();
  return x[below] + (at - static_cast<double>(below)) * (x[below + 1] - x[below]);
}

// Reorders `samples`; cheaper than sorting, for the bootstrap.
double median_in_place(std::vector<double>& samples) {
  const size_t middle = samples.size() / 2;
  const auto at = samples.begin() + static_cast<std::ptrdiff_t>(middle);
  std::nth_element(samples.begin(), at, samples.end());
  if (samples.size() % 2 == 1) return *at;
  return (*std::max_element(samples.begin(), at) + *at) / 2;
}

}  // namespace

double median(std::span<const double> samples) {
  assert(!samples.empty());
  std::vector<double> copy(samples.begin(), samples.end());
  return median_in_place(copy);
}

double quantile(std::span<const double> samples, double q) { return quantile_of_sorted(sorted(samples), q); }

double median_absolute_deviation(std::span<const double> samples) {
  const double middle = median(samples);
  std::vector<double> distance;
  distance.reserve(samples.size());
  for (double x : samples) distance.push_back(std::abs(x - middle));
  return median_in_place(distance);
}

std::optional<Interval> median_interval(std::span<const double> samples, double confidence) {
  const int n = static_cast<int>(samples.size());
  // The interval [x(k), x(n+1−k)] misses the median with probability 2·P(B < k), B ~ Binomial(n, 1/2).
  int k = 0;
  double below_k = 0;   // P(B < k)
  double log_ways = 0;  // log C(n, k)
  const double log_half_n = n * std::log(0.5);
  while (k + 1 <= n / 2) {
    const double next = below_k + std::exp(log_ways + log_half_n);
    if (1 - 2 * next < confidence) break;
    log_ways += std::log(static_cast<double>(n - k)) - std::log(static_cast<double>(k + 1));
    below_k = next;
    ++k;
  }
  if (k == 0) return std::nullopt;
  const std::vector<double> x = sorted(samples);
  return Interval{x[static_cast<size_t>(k - 1)], x[static_cast<size_t>(n - k)], 1 - 2 * below_k, k, n + 1 - k};
}

int samples_for_quantile(double q) { return static_cast<int>(std::ceil(std::log(0.05) / std::log(q))); }

std::optional<double> tail_quantile(std::span<const double> samples, double q) {
  if (static_cast<int>(samples.size()) < samples_for_quantile(q)) return std::nullopt;
  return quantile(samples, q);
}

std::vector<Outlier> classify_outliers(std::span<const double> samples) {
  if (samples.empty()) return {};
  const std::vector<double> x = sorted(samples);
  const double q1 = quantile_of_sorted(x, 0.25), q3 = quantile_of_sorted(x, 0.75);
  const double range = q3 - q1;
  std::vector<Outlier> result;
  result.reserve(samples.size());
  for (double sample : samples) {
    const double beyond = std::max(q1 - sample, sample - q3);
    result.push_back(beyond > 3 * range ? Outlier::severe : beyond > 1.5 * range ? Outlier::mild : Outlier::none);
  }
  return result;
}

uint64_t SeededNumbers::next() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

uint64_t SeededNumbers::below(uint64_t bound) {
  assert(bound > 0);
  const uint64_t unfair = (0 - bound) % bound;  // 2^64 mod bound: that many of the lowest values come once too often
  uint64_t value;
  do {
    value = next();
  } while (value < unfair);
  return value % bound;
}

namespace {

// As SeededNumbers::below, many times with one bound: without a division, of which there are two.
class Draw {
 public:
  explicit Draw(uint64_t bound) : bound_(bound), unfair_((0 - bound) % bound), inverse_(~uint64_t{0} / bound) {}
  size_t operator()(SeededNumbers& numbers) const {
    uint64_t value;
    do {
      value = numbers.next();
    } while (value < unfair_);
    // The inverse is too small by less than 2 / bound of a 2^64th, so the quotient by 2 at the most.
    uint64_t rest = value - static_cast<uint64_t>(static_cast<Wide>(value) * inverse_ >> 64) * bound_;
    while (rest >= bound_) rest -= bound_;
    return rest;
  }

 private:
  __extension__ using Wide = unsigned __int128;
  uint64_t bound_, unfair_, inverse_;
};

// Medians of resamples. Which of the sorted samples were drawn is counted, so none is sorted.
class MedianOfResamples {
 public:
  explicit MedianOfResamples(std::span<const double> samples)
      : samples_(samples.size()), rank_(samples.size()), count_(samples.size()), draw_(samples.size()) {
    std::vector<size_t> order(samples.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return samples[a] < samples[b]; });
    for (size_t i = 0; i < order.size(); ++i) {
      samples_[i] = samples[order[i]];
      rank_[order[i]] = i;
    }
  }
  double operator()(SeededNumbers& numbers) {
    const size_t n = samples_.size();
    std::fill(count_.begin(), count_.end(), 0u);
    for (size_t i = 0; i < n; ++i) ++count_[rank_[draw_(numbers)]];
    size_t at = 0, up_to = count_[0];  // of them, samples_[at] and smaller
    while (up_to < (n + 1) / 2) up_to += count_[++at];
    const double lower = samples_[at];
    if (n % 2 == 1) return lower;
    while (up_to < n / 2 + 1) up_to += count_[++at];
    return (lower + samples_[at]) / 2;
  }

 private:
  std::vector<double> samples_;
  std::vector<size_t> rank_;  // of each sample as it was given
  std::vector<unsigned> count_;
  Draw draw_;
};

// As quantile(), of values whose order does not matter.
double quantile_in_place(std::vector<double>& x, double q) {
  const double at = q * static_cast<double>(x.size() - 1);
  const auto below = x.begin() + static_cast<std::ptrdiff_t>(at);
  std::nth_element(x.begin(), below, x.end());
  if (below + 1 == x.end()) return *below;
  const double above = *std::min_element(below + 1, x.end());
  return *below + (at - std::floor(at)) * (above - *below);
}

}  // namespace

uint64_t derived_seed(uint64_t seed, uint64_t index) {
  SeededNumbers numbers(seed ^ (index * 0xd1342543de82ef95));
  return numbers.next();
}

std::vector<int> shuffled(int count, uint64_t seed) {
  std::vector<int> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  SeededNumbers numbers(seed);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[numbers.below(i)]);
  return order;
}

double normal_probability(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

double normal_quantile(double p) {
  assert(p > 0 && p < 1);
  double low = -40, high = 40;  // where the probability is 0 and 1 in double precision
  for (double middle = 0; low < middle && middle < high; middle = (low + high) / 2) {
    (normal_probability(middle) < p ? low : high) = middle;
  }
  return high;
}

namespace {

// Sorted means of resamples.
std::vector<double> resampled_means(std::span<const double> samples, uint64_t seed, int resamples) {
  assert(!samples.empty() && resamples > 0);
  SeededNumbers numbers(seed);
  std::vector<double> means(static_cast<size_t>(resamples));
  for (double& mean : means) {
    double sum = 0;
    for (size_t i = 0; i < samples.size(); ++i) sum += samples[numbers.below(samples.size())];
    mean = sum / static_cast<double>(samples.size());
  }
  std::sort(means.begin(), means.end());
  return means;
}

double mean_of(std::span<const double> samples) {
  return std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size());
}

// A sixth of the skewness of the jackknife's means, which for a mean is that of the samples over √n.
double acceleration_of_mean(std::span<const double> samples) {
  const double mean = mean_of(samples);
  double squares = 0, cubes = 0;
  for (const double x : samples) {
    squares += (x - mean) * (x - mean);
    cubes += (x - mean) * (x - mean) * (x - mean);
  }
  return cubes / (6 * squares * std::sqrt(squares));
}

}  // namespace

Interval bootstrap_mean(std::span<const double> samples, uint64_t seed, double confidence, int resamples) {
  const std::vector<double> means = resampled_means(samples, seed, resamples);
  const double tail = (1 - confidence) / 2;
  return {quantile_of_sorted(means, tail), quantile_of_sorted(means, 1 - tail), confidence};
}

Interval bca_mean(std::span<const double> samples, uint64_t seed, double confidence, int resamples) {
  assert(samples.size() > 1);
  const auto [least, most] = std::minmax_element(samples.begin(), samples.end());
  if (*least == *most) return {*least, *most, confidence};
  const std::vector<double> means = resampled_means(samples, seed, resamples);
  const double mean = mean_of(samples);
  // Resamples that hit the mean itself count half; at least half a resample is on either side, or the correction would
  // be infinite.
  const auto below = static_cast<double>(std::lower_bound(means.begin(), means.end(), mean) - means.begin());
  const auto up_to = static_cast<double>(std::upper_bound(means.begin(), means.end(), mean) - means.begin());
  const auto count = static_cast<double>(means.size());
  const double bias = normal_quantile(std::clamp((below + up_to) / 2, 0.5, count - 0.5) / count);
  const double acceleration = acceleration_of_mean(samples);
  const auto level = [&](double tail) {
    const double z = bias + normal_quantile(tail);
    return normal_probability(bias + z / (1 - acceleration * z));
  };
  const double tail = (1 - confidence) / 2;
  return {quantile_of_sorted(means, level(tail)), quantile_of_sorted(means, level(1 - tail)), confidence};
}

std::vector<double> holm_adjusted(std::span<const double> p_values) {
  std::vector<size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> adjusted(p_values.size());
  double largest = 0;  // of those with a smaller p-value: an adjusted one is never below theirs
  for (size_t i = 0; i < order.size(); ++i) {
    largest = std::max(largest, std::min(1.0, static_cast<double>(order.size() - i) * p_values[order[i]]));
    adjusted[order[i]] = largest;
  }
  return adjusted;
}

Ratio bootstrap_median_ratio(std::span<const double> numerator, std::span<const double> denominator, uint64_t seed,
                             double confidence, int resamples) {
  SeededNumbers numbers(seed);
  MedianOfResamples above(numerator), below(denominator);
  std::vector<double> ratios(static_cast<size_t>(resamples));
  for (double& ratio : ratios) {
    const double of_numerator = above(numbers);
    ratio = of_numerator / below(numbers);
  }
  const double tail = (1 - confidence) / 2;
  const auto up_to_1 = std::count_if(ratios.begin(), ratios.end(), [](double x) { return x <= 1; });
  const auto from_1 = std::count_if(ratios.begin(), ratios.end(), [](double x) { return x >= 1; });
  const double p = 2 * static_cast<double>(std::min<std::ptrdiff_t>(up_to_1, from_1) + 1) / (resamples + 1);
  const double low = quantile_in_place(ratios, tail), high = quantile_in_place(ratios, 1 - tail);
  return {median(numerator) / median(denominator), low, high, std::min(1.0, p)};
}

}  // namespace quantbench
