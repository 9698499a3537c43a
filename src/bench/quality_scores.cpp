#include "bench/quality_scores.h"

#include <cmath>

namespace quantbench {

Normalizer normalizer_of(std::span<const float> logits) {
  Normalizer n{.max = logits[0]};
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] <= n.max) continue;
    n.max = logits[i];
    n.top = static_cast<int32_t>(i);
  }
  for (const float x : logits) n.sum += double{std::exp(x - n.max)};
  n.log_sum = double{n.max} + std::log(n.sum);
  return n;
}

double negative_log_likelihood(std::span<const float> logits, const Normalizer& n, int32_t id) {
  return n.log_sum - double{logits[static_cast<size_t>(id)]};
}

// Σ p (x − y) − ln Σ exp(x) + ln Σ exp(y): one exponential an id, and the same ones as in the sum of p, so that what
// they are rounded by cancels.
double kl_divergence(std::span<const float> p, const Normalizer& of_p, std::span<const float> q,
                     const Normalizer& of_q) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += double{std::exp(p[i] - of_p.max)} * (double{p[i]} - double{q[i]});
  return sum / of_p.sum - of_p.log_sum + of_q.log_sum;
}

}  // namespace quantbench
