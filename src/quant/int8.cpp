#include "quant/int8.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdlib>

#include "quant/kernels.h"

namespace quantbench {
namespace {

constexpr size_t kGrainElements = size_t{256} * 1024;  // of one chunk of work: tens of microseconds
constexpr uint16_t kF16Infinity = 0x7c00;

// The factor of a row's codes. bitsandbytes divides with the GPU's approximate division; of the IEEE expressions this
// one meets its codes most often (every activation of the golden files, all but 3 in 10⁵ weights).
float code_scale(float absmax) { return 127.0f * (1.0f / absmax); }

}  // namespace

void quantize_int8(std::span<const f16> w, int n, int k, std::span<int8_t> codes, std::span<float> absmax,
                   ThreadPool& pool) {
  const size_t rows = static_cast<size_t>(n), cols = static_cast<size_t>(k);
  assert(w.size() == rows * cols && codes.size() == rows * cols && absmax.size() == rows);
  const QuantKernels& kernels = quant_kernels();
  const size_t grain = std::max<size_t>(1, kGrainElements / std::max<size_t>(cols, 1));
  pool.for_chunks(rows, grain, [&](size_t begin, size_t end, int) {
    for (size_t row = begin; row < end; ++row) {
      const f16* x = w.data() + row * cols;
      int8_t* out = codes.data() + row * cols;
      const uint16_t magnitude = kernels.max_magnitude(x, cols);
      absmax[row] = to_float(f16{magnitude});
      if (magnitude == 0 || magnitude >= kF16Infinity) {
        std::fill(out, out + cols, int8_t{0});
      } else {
        kernels.int8_codes(x, cols, code_scale(absmax[row]), out);
      }
    }
  });
}

void dequantize_int8(const HostInt8& m, std::span<float> out) {
  const size_t cols = static_cast<size_t>(m.k);
  assert(out.size() == static_cast<size_t>(m.n) * cols);
  for (size_t row = 0; row < static_cast<size_t>(m.n); ++row) {
    for (size_t i = row * cols; i < (row + 1) * cols; ++i) {
      out[i] = static_cast<float>(m.codes[i]) * m.absmax[row] / 127.0f;
    }
  }
}

Int8Activations quantize_activations(std::span<const f16> x, int rows, int k, float threshold) {
  const size_t cols = static_cast<size_t>(k);
  assert(x.size() == static_cast<size_t>(rows) * cols);
  Int8Activations result;
  result.codes.assign(x.size(), 0);
  result.absmax.assign(static_cast<size_t>(rows), 0.0f);
  std::vector<bool> is_outlier(cols, false);
  for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
    float& absmax = result.absmax[row];
    for (size_t col = 0; col < cols; ++col) {
      const float magnitude = std::fabs(to_float(x[row * cols + col]));
      if (magnitude >= threshold) {
        is_outlier[col] = true;
      } else {
        absmax = std::max(absmax, magnitude);
      }
    }
  }
  for (size_t col = 0; col < cols; ++col) {
    if (is_outlier[col]) result.outlier_columns.push_back(static_cast<int>(col));
  }
  for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
    if (result.absmax[row] == 0) continue;
    const float scale = code_scale(result.absmax[row]);
    for (size_t col = 0; col < cols; ++col) {
      if (is_outlier[col]) continue;
      result.codes[row * cols + col] = static_cast<int8_t>(std::lrint(to_float(x[row * cols + col]) * scale));
    }
  }
  return result;
}

f16 int8_output(int32_t acc, float row_absmax, float weight_absmax, float bias) {
  return to_f16(std::fma((static_cast<float>(acc) * row_absmax) * weight_absmax, kInt8OutputScale, bias));
}

f16 int8_outlier_weight(int8_t code, float absmax) {
  constexpr float kInverse127 = 7.874015718698502e-3f;
  return to_f16((static_cast<float>(code) * absmax) * kInverse127);
}

void int8_linear(const HostInt8& m, const float* bias, std::span<const f16> x, int rows, std::span<f16> y) {
  const size_t n = static_cast<size_t>(m.n), k = static_cast<size_t>(m.k);
  assert(x.size() == static_cast<size_t>(rows) * k && y.size() == static_cast<size_t>(rows) * n);
  const Int8Activations a = quantize_activations(x, rows, m.k);
  for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
    for (size_t i = 0; i < n; ++i) {
      const int8_t* codes = m.codes.data() + i * k;
      int32_t acc = 0;
      for (size_t j = 0; j < k; ++j) acc += int32_t{a.codes[row * k + j]} * codes[j];
      f16 out = int8_output(acc, a.absmax[row], m.absmax[i], bias ? bias[i] : 0.0f);
      if (!a.outlier_columns.empty()) {
        float outliers = 0;
        for (const int col : a.outlier_columns) {
          const size_t j = static_cast<size_t>(col);
          outliers += to_float(x[row * k + j]) * to_float(int8_outlier_weight(codes[j], m.absmax[i]));
        }
        out = to_f16(to_float(out) + outliers);
      }
      y[row * n + i] = out;
    }
  }
}

}  // namespace quantbench
