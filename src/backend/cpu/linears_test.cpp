// Products of so many rows that they are made ready a part at a time.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/workspace.h"
#include "quant/nf4.h"

namespace quantbench::cpu {
namespace {

constexpr int kRows = 293, kK = 16384, kN = 24;  // two parts of rows, of which the last is short

float number(size_t i) { return static_cast<float>(static_cast<int>(i * 2654435761u % 2001) - 1000) / 1000; }

TEST(Linears, ManyRowsInPartsAreWhatTheyAreAlone) {
  static_assert(size_t{kRows} * kK > kMostDenseFloats);
  const auto backend = make_backend("cpu", {.threads = 2});
  std::vector<f16> values(size_t{kN} * kK);
  for (size_t i = 0; i < values.size(); ++i) values[i] = to_f16(number(i));
  Nf4Weights nf4;
  quantize_nf4(values, kN, kK, &nf4, backend->host_pool());
  const HostF16 half{kN, kK, [&](int first, int count, f16* out) {
                       std::copy_n(values.begin() + ptrdiff_t{first} * kK, ptrdiff_t{count} * kK, out);
                     }};
  for (const HostMatrix& host : {HostMatrix{half}, HostMatrix{nf4.view()}}) {
    const Linear linear{backend->pack(host, Role::linear, {}), nullptr};
    std::vector<float> ones(kK, 1.0f);
    const Norm rms{ones.data(), nullptr, 1e-5f, false};
    std::vector<float> x(size_t{kRows} * kK);
    for (size_t i = 0; i < x.size(); ++i) x[i] = number(i + 7);
    for (const Norm* of : {static_cast<const Norm*>(nullptr), &rms}) {
      std::vector<float> together(size_t{kRows} * kN), alone(together.size());
      const Tensor in{x.data(), DType::f32, kRows, kK}, all{together.data(), DType::f32, kRows, kN},
          parts{alone.data(), DType::f32, kRows, kN};
      Tape step;
      step.emplace_back(Project{all, in, of, &linear});
      const Plan plan = backend->plan(step, kRows);
      EXPECT_LT(plan.predicted[Use::workspace], x.size() * sizeof(float)) << "less than all rows";
      const auto program = backend->record(plan);
      program->run();
      constexpr int kAtOnce = 16;
      for (int first = 0; first < kRows; first += kAtOnce) {
        const int count = std::min(kAtOnce, kRows - first);
        if (count <= kFewRows) break;  // another kernel, another order of sums
        backend->ops().project({parts.slice(first, count), in.slice(first, count), of, &linear});
        for (size_t i = static_cast<size_t>(first) * kN; i < static_cast<size_t>(first + count) * kN; ++i) {
          ASSERT_EQ(together[i], alone[i]) << i;
        }
      }
    }
  }
}

// Threads take weight rows as they come: a sum may not depend on which rows are taken together.
TEST(Linears, FewRowsAreTheSameForAnyNumberOfThreads) {
  for (const auto& [n, k] : {std::pair{301, 768}, {143, 2056}, {77, 16384}}) {
    std::vector<f16> half(static_cast<size_t>(n) * static_cast<size_t>(k));
    for (size_t i = 0; i < half.size(); ++i) half[i] = to_f16(number(i));
    const HostF16 halves{n, k, [&, width = k](int first, int count, f16* out) {
                           std::copy_n(half.begin() + ptrdiff_t{first} * width, ptrdiff_t{count} * width, out);
                         }};
    const HostF32 floats{n, k, [&, width = k](int first, int count, float* out) {
                           for (ptrdiff_t i = 0; i < ptrdiff_t{count} * width; ++i)
                             out[i] = number(static_cast<size_t>(ptrdiff_t{first} * width + i));
                         }};
    for (const HostMatrix& host : {HostMatrix{halves}, HostMatrix{floats}}) {
      for (int rows = 1; rows <= kFewRows; ++rows) {
        std::vector<float> x(static_cast<size_t>(rows * k)), first;
        for (size_t i = 0; i < x.size(); ++i) x[i] = number(i + 3);
        for (const int threads : {1, 2, 3, 5}) {
          const auto backend = make_backend("cpu", {.threads = threads});
          const Linear linear{backend->pack(host, Role::linear, {}), nullptr};
          std::vector<float> y(static_cast<size_t>(rows * n));
          Tape step;
          step.emplace_back(
              Project{{y.data(), DType::f32, rows, n}, {x.data(), DType::f32, rows, k}, nullptr, &linear});
          backend->record(backend->plan(step, rows))->run();
          if (first.empty()) first = y;
          EXPECT_EQ(y, first) << n << " x " << k << ", " << rows << " rows, " << threads << " threads";
        }
      }
    }
  }
}

}  // namespace
}  // namespace quantbench::cpu
