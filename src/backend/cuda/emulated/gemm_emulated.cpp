// Gemm on the host: what the library's products mean.
#include <cassert>

#include "backend/cuda/gemm.h"
#include "core/half.h"

namespace quantbench::QB_CUDA {
namespace {

template <typename Number>
std::vector<float> row_of(const void* from, size_t start, int k) {
  std::vector<float> row(static_cast<size_t>(k));
  const auto* const numbers = static_cast<const Number*>(from) + start;
  for (size_t i = 0; i < row.size(); ++i) row[i] = to_float(numbers[i]);
  return row;
}

class PlainGemm final : public Gemm {
 public:
  void use(void*, size_t) override {}
  bool takes(const GemmShape&) override { return true; }
  std::string tune(const std::map<GemmShape, std::vector<GemmCall>>&) override { return "plain loops"; }
  void run(const GemmCall& call) override {
    const GemmShape& s = call.shape;
    const size_t k = static_cast<size_t>(s.k);
    if (s.int8) {
      assert(!s.add && !s.biased);
      for (int row = 0; row < s.rows; ++row) {
        const auto* const x = static_cast<const int8_t*>(call.x) + static_cast<size_t>(row) * s.x_stride;
        for (int n = 0; n < s.n; ++n) {
          const auto* const w = static_cast<const int8_t*>(call.w) + n * k;
          int32_t sum = 0;
          for (size_t i = 0; i < k; ++i) sum += int32_t{x[i]} * w[i];
          static_cast<int32_t*>(call.y)[static_cast<size_t>(row) * s.y_stride + n] = sum;
        }
      }
      return;
    }
    std::vector<std::vector<float>> rows;
    for (int row = 0; row < s.rows; ++row) {
      rows.push_back(row_of<f16>(call.x, static_cast<size_t>(row) * s.x_stride, s.k));
    }
    for (int n = 0; n < s.n; ++n) {
      const std::vector<float> w = row_of<f16>(call.w, n * k, s.k);
      for (int row = 0; row < s.rows; ++row) {
        float sum = 0;
        for (size_t i = 0; i < k; ++i) sum += rows[static_cast<size_t>(row)][i] * w[i];
        if (s.biased) sum += call.bias[n];
        float& y = static_cast<float*>(call.y)[static_cast<size_t>(row) * s.y_stride + n];
        y = s.add ? y + sum : sum;
      }
    }
  }
};

}  // namespace

std::unique_ptr<Gemm> open_gemm(Runtime&) { return std::make_unique<PlainGemm>(); }
MatrixLibrary find_gemm_library() { return {.version = "0.0.0", .path = "plain loops"}; }

}  // namespace quantbench::QB_CUDA
