// The ops of the reference backend; see ops.h for what each means. Weights are in the canonical row-major layout, the
// cache is [sequence][position][head][head_dim]. Sums run in double and are rounded to fp32 once, so that this backend
// is a yardstick for the others' rounding. Scratch comes from the heap: this backend makes no claim on speed.
#pragma once

#include "backend/ops.h"

namespace quantbench {

class ReferenceOps final : public Ops {
 public:
  void embed(const Embed&) override;
  void qkv(const Qkv&) override;
  void store_kv(const StoreKv& op) override;
  void attend(const Attend&) override;
  void add_linear(const AddLinear&) override;
  void gated_up(const GatedUp&) override;
  void project(const Project&) override;
  void next_token(const NextToken&) override;
};

}  // namespace quantbench
