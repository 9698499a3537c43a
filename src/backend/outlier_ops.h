// Counts which columns of its inputs LLM.int8 takes the outlier path for, while the ops of a backend run one by one.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "backend/step_parts.h"

namespace quantbench {

struct OutlierCount {
  int64_t columns = 0;   // of the inputs of int8 linears; linears that share an input (q, k and v) count it once
  int64_t outliers = 0;  // those of them in which some row of the call reaches the threshold
  bool operator==(const OutlierCount&) const = default;
};

// Fetches the input of each op that has an int8 linear, normalises it on the host as the op's norm says, in double,
// rounds it to fp16 and compares it with kInt8Threshold; then runs the op. Waits for the device at each.
class OutlierOps final : public Ops {
 public:
  explicit OutlierOps(Backend& backend) : backend_(backend) {}
  void embed(const Embed& op) override { backend_.ops().embed(op); }
  void qkv(const Qkv& op) override;
  void store_kv(const StoreKv& op) override;
  void attend(const Attend& op) override { backend_.ops().attend(op); }
  void add_linear(const AddLinear& op) override;
  void gated_up(const GatedUp& op) override;
  void project(const Project& op) override;
  void next_token(const NextToken& op) override { backend_.ops().next_token(op); }
  const ByPart<OutlierCount>& counts() const { return counts_; }

 private:
  void count(StepPart part, Tensor x, const Norm* norm, std::initializer_list<const Linear*> linears);

  Backend& backend_;
  ByPart<OutlierCount> counts_;
};

}  // namespace quantbench
