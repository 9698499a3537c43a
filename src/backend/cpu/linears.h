// The products of an op: brings the input into the form that the kernels want, cuts the outputs into pieces of work,
// and finishes each piece (bias, activation, gate, residual) while it is in the cache.
#pragma once

#include <span>

#include "backend/cpu/workspace.h"
#include "backend/ops.h"
#include "core/parallel.h"

namespace quantbench::cpu {

// What becomes of the outputs n·Wᵀ + b of one weight.
struct Job {
  enum class Finish : uint8_t {
    store,  // y = act(n·Wᵀ + b)
    add,    // y += n·Wᵀ + b
    gate,   // y = act(n·Gᵀ + bg) ∘ (n·Wᵀ + b)
  };
  const Linear* w = nullptr;
  const Linear* gate = nullptr;  // Finish::gate only; n, k and format as w
  float* y = nullptr;            // [rows, n]
  Finish finish = Finish::store;
  Act act = Act::none;
};

class Linears {
 public:
  Linears(const Kernels& kernels, ThreadPool& pool, bool fetches) : kernels_(kernels), pool_(pool), fetches_(fetches) {}
  void use(const Workspace& workspace) { workspace_ = workspace; }
  const Workspace& workspace() const { return workspace_; }

  // All jobs on one input, norm(x) or x; in one parallel section for few rows. x: [rows, k], rows at most the
  // workspace's; y may be x only with Finish::add and no norm on other rows' values.
  void run(Tensor x, const Norm* norm, std::span<const Job> jobs);

 private:
  // The input as kernels take it; which members count depends on rows and format.
  struct Input {
    int rows = 0, k = 0;
    Nf4Rows fp32;  // few rows: as they are, and in int16 where an nf4 weight wants that
    const float* panels = nullptr;
    Int8Rows few;
    Int8Panels many;
  };
  void run_group(Tensor x, const Norm* norm, std::span<const Job> jobs, bool int8);
  Input few_rows(Tensor x, const Norm* norm, bool int8, bool nf4);
  Input many_rows(Tensor x, const Norm* norm);
  Input many_rows_int8(Tensor x, const Norm* norm);
  int list_outliers(int masks, int k);
  void run_piece(const Input& in, const Job& job, int first, int last, int thread);
  void multiply(float* y, size_t ldy, const Input& in, const Linear& w, int first, int last, int row, int rows,
                float* scratch) const;

  const Kernels& kernels_;
  ThreadPool& pool_;
  const bool fetches_;  // as kernels take it
  Workspace workspace_;
};

// The packed nf4 weight as kernels take it.
Nf4Weight view(const Nf4Matrix& m);
Activation view(Act act);

}  // namespace quantbench::cpu
