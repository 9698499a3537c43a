#include "bench/inter_token.h"

#include <algorithm>
#include <cmath>

#include "bench/statistics.h"

namespace quantbench {
namespace {

constexpr int kResamples = 2000;
constexpr double kConfidence = 0.95;

// The steps of all runs in order, so that the percentiles of many resamples of the runs are cheap.
class Pool {
 public:
  explicit Pool(std::span<const std::vector<double>> steps_ns) {
    for (size_t run = 0; run < steps_ns.size(); ++run) {
      for (const double step : steps_ns[run]) steps_.push_back({step, run});
    }
    std::sort(steps_.begin(), steps_.end(), [](const Step& a, const Step& b) { return a.ns < b.ns; });
    up_to_.resize(steps_.size());
  }
  size_t size() const { return steps_.size(); }

  // Has the steps of run r so many times.
  void weigh(std::span<const size_t> times) {
    size_t sum = 0;
    for (size_t i = 0; i < steps_.size(); ++i) up_to_[i] = sum += times[steps_[i].run];
  }
  // As quantile() of the steps as they are weighed.
  double quantile(double q) const {
    const double at = q * static_cast<double>(up_to_.back() - 1);
    const auto below = static_cast<size_t>(at);
    const double low = value_at(below), high = value_at(std::min(below + 1, up_to_.back() - 1));
    return low + (at - static_cast<double>(below)) * (high - low);
  }

 private:
  double value_at(size_t rank) const {
    const auto found = std::upper_bound(up_to_.begin(), up_to_.end(), rank);
    return steps_[static_cast<size_t>(found - up_to_.begin())].ns;
  }

  struct Step {
    double ns;
    size_t run;
  };
  std::vector<Step> steps_;
  std::vector<size_t> up_to_;
};

}  // namespace

std::vector<Summary> inter_token_percentiles(std::span<const std::vector<double>> steps_ns, uint64_t seed) {
  const size_t runs = steps_ns.size();
  const bool complete =
      runs > 0 && std::none_of(steps_ns.begin(), steps_ns.end(), [](const auto& s) { return s.empty(); });
  if (!complete) return {};
  Pool pool(steps_ns);
  std::vector<size_t> times(runs, 1);
  pool.weigh(times);
  std::vector<Summary> summaries;
  std::vector<double> wanted;
  for (const auto& [name, q] : kInterTokenPercentiles) {
    if (static_cast<int>(pool.size()) < samples_for_quantile(q)) continue;
    Summary s{std::string(name), Unit::nanoseconds, Better::lower, static_cast<int>(runs), pool.quantile(q)};
    for (const std::vector<double>& of_run : steps_ns) s.samples.push_back(quantile(of_run, q));
    s.mad = median_absolute_deviation(s.samples);
    s.min = *std::min_element(s.samples.begin(), s.samples.end());
    s.max = *std::max_element(s.samples.begin(), s.samples.end());
    summaries.push_back(std::move(s));
    wanted.push_back(q);
  }
  if (summaries.empty() || !median_interval(summaries.front().samples, kConfidence)) return summaries;
  SeededNumbers numbers(seed);
  std::vector<std::vector<double>> resampled(summaries.size());
  for (int i = 0; i < kResamples; ++i) {
    std::fill(times.begin(), times.end(), 0);
    for (size_t draw = 0; draw < runs; ++draw) ++times[numbers.below(runs)];
    pool.weigh(times);
    for (size_t p = 0; p < wanted.size(); ++p) resampled[p].push_back(pool.quantile(wanted[p]));
  }
  for (size_t p = 0; p < summaries.size(); ++p) {
    summaries[p].low = quantile(resampled[p], (1 - kConfidence) / 2);
    summaries[p].high = quantile(resampled[p], (1 + kConfidence) / 2);
    summaries[p].coverage = kConfidence;
  }
  return summaries;
}

}  // namespace quantbench
