#include "checkpoint/convert.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace quantbench {
namespace {

// Bits of every kind: numbers, subnormals, infinities, NaNs.
template <typename T>
std::vector<T> random_bits(std::mt19937& random, size_t count) {
  std::vector<T> values(count);
  for (T& value : values) {
    const uint32_t bits = random();
    std::memcpy(&value, &bits, sizeof value);
  }
  return values;
}

template <typename In, typename Out>
void expect_same(uint32_t (*fast)(const In*, size_t, Out*), uint32_t (*plain)(const In*, size_t, Out*)) {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    const auto x = random_bits<In>(random, random() % 100);
    std::vector<Out> a(x.size()), b(x.size());
    ASSERT_EQ(fast(x.data(), x.size(), a.data()), plain(x.data(), x.size(), b.data()));
    ASSERT_TRUE(x.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Out)) == 0);
  }
}
template <typename In>
void expect_same(uint32_t (*fast)(const In*, size_t), uint32_t (*plain)(const In*, size_t)) {
  std::mt19937 random(4);
  for (int round = 0; round < 3000; ++round) {
    const auto x = random_bits<In>(random, random() % 100);
    ASSERT_EQ(fast(x.data(), x.size()), plain(x.data(), x.size()));
  }
}

TEST(Convert, Avx2AndPortableGiveTheSameBits) {
  const ConvertKernels& plain = portable_convert_kernels();
  const ConvertKernels* fast = avx2_convert_kernels();
  if (!fast) GTEST_SKIP() << "this CPU has no AVX2";
  expect_same(fast->f16_magnitude, plain.f16_magnitude);
  expect_same(fast->f32_magnitude, plain.f32_magnitude);
  expect_same(fast->f32_to_f16, plain.f32_to_f16);
  expect_same(fast->bf16_to_f16, plain.bf16_to_f16);
  expect_same(fast->bf16_to_f32, plain.bf16_to_f32);
  expect_same(fast->f16_to_f32, plain.f16_to_f32);
}

TEST(Convert, MagnitudesOrderNumbersInfinityAndNaN) {
  const ConvertKernels& kernels = portable_convert_kernels();
  const f16 largest[] = {{0x7bff}, {0xfbff}}, infinite[] = {{0xfc00}}, nan[] = {{0x7c01}};
  EXPECT_EQ(kernels.f16_magnitude(largest, 2), kLargestF16Magnitude);
  EXPECT_GT(kernels.f16_magnitude(infinite, 1), kLargestF32Magnitude);
  EXPECT_GT(kernels.f16_magnitude(nan, 1), kernels.f16_magnitude(infinite, 1));
  const float beyond[] = {-65504.1f};
  EXPECT_GT(kernels.f32_magnitude(beyond, 1), kLargestF16Magnitude);
  EXPECT_EQ(kernels.f16_magnitude(nullptr, 0), 0u);
}

}  // namespace
}  // namespace quantbench
