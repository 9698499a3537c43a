#include "quant/nf4.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "quant/golden_data.h"

namespace quantbench {
namespace {

using Golden = GoldenNf4;

// Calls body(data, linear, golden) for each linear of both files.
template <typename Body>
void for_each_golden(Body body) {
  for (const std::string& file : golden_files()) {
    const GoldenData data(file);
    for (const std::string& linear : data.linears()) body(data, linear, Golden(data, linear));
  }
}

TEST(Nf4, CodebooksAreBitsandbytes) {
  for_each_golden([](const GoldenData& data, const std::string& linear, const Golden&) {
    const auto nested = data.get<float>(linear + ".nf4.weight.nested_quant_map");
    EXPECT_TRUE(std::equal(nested.begin(), nested.end(), nested_code().begin(), nested_code().end()));
    const auto code = data.get<float>(linear + ".nf4.weight.quant_map");
    EXPECT_TRUE(std::equal(code.begin(), code.end(), kNf4Code.begin(), kNf4Code.end()));
  });
  EXPECT_EQ(nested_code()[127], 0.0f);
  EXPECT_EQ(nested_code()[255], 1.0f);
}

TEST(Nf4, QuantizesAsBitsandbytes) {
  ThreadPool pool(2);
  for_each_golden([&](const GoldenData&, const std::string& linear, const Golden& golden) {
    Nf4Weights ours;
    quantize_nf4(golden.w, golden.n, golden.k, &ours, pool);
    EXPECT_EQ(ours.codes, golden.codes) << linear;  // which are bitsandbytes', by their hash
    EXPECT_EQ(ours.offset, nf4_offset(golden.w, pool)) << linear;
    // A mean in PyTorch's own order of summing; ours is of the exact sum.
    const float ulp = std::nextafter(golden.offset, 1.0f) - golden.offset;
    EXPECT_LE(std::fabs(ours.offset - golden.offset), 2 * ulp) << linear;
    ASSERT_EQ(ours.nested_absmax.size(), golden.nested_absmax.size());
    for (size_t i = 0; i < golden.nested_absmax.size(); ++i) {
      EXPECT_NEAR(ours.nested_absmax[i], golden.nested_absmax[i], golden.nested_absmax[i] * 1e-6f) << linear;
    }
    ASSERT_EQ(ours.absmax8.size(), golden.absmax8.size());
    size_t different = 0;
    for (size_t i = 0; i < golden.absmax8.size(); ++i) {
      different += ours.absmax8[i] != golden.absmax8[i];
      ASSERT_LE(std::abs(ours.absmax8[i] - golden.absmax8[i]), 1) << linear;
    }
    EXPECT_LE(different, golden.absmax8.size() / 1000) << linear;
    EXPECT_TRUE(ours.absmax.empty());
  });
}

TEST(Nf4, AbsmaxCodesAreEqualGivenTheSameOffset) {
  ThreadPool pool(2);
  for_each_golden([&](const GoldenData&, const std::string& linear, const Golden& golden) {
    Nf4Weights plain;
    quantize_nf4(golden.w, golden.n, golden.k, &plain, pool, false);
    std::vector<uint8_t> absmax8(golden.absmax8.size());
    std::vector<float> nested_absmax(golden.nested_absmax.size());
    quantize_absmax(plain.absmax, golden.offset, absmax8, nested_absmax, pool);
    EXPECT_EQ(absmax8, golden.absmax8) << linear;
    EXPECT_EQ(nested_absmax, golden.nested_absmax) << linear;
  });
}

TEST(Nf4, WithoutDoubleQuantisationKeepsThePlainAbsmax) {
  ThreadPool pool(2);
  const GoldenData data("bitsandbytes/bitsandbytes_0.50_rows.safetensors");
  for (const std::string& linear : data.linears()) {
    const Golden golden(data, linear);
    Nf4Weights ours;
    quantize_nf4(golden.w, golden.n, golden.k, &ours, pool, false);
    EXPECT_EQ(ours.codes, golden.codes) << linear;  // the same with and without double quantisation
    EXPECT_EQ(ours.absmax, data.get<float>(linear + ".nf4_plain.absmax")) << linear;
    EXPECT_TRUE(ours.absmax8.empty() && ours.nested_absmax.empty());
    EXPECT_EQ(block_scale(ours.view(), 3), ours.absmax[3]);
  }
}

TEST(Nf4, DequantizesExactlyAsBitsandbytes) {
  int seen = 0;
  for_each_golden([&](const GoldenData& data, const std::string& linear, const Golden& golden) {
    ++seen;
    std::vector<float> out(golden.w.size());
    dequantize_nf4(golden.view(), out);
    std::vector<f16> rounded;
    for (const float value : out) rounded.push_back(to_f16(value));
    EXPECT_EQ(fnv1a(rounded), data.get<uint64_t>(linear + ".nf4.dequant.fnv1a").at(0)) << linear;
  });
  EXPECT_EQ(seen, 8);
}

TEST(Nf4, DecodesEveryCodeExactly) {
  std::vector<uint8_t> codes = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};
  const std::vector<float> absmax = {2.0f};
  std::vector<float> out(16);
  dequantize_nf4({1, 16, codes, {}, {}, 0, absmax}, out);
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(out[i], 2.0f * kNf4Code[i]);
}

TEST(Nf4, AnAllZeroBlockHasCodesZeroAndTheCodebookKeepsItsValues) {
  ThreadPool pool(1);
  std::vector<f16> w(128, f16{0});
  for (size_t i = 0; i < 16; ++i) w[64 + i] = to_f16(kNf4Code[i]);
  Nf4Weights ours;
  quantize_nf4(w, 2, 64, &ours, pool, false);
  EXPECT_TRUE(std::all_of(ours.codes.begin(), ours.codes.begin() + 32, [](uint8_t code) { return code == 0; }));
  for (uint8_t i = 0; i < 8; ++i) EXPECT_EQ(ours.codes[32u + i], (2 * i) << 4 | (2 * i + 1));
  EXPECT_EQ(ours.absmax[0], 0.0f);
}

TEST(Nf4, AScratchThatWasLargerGivesTheSameBytes) {
  ThreadPool pool(2);
  const GoldenData data("bitsandbytes/bitsandbytes_0.50_rows.safetensors");
  const Golden large(data, "n40k4304"), small(data, "n31k65");
  Nf4Weights fresh, reused;
  quantize_nf4(small.w, small.n, small.k, &fresh, pool);
  quantize_nf4(large.w, large.n, large.k, &reused, pool);
  quantize_nf4(small.w, small.n, small.k, &reused, pool);
  EXPECT_EQ(reused.codes, fresh.codes);
  EXPECT_EQ(reused.absmax8, fresh.absmax8);
  EXPECT_EQ(reused.nested_absmax, fresh.nested_absmax);
  EXPECT_EQ(reused.offset, fresh.offset);
}

}  // namespace
}  // namespace quantbench
