#include "checkpoint/random_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "testing/test_folder.h"

namespace quantbench {
namespace {

std::vector<f16> filled(RandomFill* fill, uint64_t key, uint64_t first, size_t count) {
  std::vector<f16> out(count);
  fill(key, first, count, 0.0f, 1.0f / kRandomSigma, out.data());
  return out;
}

TEST(RandomWeights, Avx2AndPortableGiveTheSameBits) {
  RandomFill* const fast = avx2_random_fill();
  if (!fast) GTEST_SKIP() << "this CPU has no AVX2";
  std::mt19937_64 random(5);
  for (int round = 0; round < 500; ++round) {
    const uint64_t key = random(), first = random() >> (random() % 64);
    const size_t count = random() % 300;
    ASSERT_EQ(filled(fast, key, first, count), filled(portable_random_fill(), key, first, count));
  }
  // Over the end of the index's low word, too.
  const uint64_t first = (uint64_t{3} << 32) - 21;
  EXPECT_EQ(filled(fast, 1, first, 64), filled(portable_random_fill(), 1, first, 64));
}

// Written down once: whatever changes these bits makes records with random weights incomparable.
TEST(RandomWeights, ASeedGivesTheseBitsForEver) {
  const RandomWeights weights(42, {{"model.layers.0.mlp.up_proj.weight", 8, 64, RandomKind::linear}});
  std::vector<f16> out(size_t{8} * 64);
  weights.read_f16("model.layers.0.mlp.up_proj.weight", 0, 8, out.data());
  std::vector<unsigned> first;
  for (size_t i = 0; i < 6; ++i) first.push_back(out[i].bits);
  EXPECT_THAT(first, testing::ElementsAre(8139, 9052, 5870, 42124, 12289, 10352));
  uint64_t hash = 0xcbf29ce484222325u;
  for (const f16 value : out) hash = (hash ^ value.bits) * 0x100000001b3u;
  EXPECT_EQ(hash, 12083902954570955465u);
}

TEST(RandomWeights, RowsReadAloneAreThoseOfTheWhole) {
  const RandomWeights weights(1, {{"w", 50, 67, RandomKind::linear}});
  std::vector<f16> whole(size_t{50} * 67), part(size_t{3} * 67);
  std::vector<float> wide(size_t{3} * 67);
  weights.read_f16("w", 0, 50, whole.data());
  weights.read_f16("w", 41, 3, part.data());
  weights.read_f32("w", 41, 3, wide.data());
  for (size_t i = 0; i < part.size(); ++i) {
    ASSERT_EQ(part[i], whole[size_t{41} * 67 + i]);
    ASSERT_EQ(wide[i], to_float(part[i]));
  }
}

struct Moments {
  double mean = 0, sigma = 0, kurtosis = 0;
};
Moments moments(const std::vector<f16>& values) {
  Moments m;
  const auto count = static_cast<double>(values.size());
  for (const f16 v : values) m.mean += static_cast<double>(to_float(v)) / count;
  double second = 0, fourth = 0;
  for (const f16 v : values) {
    const double d = static_cast<double>(to_float(v)) - m.mean;
    second += d * d / count;
    fourth += d * d * d * d / count;
  }
  m.sigma = std::sqrt(second);
  m.kurtosis = fourth / (second * second);
  return m;
}

TEST(RandomWeights, EveryKindHasItsDistribution) {
  const RandomWeights weights(7, {{"linear", 1000, 400, RandomKind::linear},
                                  {"embedding", 1000, 400, RandomKind::embedding},
                                  {"norm", 1, 100'000, RandomKind::norm},
                                  {"bias", 1, 100'000, RandomKind::bias},
                                  {"wide bias", 1, 100'000, RandomKind::bias, 0.5, 1.0f}});
  std::vector<f16> matrix(400'000), vector(100'000);
  // Tolerances: five standard errors of the mean and of the deviation.
  for (const char* name : {"linear", "embedding"}) {
    weights.read_f16(name, 0, 1000, matrix.data());
    const Moments m = moments(matrix);
    EXPECT_NEAR(m.mean, 0, 5 * 0.05 / std::sqrt(4e5)) << name;
    EXPECT_NEAR(m.sigma, 0.05, 5 * 0.05 / std::sqrt(8e5)) << name;
    EXPECT_NEAR(m.kurtosis, 2.7, 0.05) << "four bytes; a normal distribution has 3";
  }
  weights.read_f16("norm", 0, 1, vector.data());
  EXPECT_NEAR(moments(vector).mean, 1, 5 * 0.1 / std::sqrt(1e5));
  EXPECT_NEAR(moments(vector).sigma, 0.1, 5 * 0.1 / std::sqrt(2e5));
  weights.read_f16("bias", 0, 1, vector.data());
  EXPECT_NEAR(moments(vector).sigma, 0.02, 5 * 0.02 / std::sqrt(2e5));
  weights.read_f16("wide bias", 0, 1, vector.data());
  EXPECT_NEAR(moments(vector).sigma, 0.5, 5 * 0.5 / std::sqrt(2e5));
  EXPECT_NEAR(moments(vector).mean, -1, 5 * 0.5 / std::sqrt(1e5)) << "who uses it adds 1";
}

TEST(RandomWeights, TensorsSeedsAndNeighboursAreIndependent) {
  const std::vector<RandomTensor> tensors = {{"a", 1000, 100, RandomKind::linear},
                                             {"b", 1000, 100, RandomKind::linear}};
  const auto read = [&](uint64_t seed, const char* name) {
    std::vector<f16> out(100'000);
    RandomWeights(seed, tensors).read_f16(name, 0, 1000, out.data());
    return out;
  };
  // Of values with deviation 0.1; five standard errors of a correlation of 10⁵ pairs are 0.016.
  const auto correlation = [](const std::vector<f16>& a, const std::vector<f16>& b, size_t shift) {
    double sum = 0;
    for (size_t i = 0; i + shift < a.size(); ++i) {
      sum += static_cast<double>(to_float(a[i])) * static_cast<double>(to_float(b[i + shift]));
    }
    return sum / 0.01 / static_cast<double>(a.size() - shift);
  };
  const auto a = read(1, "a"), b = read(1, "b"), other_seed = read(2, "a");
  for (const size_t shift : {0, 1, 2, 8, 100}) {
    EXPECT_NEAR(correlation(a, b, shift), 0, 0.016) << shift;
    EXPECT_NEAR(correlation(a, other_seed, shift), 0, 0.016) << shift;
    EXPECT_NEAR(correlation(a, a, shift), shift == 0 ? 1 : 0, 0.016) << shift;
  }
}

// A linear behind a norm: normalised activations, times the norm's weights, times the linear's.
TEST(RandomWeights, PlantedChannelsReachTheThresholdAndOutputsStaySane) {
  constexpr int kChannels = 6, kWidth = 1024, kRows = 200;
  const RandomWeights weights(3, {{"norm", 1, kWidth, RandomKind::norm}, {"w", kRows, kWidth, RandomKind::linear}},
                              kChannels);
  std::vector<float> norm(kWidth), w(size_t{kRows} * kWidth);
  weights.read_f32("norm", 0, 1, norm.data());
  weights.read_f32("w", 0, kRows, w.data());
  EXPECT_EQ(std::count(norm.begin(), norm.end(), kOutlierNormWeight), kChannels);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  int outliers = 0, elsewhere = 0;
  double square = 0;
  constexpr int kTokens = 100;
  for (int token = 0; token < kTokens; ++token) {
    std::vector<float> x(kWidth);
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = normal(random) * norm[i];
      ASSERT_LT(std::fabs(x[i]), 1000.0f);
      if (std::fabs(x[i]) >= 6.0f) ++(norm[i] == kOutlierNormWeight ? outliers : elsewhere);
    }
    for (size_t row = 0; row < kRows; ++row) {
      double y = 0;
      for (size_t i = 0; i < x.size(); ++i) y += static_cast<double>(x[i]) * static_cast<double>(w[row * kWidth + i]);
      square += y * y;
    }
  }
  EXPECT_GT(outliers, kTokens * kChannels * 3 / 4);  // 85 % expected
  EXPECT_LT(elsewhere, kTokens);
  EXPECT_NEAR(std::sqrt(square / (kTokens * kRows)), 1.0, 0.3);  // six channels dominate, so tokens differ
}

TEST(RandomWeights, EveryNormOfAWidthHasTheSamePlantedChannels) {
  const RandomWeights weights(3, {{"a", 1, 64, RandomKind::norm}, {"b", 1, 64, RandomKind::norm}}, 63);
  std::vector<float> a(64), b(64);
  weights.read_f32("a", 0, 1, a.data());
  weights.read_f32("b", 0, 1, b.data());
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(a[i] == kOutlierNormWeight, b[i] == kOutlierNormWeight);
  EXPECT_EQ(std::count(a.begin(), a.end(), kOutlierNormWeight), 63);
}

TEST(RandomWeights, RefusesMoreOutlierChannelsThanThereAre) {
  const std::vector<RandomTensor> tensors = {{"norm", 1, 64, RandomKind::norm}};
  EXPECT_THAT(refusal([&] { RandomWeights(1, tensors, 64); }, ErrorKind::usage),
              testing::HasSubstr("expected 0 to 63"));
  EXPECT_THAT(refusal([&] { RandomWeights(1, tensors, -1); }, ErrorKind::usage), testing::HasSubstr("is -1"));
}

TEST(RandomWeights, SaysWhatItIs) {
  const RandomWeights weights(42, {{"w", 2, 3, RandomKind::linear}, {"v", 1, 3, RandomKind::bias}}, 2);
  EXPECT_EQ(weights.where(), "random weights (seed 42, 2 outlier channels)");
  EXPECT_EQ(weights.names(), (std::vector<std::string>{"v", "w"}));
  EXPECT_EQ(weights.find("v")->shape, (std::vector<int64_t>{3}));
  EXPECT_EQ(weights.find("w")->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_FALSE(weights.find("x"));
  EXPECT_EQ(weights.prequantized(), Prequantized::none);
}

}  // namespace
}  // namespace quantbench
