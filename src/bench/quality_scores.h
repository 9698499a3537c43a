// What two rows of logits say of each other: pure functions, in double over floats.
#pragma once

#include <cstdint>
#include <span>

namespace quantbench {

// Of a row of logits: probability of id i = exp(x[i] − max) / sum.
struct Normalizer {
  float max = 0;
  double sum = 0;      // Σ exp(x − max)
  double log_sum = 0;  // ln Σ exp(x); not finite where a logit is not
  int32_t top = 0;     // the lowest id with the largest logit
};
Normalizer normalizer_of(std::span<const float> logits);

// −ln of the probability of `id`, in nats.
double negative_log_likelihood(std::span<const float> logits, const Normalizer& n, int32_t id);

// KL(p ‖ q) = Σ p ln(p / q) in nats, of two rows of one length. Exactly 0 of a row and itself; of rows that are nearly
// the same, rounding may leave it below 0 by some 1e-8.
double kl_divergence(std::span<const float> p, const Normalizer& of_p, std::span<const float> q,
                     const Normalizer& of_q);

}  // namespace quantbench
