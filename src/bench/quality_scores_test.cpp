#include "bench/quality_scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace quantbench {
namespace {

using Row = std::vector<float>;

double kl(const Row& p, const Row& q) { return kl_divergence(p, normalizer_of(p), q, normalizer_of(q)); }

// ln of (1/2, 1/4, 1/4) and of (1/4, 1/4, 1/2), each moved by some number, which changes no probability.
const Row kP{std::log(0.5f) + 7, std::log(0.25f) + 7, std::log(0.25f) + 7};
const Row kQ{std::log(0.25f) - 90, std::log(0.25f) - 90, std::log(0.5f) - 90};
constexpr double kRounding = 1e-5;  // of logits near 90 in fp32

TEST(QualityScores, LikelihoodIsThatOfTheSoftmax) {
  const Normalizer n = normalizer_of(kP);
  EXPECT_NEAR(negative_log_likelihood(kP, n, 0), std::log(2), kRounding);
  EXPECT_NEAR(negative_log_likelihood(kP, n, 2), std::log(4), kRounding);
  EXPECT_EQ(n.top, 0);
  EXPECT_EQ(normalizer_of(Row{1, 3, 3}).top, 1) << "the lowest of equals, as greedy decoding takes it";
}

TEST(QualityScores, DivergenceIsThatOfTwoKnownDistributions) {
  // Σ p ln(p / q) = 1/2 ln 2 + 1/4 ln 1 + 1/4 ln 1/2
  EXPECT_NEAR(kl(kP, kQ), std::log(2) / 4, kRounding);
  // From the first to (1/2, 1/8, 3/8): another sum in the other direction.
  const Row r{std::log(0.5f), std::log(0.125f), std::log(0.375f)};
  EXPECT_NEAR(kl(kP, r), 0.25 * std::log(2) + 0.25 * std::log(2.0 / 3), kRounding);
  EXPECT_NEAR(kl(r, kP), 0.125 * std::log(0.5) + 0.375 * std::log(1.5), kRounding);
}

TEST(QualityScores, ARowDoesNotDivergeFromItself) {
  Row row;
  for (int i = 0; i < 5000; ++i) row.push_back(static_cast<float>(i * 7919 % 4001) / 200 - 10);
  EXPECT_EQ(kl(row, row), 0);
  Row nearly = row;
  nearly[17] += 1e-3f;
  EXPECT_NE(kl(row, nearly), 0);
}

TEST(QualityScores, WhatIsNotFiniteShows) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const Row& row : {Row{bad, 1, 2}, Row{1, bad, 2}, Row{1, 2, bad}}) {
      EXPECT_FALSE(std::isfinite(normalizer_of(row).log_sum));
    }
  }
}

}  // namespace
}  // namespace quantbench
