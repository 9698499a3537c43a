#include "quant/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "quant/matrix.h"

namespace quantbench {
namespace {

// Random bits of every kind (subnormals, infinities, NaNs) or, if `finite`, only numbers.
std::vector<f16> random_halves(std::mt19937& random, size_t count, bool finite) {
  std::vector<f16> values(count);
  for (f16& value : values) {
    do {
      value.bits = static_cast<uint16_t>(random());
    } while (finite && (value.bits & 0x7c00) == 0x7c00);
  }
  return values;
}

class QuantKernelsAgree : public testing::Test {
 protected:
  void SetUp() override {
    if (!fast) GTEST_SKIP() << "this CPU has no AVX2";
  }
  const QuantKernels& plain = portable_quant_kernels();
  const QuantKernels* fast = avx2_quant_kernels();
  std::mt19937 random{7};
};

TEST_F(QuantKernelsAgree, OnTheLargestMagnitude) {
  for (int round = 0; round < 2000; ++round) {
    const auto x = random_halves(random, random() % 200, round % 2 == 0);
    ASSERT_EQ(fast->max_magnitude(x.data(), x.size()), plain.max_magnitude(x.data(), x.size())) << x.size();
  }
}

TEST_F(QuantKernelsAgree, OnInt8Codes) {
  for (int round = 0; round < 2000; ++round) {
    const auto x = random_halves(random, 1 + random() % 200, true);
    const float absmax = to_float(f16{plain.max_magnitude(x.data(), x.size())});
    const float scale = 127.0f * (1.0f / absmax);
    std::vector<int8_t> a(x.size()), b(x.size());
    fast->int8_codes(x.data(), x.size(), scale, a.data());
    plain.int8_codes(x.data(), x.size(), scale, b.data());
    ASSERT_EQ(a, b);
  }
}

TEST_F(QuantKernelsAgree, OnInt8TiesWhichGoToEven) {
  std::vector<f16> x(64);
  for (size_t i = 0; i < x.size(); ++i) x[i] = to_f16(static_cast<float>(i) - 31.5f);
  std::vector<int8_t> a(x.size()), b(x.size());
  fast->int8_codes(x.data(), x.size(), 1.0f, a.data());
  plain.int8_codes(x.data(), x.size(), 1.0f, b.data());
  EXPECT_EQ(a, b);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(b[i], static_cast<int8_t>(std::nearbyint(to_float(x[i]))));
}

TEST_F(QuantKernelsAgree, OnNf4BlocksNaNIncluded) {
  for (int round = 0; round < 5000; ++round) {
    auto x = random_halves(random, random() % 300, round % 2 == 0);
    if (round % 5 == 0) std::fill(x.begin(), x.begin() + static_cast<ptrdiff_t>(x.size() / 2), f16{0x8000});
    std::vector<uint8_t> a((x.size() + 1) / 2), b(a.size());
    std::vector<float> absmax_a(ceil_div(x.size(), kNf4Block)), absmax_b(absmax_a.size());
    fast->nf4_blocks(x.data(), x.size(), absmax_a.data(), a.data());
    plain.nf4_blocks(x.data(), x.size(), absmax_b.data(), b.data());
    ASSERT_EQ(a, b);
    for (size_t i = 0; i < absmax_a.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(absmax_a[i]), std::bit_cast<uint32_t>(absmax_b[i]));
    }
  }
}

// Every fp16 value in a block with every 61st absmax above it: many of them beside a midpoint.
TEST_F(QuantKernelsAgree, OnNf4CodesOfEveryValue) {
  std::vector<f16> x(64);
  std::vector<uint8_t> a(32), b(32);
  for (uint16_t largest = 1; largest < 0x7c00; largest = static_cast<uint16_t>(largest + 61)) {
    for (int first = 0; first <= largest; first += 63) {
      x[0].bits = largest;
      for (int i = 1; i < 64; ++i) {
        x[static_cast<size_t>(i)].bits = static_cast<uint16_t>(std::min<int>(first + i - 1, largest) | (i % 2 << 15));
      }
      float absmax_a, absmax_b;
      fast->nf4_blocks(x.data(), 64, &absmax_a, a.data());
      plain.nf4_blocks(x.data(), 64, &absmax_b, b.data());
      ASSERT_EQ(a, b) << largest << " " << first;
    }
    largest = static_cast<uint16_t>(largest + largest / 16);
  }
}

}  // namespace
}  // namespace quantbench
