#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "backend/backend.h"
#include "backend/reference/reference_ops.h"
#include "backend/sampling.h"
#include "quant/nf4.h"

namespace quantbench {
namespace {

// Expected values are worked out by hand: small integers, so every tolerance is only fp32's rounding.
constexpr float kRounding = 1e-6f;

struct Half {
  std::vector<f16> bits;
  Half(std::initializer_list<float> values) {
    for (float v : values) bits.push_back(to_f16(v));
  }
  operator const f16*() const { return bits.data(); }
};

Tensor view(std::vector<float>& v, int rows) { return {v.data(), DType::f32, rows, static_cast<int>(v.size()) / rows}; }

struct OneRow {
  std::vector<int32_t> token{0}, position{0}, sequence{0};
  Rows rows() { return {token.data(), position.data(), sequence.data(), static_cast<int>(token.size())}; }
};

TEST(ReferenceEmbed, ScalesTheRowOfTheToken) {
  const Half table{1, 2, 3, 4};
  const Matrix m = F16Matrix{2, 2, table};
  std::vector<float> x(2);
  OneRow row;
  row.token[0] = 1;
  ReferenceOps().embed({.x = view(x, 1), .table = &m, .scale = 0.5f, .rows = row.rows()});
  EXPECT_EQ(x, (std::vector<float>{1.5f, 2.0f}));
}

TEST(ReferenceProject, NormalisesMultipliesAddsTheBiasAndActivates) {
  std::vector<float> x{3, 4}, y(1);
  const std::vector<float> weight{2, 1}, norm_bias{0, 1}, bias{-1};
  const Half w{1, 2};
  const Linear linear{F16Matrix{1, 2, w}, bias.data(), true};
  const Norm rms{weight.data(), nullptr, 0, false}, layer{weight.data(), norm_bias.data(), 0, true};
  ReferenceOps ops;
  ops.project({.y = view(y, 1), .x = view(x, 1), .norm = nullptr, .w = &linear});
  EXPECT_EQ(y[0], 10.0f);
  ops.project({.y = view(y, 1), .x = view(x, 1), .norm = &rms, .w = &linear});
  EXPECT_NEAR(y[0], (3 * 2 + 4 * 2) / std::sqrt(12.5) - 1, kRounding * 10);
  ops.project({.y = view(y, 1), .x = view(x, 1), .norm = &layer, .w = &linear, .act = Act::silu});
  const double z = -2 + 2 * (1 + 1) - 1;  // normalised x is (−1, 1)
  EXPECT_NEAR(y[0], z / (1 + std::exp(-z)), kRounding);
  ops.project({.y = view(y, 1), .x = view(x, 1), .norm = &layer, .w = &linear, .act = Act::gelu_tanh});
  EXPECT_NEAR(y[0], 0.5 * z * (1 + std::tanh(0.7978845608028654 * (z + 0.044715 * z * z * z))), kRounding);
}

TEST(ReferenceGatedUp, ActivatesTheGateOnly) {
  std::vector<float> x{1}, h(1);
  const std::vector<float> one{1};
  const Half g{2}, u{3};
  const Linear gate{F16Matrix{1, 1, g}}, up{F16Matrix{1, 1, u}};
  const Norm norm{one.data(), nullptr, 0, false};
  ReferenceOps().gated_up({.h = view(h, 1), .x = view(x, 1), .norm = &norm, .gate = &gate, .up = &up});
  EXPECT_NEAR(h[0], 2 / (1 + std::exp(-2.0)) * 3, kRounding * 10);
}

TEST(ReferenceAttend, AveragesValuesOfItsOwnGroupUpToItsPosition) {
  // Two q heads share one kv head of two dims; the third cache slot lies in the future.
  const Half k{1, 0, 0, 1, 9, 9}, v{1, 2, 3, 4, 100, 100};
  KvLayer kv{const_cast<f16*>(static_cast<const f16*>(k)), const_cast<f16*>(static_cast<const f16*>(v)), 1, 3, 1, 2};
  std::vector<float> q{0, 0, 2, 0}, a(4);
  OneRow row;
  row.position[0] = 1;
  ReferenceOps().attend({.a = view(a, 1), .q = view(q, 1), .kv = kv, .scale = 0.5f, .rows = row.rows()});
  EXPECT_NEAR(a[0], 2, kRounding);  // equal scores
  EXPECT_NEAR(a[1], 3, kRounding);
  const double p = std::exp(1.0) / (std::exp(1.0) + 1);  // scores 1 and 0
  EXPECT_NEAR(a[2], p * 1 + (1 - p) * 3, kRounding * 4);
  EXPECT_NEAR(a[3], p * 2 + (1 - p) * 4, kRounding * 4);
}

TEST(ReferenceQkv, RotatesQueriesAndKeysByPositionAndStoresBothInTheCache) {
  std::vector<float> x{1}, q(4);
  const std::vector<float> one{1}, bias{0, 0, 0, 5};
  // Head of 4, of which the first 2 dims rotate: pair (0, 1); angle 0 at position 0, 90° at position 1.
  const std::vector<float> cos{1, 0}, sin{0, 1};
  const Rope rope{2, cos.data(), sin.data()};
  const Half w{1, 2, 3, 4};
  const Linear linear{F16Matrix{4, 1, w}}, with_bias{F16Matrix{4, 1, w}, bias.data(), true};
  const Norm norm{one.data(), nullptr, 0, false};
  std::vector<f16> k(8), v(8);
  OneRow row;
  row.position[0] = 1;
  ReferenceOps().qkv({.q = view(q, 1),
                      .kv = {k.data(), v.data(), 1, 2, 1, 4},
                      .x = view(x, 1),
                      .norm = &norm,
                      .wq = &linear,
                      .wk = &with_bias,
                      .wv = &linear,
                      .rope = &rope,
                      .rows = row.rows()});
  EXPECT_EQ(q, (std::vector<float>{-2, 1, 3, 4}));
  EXPECT_EQ(to_float(k[4]), -2.0f);
  EXPECT_EQ(to_float(k[5]), 1.0f);
  EXPECT_EQ(to_float(k[7]), 9.0f);
  EXPECT_EQ(to_float(v[4]), 1.0f);
  EXPECT_EQ(to_float(v[5]), 2.0f);
  EXPECT_EQ(k[0].bits, 0);
}

TEST(ReferenceAddLinear, AddsToTheResidualInEveryFormat) {
  ThreadPool pool(1);
  constexpr int kN = 2, kK = 64;
  std::vector<f16> w(size_t{kN} * kK);
  for (int i = 0; i < kN * kK; ++i) w[i] = to_f16(i % 2 ? 1.0f : -1.0f);  // exact in every format but for the scale
  std::vector<float> a(kK), x{10, 20};
  for (int i = 0; i < kK; ++i) a[i] = i % 2 ? 0.5f : -0.5f;
  Nf4Weights nf4;
  quantize_nf4(w, kN, kK, &nf4, pool, false);
  Nf4Matrix packed{kN, kK, nf4.codes.data()};
  packed.absmax = nf4.absmax.data();
  packed.double_quantized = false;
  const Linear dense{F16Matrix{kN, kK, w.data()}}, four_bit{packed};
  ReferenceOps ops;
  ops.add_linear({.x = view(x, 1), .a = view(a, 1), .w = &dense});
  EXPECT_EQ(x, (std::vector<float>{42, 52}));
  ops.add_linear({.x = view(x, 1), .a = view(a, 1), .w = &four_bit});
  EXPECT_EQ(x, (std::vector<float>{74, 84}));
}

TEST(ReferenceNextToken, TakesTheLowestOfEqualLogitsAdvancesAndKeepsTheHistory) {
  std::vector<float> logits{1, 7, NAN, 7};
  std::vector<int32_t> history(8, -1);
  OneRow row;
  row.position[0] = 2;
  ReferenceOps().next_token(
      {.rows = row.rows(), .logits = view(logits, 1), .history = history.data(), .history_positions = 8});
  EXPECT_EQ(row.token[0], 1);
  EXPECT_EQ(row.position[0], 3);
  EXPECT_EQ(history[3], 1);
}

TEST(ReferenceNextToken, SamplesEachIdAsOftenAsItsSoftmaxSays) {
  const double p[] = {0.6, 0.3, 0.1};
  std::vector<float> logits;
  for (double value : p) logits.push_back(static_cast<float>(2 * std::log(value)));  // at temperature 2
  constexpr int kDraws = 20000;
  int counts[3] = {};
  OneRow row;
  for (int i = 0; i < kDraws; ++i) {
    row.position[0] = i;
    ReferenceOps().next_token({.rows = row.rows(), .logits = view(logits, 1), .sampling = {2.0f, 42}});
    ++counts[row.token[0]];
  }
  // Five standard deviations of a binomial: √(n·p·(1−p)) ≤ 70.
  for (int id = 0; id < 3; ++id) EXPECT_NEAR(counts[id], p[id] * kDraws, 350);
}

// The ids that some draw gave.
std::set<int32_t> drawn(std::vector<float> logits, Sampling sampling) {
  std::set<int32_t> ids;
  OneRow row;
  for (int i = 0; i < 2000; ++i) {
    row.position[0] = i;
    ReferenceOps().next_token({.rows = row.rows(), .logits = view(logits, 1), .sampling = sampling});
    ids.insert(row.token[0]);
  }
  return ids;
}
std::vector<float> logs(std::initializer_list<double> shares) {
  std::vector<float> out;
  for (const double p : shares) out.push_back(static_cast<float>(std::log(p)));
  return out;
}
using Ids = std::set<int32_t>;

TEST(ReferenceNextToken, DrawsFromTheTopKAndWhatTiesWithTheLast) {
  const std::vector<float> logits{1, 3, 2, 1, 2.5f, 1};
  EXPECT_EQ(drawn(logits, {1, 7, 1}), (Ids{1}));
  EXPECT_EQ(drawn(logits, {1, 7, 3}), (Ids{1, 2, 4}));
  EXPECT_EQ(drawn(logits, {1, 7, 4}), (Ids{0, 1, 2, 3, 4, 5}));  // three share the fourth place
  EXPECT_EQ(drawn(logits, {1, 7, 6}), (Ids{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(drawn(logits, {1, 7, 1000}), (Ids{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(drawn({0.0f, -0.0f, -1}, {1, 7, 1}), (Ids{0, 1}));
}

TEST(ReferenceNextToken, DrawsFromTheLargestThatMakeUpTopP) {
  const std::vector<float> logits = logs({0.15, 0.3, 0.3, 0.25});
  EXPECT_EQ(drawn(logits, {1, 7, 0, 0.8}), (Ids{1, 2, 3}));  // as transformers' own test of its warper
  EXPECT_EQ(drawn(logits, {1, 7, 0, 0.55}), (Ids{1, 2}));
  EXPECT_EQ(drawn(logits, {1, 7, 0, 0.1}), (Ids{1, 2}));  // they stay together
  EXPECT_EQ(drawn(logits, {1, 7, 0, 0.9}), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(drawn(logs({0.1, 0.6, 0.3}), {1, 7, 0, 0}), (Ids{1}));
  EXPECT_EQ(drawn(logs({0.1, 0.6, 0.3}), {1, 7, 0, 1e-30}), (Ids{1}));
  EXPECT_EQ(drawn(logs({0.1, 0.6, 0.3}), {1, 7, 0, 0.65}), (Ids{1, 2}));
}

TEST(ReferenceNextToken, AppliesTemperatureThenTopKThenTopPOverTheRest) {
  const std::vector<float> logits = logs({0.4, 0.2, 0.2, 0.1, 0.1});
  // Of the first three the largest is a half, of all only 0.4.
  EXPECT_EQ(drawn(logits, {1, 7, 3, 0.45}), (Ids{0}));
  EXPECT_EQ(drawn(logits, {1, 7, 0, 0.45}), (Ids{0, 1, 2}));
  // At a half of the temperature shares are squared: 0.16 of 0.26.
  EXPECT_EQ(drawn(logits, {0.5f, 7, 0, 0.6}), (Ids{0}));
  EXPECT_EQ(drawn(logits, {2, 7, 0, 0.6}), (Ids{0, 1, 2}));
}

TEST(ReferenceNextToken, AFinishedSequenceStaysAsItIs) {
  std::vector<float> logits{1, 7, 3, 7};
  std::vector<int32_t> history(8, -1), done(1);
  const std::vector<int32_t> stops{2, 3, 1};
  OneRow row;
  row.position[0] = 2;
  const NextToken op{.rows = row.rows(),
                     .logits = view(logits, 1),
                     .history = history.data(),
                     .history_positions = 8,
                     .stops = stops.data(),
                     .done = done.data()};
  ReferenceOps().next_token(op);
  EXPECT_EQ(done[0], 1);
  logits[2] = 9;
  ReferenceOps().next_token(op);
  EXPECT_EQ(row.token[0], 1);
  EXPECT_EQ(row.position[0], 3);
  EXPECT_EQ(history, (std::vector<int32_t>{-1, -1, -1, 1, -1, -1, -1, -1}));
  done[0] = 0;
  ReferenceOps().next_token(op);
  EXPECT_EQ(row.token[0], 2);
  EXPECT_EQ(done[0], 0);
}

}  // namespace
}  // namespace quantbench
