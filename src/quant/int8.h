// LLM.int8 (Dettmers et al. 2022) as bitsandbytes stores and computes it: vector-wise int8, threshold 6.0.
#pragma once

#include <span>
#include <vector>

#include "core/parallel.h"
#include "quant/matrix.h"

namespace quantbench {

// absmax[i] = max|w[i, :]|; codes = round-to-nearest-even(w · (127 · (1 / absmax))), in fp32. A zero row has absmax 0
// and codes 0; so has a row with an infinity or a NaN, whose absmax keeps that value: its outputs are NaN.
// w: [n, k]; codes: [n, k]; absmax: [n].
void quantize_int8(std::span<const f16> w, int n, int k, std::span<int8_t> codes, std::span<float> absmax,
                   ThreadPool& pool);

// out[i, j] = codes · absmax[i] / 127, fp32.
void dequantize_int8(const HostInt8& m, std::span<float> out);

// The activations of one linear, quantised: what every backend must reproduce.
struct Int8Activations {
  std::vector<int8_t> codes;         // [rows, k]; outliers are 0
  std::vector<float> absmax;         // [rows], over the non-outlier elements
  std::vector<int> outlier_columns;  // ascending. rows > 1: zeroed in every row. rows == 1: the elements themselves
};
// x: [rows, k], already rounded to fp16. With more than one row a column with one outlier is an outlier for all.
Int8Activations quantize_activations(std::span<const f16> x, int rows, int k, float threshold = kInt8Threshold);

// 1/127² as bitsandbytes writes it, to seven figures.
constexpr float kInt8OutputScale = 6.200012e-05f;
// y before outliers: half(fma((acc · row_absmax) · weight_absmax, 1/127², bias)); acc is the exact int32 sum of codes.
f16 int8_output(int32_t acc, float row_absmax, float weight_absmax, float bias);
// The fp16 weight that an outlier column multiplies: code · absmax / 127.
f16 int8_outlier_weight(int8_t code, float absmax);

// One linear as LLM.int8 defines it, y = x·Wᵀ + b: int32 sums of codes, rounded to fp16 with the bias, then the
// outlier columns' fp32 sum added and rounded again. The specification for every backend; scalar.
// x: [rows, k]; y: [rows, n]; bias: [n] or null, fp16 values.
void int8_linear(const HostInt8& m, const float* bias, std::span<const f16> x, int rows, std::span<f16> y);

}  // namespace quantbench
