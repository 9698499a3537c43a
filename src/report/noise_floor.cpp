#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/comparison.h"
#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

struct Halves {
  const RecordView *a = nullptr, *b = nullptr;
  std::string name() const {
    return fmt::format("{} {} {}", one_line(a->shown_model()), a->precision, one_line(a->test));
  }
};

std::vector<Halves> pairs_of(std::span<const RecordView> views) {
  std::vector<Halves> pairs;
  for (const RecordView& a : views) {
    if (a.half != "A") continue;
    const auto is_other = [&](const RecordView& b) {
      return b.half == "B" && b.shown_model() == a.shown_model() && b.precision == a.precision && b.test == a.test &&
             b.device == a.device;
    };
    const auto b = std::find_if(views.begin(), views.end(), is_other);
    if (b != views.end()) pairs.push_back({&a, &*b});
  }
  return pairs;
}

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

// "A: INVALID", of those that cannot be compared; empty if both can.
std::string obstacles(const Halves& pair) {
  std::string why;
  for (const RecordView* v : {pair.a, pair.b}) {
    const std::string of_half = obstacle(*v);
    if (!of_half.empty()) why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", v->half, of_half);
  }
  return why;
}

}  // namespace

std::vector<std::string> noise_floor(std::span<const RecordView> views) {
  const std::vector<Halves> pairs = pairs_of(views);
  std::vector<std::string> lines;
  std::vector<Halves> compared;
  std::vector<SamplePair> samples;
  for (const Halves& pair : pairs) {
    const std::string why = obstacles(pair);
    if (!why.empty()) {
      lines.push_back(fmt::format("{}: not compared: {}", pair.name(), why));
      continue;
    }
    const Summary &a = *pair.a->find(headline_metric(*pair.a)), &b = *pair.b->find(headline_metric(*pair.b));
    compared.push_back(pair);
    samples.push_back({a.samples, b.samples, a.better});
  }
  if (compared.empty()) return lines;
  const std::vector<Comparison> comparisons = compare(samples, compared.front().a->seed);
  for (size_t i = 0; i < compared.size(); ++i) {
    const Comparison& c = comparisons[i];
    lines.push_back(
        fmt::format("{}: B is {:.4f} × A [{:.4f}, {:.4f}]: {}{}", compared[i].name(), c.speed.value, c.speed.low,
                    c.speed.high, name_of(c.difference),
                    c.difference == Difference::same ? fmt::format(" within {:g} %", 100 * kSameThreshold) : ""));
    if (compared[i].a->response_ids != compared[i].b->response_ids) {
      lines.push_back(fmt::format("{}: its halves generated different tokens", compared[i].name()));
    }
  }
  const NoiseFloor floor = noise_floor(comparisons);
  lines.push_back(
      fmt::format("the largest difference between two measurements of the same cell: {}; their intervals "
                  "reach {}",
                  percent(floor.largest), percent(floor.threshold)));
  // In steps of 0.1 %, rounded up; what is left of a step by rounding is none.
  const double threshold = std::ceil(floor.threshold * 1000 - 1e-6) / 1000;
  lines.push_back(threshold <= kSameThreshold
                      ? fmt::format("a comparison here can have a threshold of {} or more; the usual {:g} % will do",
                                    percent(threshold), 100 * kSameThreshold)
                      : fmt::format("a comparison here can have a threshold of {} or more; at the usual {:g} % some "
                                    "cells that are the same would be called ambiguous",
                                    percent(threshold), 100 * kSameThreshold));
  return lines;
}

}  // namespace quantbench
