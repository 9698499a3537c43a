// flop/s of a product of the sizes of a prefill in fp32, to stand beside ours; without OpenBLAS there is none.
#pragma once

#include <cstdint>
#include <vector>

#include "core/os.h"

#if defined(QB_OPENBLAS)
#include <cblas.h>
#endif

namespace quantbench {

class Sgemm {
 public:
#if defined(QB_OPENBLAS)
  static constexpr bool kIsThere = true;
#else
  static constexpr bool kIsThere = false;
#endif
  explicit Sgemm(int threads) {
#if defined(QB_OPENBLAS)
    openblas_set_num_threads(threads);
    for (size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(i % 251) / 251 - 0.5f;
    for (size_t i = 0; i < w_.size(); ++i) w_[i] = static_cast<float>(i % 241) / 241 - 0.5f;
    measure();
#else
    (void)threads;
#endif
  }
  double measure() {
#if defined(QB_OPENBLAS)
    const int64_t start_ns = os::steady_now_ns();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, kRows, kN, kK, 1, x_.data(), kK, w_.data(), kK, 0, y_.data(),
                kN);
    return 2.0 * kRows * kN * kK * 1e9 / static_cast<double>(os::steady_now_ns() - start_ns);
#else
    return 0;
#endif
  }

 private:
#if defined(QB_OPENBLAS)
  static constexpr int kRows = 512, kN = 4096, kK = 2048;
  std::vector<float> x_ = std::vector<float>(size_t{kRows} * kK), w_ = std::vector<float>(size_t{kN} * kK),
                     y_ = std::vector<float>(size_t{kRows} * kN);
#endif
};

}  // namespace quantbench
