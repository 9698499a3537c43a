// Matrix products of many rows, by a library: cuBLASLt on a GPU, plain loops on the emulator.
#pragma once

#include <compare>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda/runtime.h"

namespace quantbench::QB_CUDA {

// y (=, +=) x·Wᵀ (+ bias): fp16 × fp16 → fp32 summed in fp32, or int8 × int8 → int32, exact.
struct GemmShape {
  bool int8 = false;
  int rows = 0, n = 0, k = 0;
  int x_stride = 0, y_stride = 0;    // numbers from row to row; those of W [n, k] lie together
  bool add = false, biased = false;  // fp16 only

  // clang-tidy 14 sees a null pointer in it. NOLINTNEXTLINE(modernize-use-nullptr)
  auto operator<=>(const GemmShape&) const = default;
};
struct GemmCall {
  GemmShape shape;
  const void* w = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
  const float* bias = nullptr;  // [n], if biased
};

class Gemm {
 public:
  virtual ~Gemm() = default;
  virtual void use(void* workspace, size_t bytes) = 0;
  // Whether it can do products of this shape. Of a shape that was not tuned it takes what the library proposes.
  virtual bool takes(const GemmShape& shape) = 0;
  // Chooses an algorithm for each shape, by timing the library's proposals with these operands, one after another,
  // where no earlier choice is known (gemm_choice.h). y: overwritten. For records: "cublaslt 13.1.0 9f3c2a10", the
  // library and a hash of the algorithms that these shapes now have.
  virtual std::string tune(const std::map<GemmShape, std::vector<GemmCall>>& calls) = 0;
  virtual void run(const GemmCall& call) = 0;  // of a shape that it takes; in order with the kernels
};

constexpr size_t kGemmWorkspaceBytes = size_t{8} << 20, kGemmAlignment = 256;  // of its workspace; of operands: 16

std::unique_ptr<Gemm> open_gemm(Runtime& runtime);  // null where there is no library
MatrixLibrary find_gemm_library();                  // what open_gemm would take; opens it, and closes it again

}  // namespace quantbench::QB_CUDA
