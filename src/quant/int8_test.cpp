#include "quant/int8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>

#include "quant/golden_data.h"

namespace quantbench {
namespace {

using Golden = GoldenInt8;

// Inputs of a linear and where its outputs are: "x17" → "int8.y_x17"; the older file says "x" → "int8.y".
std::string output_name(const GoldenData& data, const std::string& linear, const std::string& input) {
  const std::string name = linear + ".int8.y_" + input;
  return data.has(name) ? name : linear + ".int8.y" + input.substr(1);
}
const char* const kInputs[] = {"x", "x_outliers", "x1", "x1_outliers", "x17", "x17_outliers"};

TEST(Int8, QuantizesWeightsAsBitsandbytes) {
  ThreadPool pool(2);
  for (const std::string& file : golden_files()) {
    const GoldenData data(file);
    for (const std::string& linear : data.linears()) {
      const Golden golden(data, linear);  // throws where more of our codes are not CUDA's than the file names
      const auto w = data.get<f16>(linear + ".w");
      std::vector<int8_t> codes(w.size());
      std::vector<float> absmax(golden.absmax.size());
      quantize_int8(w, golden.n, golden.k, codes, absmax, pool);
      EXPECT_EQ(absmax, golden.absmax) << linear;
      size_t different = 0;
      for (size_t i = 0; i < codes.size(); ++i) different += codes[i] != golden.codes[i];
      EXPECT_EQ(different, golden.ties) << linear;
      // bitsandbytes divides approximately on the GPU, so codes near a tie may be one off.
      EXPECT_LE(different, codes.size() / 10000) << linear;
    }
  }
}

TEST(Int8, QuantizesActivationsExactlyAsBitsandbytes) {
  const GoldenData data("bitsandbytes/bitsandbytes_0.50_rows.safetensors");
  for (const std::string& linear : data.linears()) {
    for (const std::string input : {"x1_outliers", "x17", "x17_outliers"}) {
      const std::string x = linear + "." + input, results = linear + ".int8.";
      const Int8Activations a = quantize_activations(data.get<f16>(x), data.dim(x, 0), data.dim(x, 1));
      EXPECT_EQ(fnv1a(a.codes), data.get<uint64_t>(results + "codes_" + input + ".fnv1a").at(0)) << x;
      EXPECT_EQ(a.absmax, data.get<float>(results + "rowstat_" + input)) << x;
      const auto columns = data.get<int64_t>(results + "outlier_columns_" + input);
      EXPECT_EQ(std::vector<int64_t>(a.outlier_columns.begin(), a.outlier_columns.end()), columns) << x;
      const Golden golden(data, linear);
      const auto sums = data.get<int32_t>(results + "acc_" + input);
      const size_t n = static_cast<size_t>(golden.n), k = static_cast<size_t>(golden.k);
      for (size_t i = 0; i < sums.size(); ++i) {
        int32_t sum = 0;
        for (size_t j = 0; j < k; ++j) sum += a.codes[i / n * k + j] * golden.codes[i % n * k + j];
        ASSERT_EQ(sum, sums[i]) << x << " sum " << i;
      }
    }
  }
}

// Every output of both files, bit for bit: one row and 17, with and without outliers, zero rows, odd sizes.
TEST(Int8, LinearGivesBitsandbytesOutputsExactly) {
  size_t compared = 0;
  for (const std::string& file : golden_files()) {
    const GoldenData data(file);
    for (const std::string& linear : data.linears()) {
      const Golden golden(data, linear);
      for (const std::string input : kInputs) {
        const std::string x = linear + "." + input;
        if (!data.has(x)) continue;
        const int rows = data.dim(x, 0);
        const auto expected = data.get<f16>(output_name(data, linear, input));
        std::vector<f16> y(expected.size());
        int8_linear(golden.view(), golden.bias.data(), data.get<f16>(x), rows, y);
        for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i].bits, expected[i].bits) << x << " output " << i;
        compared += y.size();
      }
    }
  }
  EXPECT_EQ(compared, 1088u + 36u * (64 + 48 + 40 + 33 + 31));
}

// The golden inputs must be able to tell: without a bias, the outlier columns or the rule of many rows, they differ.
TEST(Int8, GoldenOutputsNoticeAMissingBiasAndMissingOutliers) {
  const GoldenData data("bitsandbytes/bitsandbytes_0.50_rows.safetensors");
  for (const std::string& linear : data.linears()) {
    const Golden golden(data, linear);
    const auto x = data.get<f16>(linear + ".x17_outliers");
    const auto expected = data.get<f16>(linear + ".int8.y_x17_outliers");
    const size_t n = static_cast<size_t>(golden.n), k = static_cast<size_t>(golden.k);
    std::vector<f16> y(expected.size());
    int8_linear(golden.view(), nullptr, x, 17, y);
    EXPECT_NE(y, expected) << linear << " without bias";

    // The rows one by one: a column's outlier in another row no longer counts.
    for (size_t row = 0; row < 17; ++row) {
      int8_linear(golden.view(), golden.bias.data(), std::span(x).subspan(row * k, k), 1,
                  std::span(y).subspan(row * n, n));
    }
    EXPECT_NE(y, expected) << linear << " without the rule of more than one row";

    auto cleared = x;
    for (f16& value : cleared) {
      if (std::fabs(to_float(value)) >= kInt8Threshold) value = f16{0};
    }
    int8_linear(golden.view(), golden.bias.data(), cleared, 17, y);
    EXPECT_NE(y, expected) << linear << " without outliers";
  }
}

TEST(Int8, ExactlySixIsAnOutlierAndJustBelowIsNot) {
  const std::vector<f16> x = {to_f16(6.0f), to_f16(-6.0f), to_f16(5.996f), to_f16(1.0f)};
  const Int8Activations a = quantize_activations(x, 1, 4);
  EXPECT_EQ(a.outlier_columns, (std::vector<int>{0, 1}));
  EXPECT_EQ(a.codes, (std::vector<int8_t>{0, 0, 127, 21}));
}

TEST(Int8, RowsThatAreAllOutliersGiveTheBiasAndTheOutliers) {
  const std::vector<int8_t> codes = {127, -127};
  const std::vector<float> absmax = {0.5f};
  const float bias = 0.25f;
  const std::vector<f16> x = {to_f16(8.0f), to_f16(16.0f)};
  std::vector<f16> y(1);
  int8_linear({1, 2, codes, absmax}, &bias, x, 1, y);
  EXPECT_EQ(to_float(y[0]), 0.25f + 0.5f * 8 - 0.5f * 16);
}

TEST(Int8, ARowWithANonFiniteWeightShowsInItsAbsmax) {
  ThreadPool pool(1);
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<f16> w = {to_f16(1.0f), to_f16(2.0f), to_f16(-infinity), to_f16(2.0f), to_f16(NAN), to_f16(2.0f)};
  std::vector<int8_t> codes(6, 1);
  std::vector<float> absmax(3);
  quantize_int8(w, 3, 2, codes, absmax, pool);
  EXPECT_EQ(codes, (std::vector<int8_t>{64, 127, 0, 0, 0, 0}));
  EXPECT_EQ(absmax[1], infinity);
  EXPECT_TRUE(std::isnan(absmax[2]));
}

TEST(Int8, DequantizesToWithinHalfAStep) {
  ThreadPool pool(2);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.05f);
  const int n = 7, k = 4304;
  std::vector<f16> w(size_t{7} * 4304);
  for (f16& value : w) value = to_f16(normal(random));
  std::vector<int8_t> codes(w.size());
  std::vector<float> absmax(n), back(w.size());
  quantize_int8(w, n, k, codes, absmax, pool);
  dequantize_int8({n, k, codes, absmax}, back);
  for (size_t i = 0; i < w.size(); ++i) {
    // Half a step of absmax/127, and rounding in fp32.
    ASSERT_LE(std::fabs(back[i] - to_float(w[i])), absmax[i / k] / 127 * 0.50001f);
  }
}

}  // namespace
}  // namespace quantbench
