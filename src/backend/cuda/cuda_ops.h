// The ops on a CUDA device, each as a few kernels in the device's stream.
#pragma once

#include "backend/backend.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/runtime.h"
#include "backend/cuda/wide_products.h"

namespace quantbench::QB_CUDA {

struct WorkspaceShape {
  int rows = 1;         // the most of one call
  int k = 1;            // the largest input of a product
  int normed_k = 1;     // the largest behind a norm, of products that need it in fp32
  int activated = 1;    // the most outputs of an activation
  int kv_cols = 0;      // outputs of a key or value projection that are rotated and stored by a kernel of their own
  int stored_cols = 0;  // of those that an encoder's outputs are
  bool int8 = false;    // whether any product is LLM.int8
  int attend_rows = 0;  // of a step's attention, where they are few enough to share out their positions
  int token_rows = 0;   // of a step's next token
  int q_heads = 0, head_dim = 0;
  WideShape wide;
};
// beyond_batches: whether there are products of more rows than kMostBatchRows. tensor: as of wide_shape().
WorkspaceShape workspace_shape(const Tape& step, int max_rows, bool beyond_batches, size_t cache_bytes, bool tensor);

// Pointers into one buffer. x32, x16, keys and values are of the products that stream their weights and lie where
// others have what they make ready (`wide`): CudaOps::make_input() has those forget it.
struct Workspace {
  float* x32 = nullptr;                                    // [rows, normed_k]
  uint16_t* x16 = nullptr;                                 // [rows, padded_k(k)]
  int8_t* codes = nullptr;                                 // [rows, padded_k(k)]
  float* absmax = nullptr;                                 // [rows]
  uint8_t* marks = nullptr;                                // [padded_k(k)]
  int32_t* outliers = nullptr;                             // [1 + k]
  uint16_t* ready_row = nullptr;                           // the output of a product of one row
  float *keys = nullptr, *values = nullptr;                // [rows, kv_cols] before they are rotated and stored
  float *stored_keys = nullptr, *stored_values = nullptr;  // [rows, stored_cols]
  // For so many rows at the most (kernels.h); counters are zero between calls.
  int attend_rows = 0, token_rows = 0;
  float *parts = nullptr, *scores = nullptr;
  int32_t *attend_arrived = nullptr, *ids = nullptr, *token_arrived = nullptr;
  uint64_t* cut_sums = nullptr;
  CutState* cut_state = nullptr;
  uint32_t* cut_most = nullptr;
  WideWorkspace wide;
};
size_t workspace_bytes(const WorkspaceShape& shape);
Workspace cut_workspace(const WorkspaceShape& shape, std::byte* buffer);

class CudaOps final : public Ops {
 public:
  CudaOps(Runtime& runtime, const Tables& tables) : runtime_(runtime), tables_(tables), wide_(runtime, tables) {}
  void use(const Workspace& workspace) {
    workspace_ = workspace;
    wide_.use(workspace.wide);
  }
  WideProducts& wide() { return wide_; }
  // Nothing that was made ready for a product to come is as it was.
  void forget();

  void embed(const Embed&) override;
  void qkv(const Qkv&) override;
  void store_kv(const StoreKv&) override;
  void attend(const Attend&) override;
  void add_linear(const AddLinear&) override;
  void gated_up(const GatedUp&) override;
  void project(const Project&) override;
  void next_token(const NextToken&) override;

 private:
  struct Output {
    const Linear* w;
    float* y;
  };
  // Jobs of one op, which may differ in format.
  void multiply(Tensor x, const Norm* norm, std::initializer_list<Output> outputs, Finish finish, Act act,
                const Qkv* qkv = nullptr);
  // The same by the library; false, and nothing done, where it cannot.
  bool multiply_wide(Tensor x, const Norm* norm, std::initializer_list<Output> outputs, Finish finish, Act act,
                     const Qkv* qkv = nullptr);
  Input make_input(Tensor x, const Norm* norm, bool int8, bool dense);
  void wrote(Tensor y);
  // Whether one row is made ready by the blocks that multiply it, so that the op needs no kernel before that.
  bool makes_own_rows(Tensor x, const Weight& weight) const;

  Runtime& runtime_;
  Tables tables_;
  Workspace workspace_;
  WideProducts wide_;
  const float* ready_of_ = nullptr;  // the one row that workspace_.ready_row has in fp16
};

}  // namespace quantbench::QB_CUDA
