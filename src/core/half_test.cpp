#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace quantbench {
namespace {

// The value by definition, from the fields.
double value_by_definition(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

TEST(Half, EveryFiniteValueConvertsExactlyAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const f16 h{static_cast<uint16_t>(bits)};
    if (((bits >> 10) & 31) == 31) continue;
    ASSERT_EQ(static_cast<double>(to_float(h)), value_by_definition(h.bits)) << bits;
    ASSERT_EQ(std::signbit(to_float(h)), (bits & 0x8000) != 0);
    ASSERT_EQ(to_f16(to_float(h)).bits, bits);
  }
}

TEST(Half, MidpointsRoundToEvenAndTheirNeighboursToTheNearest) {
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const double low = value_by_definition(bits), high = value_by_definition(static_cast<uint16_t>(bits + 1));
    const float middle = static_cast<float>((low + high) / 2);  // exact: one more bit than f16 has
    const uint16_t even = bits & 1 ? static_cast<uint16_t>(bits + 1) : bits;
    ASSERT_EQ(to_f16(middle).bits, even);
    ASSERT_EQ(to_f16(-middle).bits, even | 0x8000);
    ASSERT_EQ(to_f16(std::nextafter(middle, 0.0f)).bits, bits);
    ASSERT_EQ(to_f16(std::nextafter(middle, 1e9f)).bits, bits + 1);
  }
}

TEST(Half, OverflowBecomesInfinityAndNanStaysNan) {
  EXPECT_EQ(to_f16(65504.0f).bits, 0x7bff);
  EXPECT_EQ(to_f16(65519.99f).bits, 0x7bff);
  EXPECT_EQ(to_f16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(to_f16(-1e30f).bits, 0xfc00);
  EXPECT_TRUE(std::isinf(to_float(f16{0x7c00})));
  EXPECT_TRUE(std::isnan(to_float(to_f16(std::nanf("")))));
}

TEST(Half, Bf16RoundsToNearestEven) {
  EXPECT_EQ(to_bf16(1.0f).bits, 0x3f80);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // tie to even
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::nanf("")))));
}

}  // namespace
}  // namespace quantbench
