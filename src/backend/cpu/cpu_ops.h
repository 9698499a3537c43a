// The ops on the CPU: how each is cut into parallel work. See ops.h for what they mean.
//
// The cache of one layer is laid out for one head at a time: keys [sequence][head][tile of 16 positions][head_dim][16]
// (the last tile has as many positions as are left), values [sequence][head][position][head_dim].
#pragma once

#include "backend/cpu/linears.h"
#include "backend/ops.h"

namespace quantbench::cpu {

class CpuOps final : public Ops {
 public:
  CpuOps(const Kernels& kernels, ThreadPool& pool, bool fetches)
      : kernels_(kernels), pool_(pool), linears_(kernels, pool, fetches) {}
  void use(const Workspace& workspace) { linears_.use(workspace); }

  void embed(const Embed&) override;
  void qkv(const Qkv&) override;
  void store_kv(const StoreKv&) override;
  void attend(const Attend&) override;
  void add_linear(const AddLinear&) override;
  void gated_up(const GatedUp&) override;
  void project(const Project&) override;
  void next_token(const NextToken&) override;

 private:
  void store_row(const KvLayer& kv, const Rows& rows, int r);
  int32_t best_token(const float* logits, int vocab, const Sampling& sampling, int32_t position);
  uint32_t least_key(const float* logits, int vocab, const Sampling& sampling);
  template <typename Rank, typename Weight>
  uint32_t key_at_rank(const float* logits, int vocab, const Rank& rank_of, const Weight& weight_of);

  const Kernels& kernels_;
  ThreadPool& pool_;
  Linears linears_;
};

}  // namespace quantbench::cpu
