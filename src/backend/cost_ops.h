// Counts what a step must move and compute, without running it: the roofline of a token.
#pragma once

#include <array>
#include <string_view>

#include "backend/backend.h"

namespace quantbench {

// What a row of the count is about.
enum class CostOf : uint8_t { embedding, qkv, attention, output_linear, mlp, head };
constexpr int kCosts = 6;
std::string_view name_of(CostOf part);

struct Cost {
  size_t weight_bytes = 0;  // codes and scales, norms and biases: each once a call
  size_t kv_bytes = 0;      // cache read and written
  double flops = 0;         // a multiplication and an addition are two; norms and activations are left out

  size_t bytes() const { return weight_bytes + kv_bytes; }
  void add(const Cost& other);
};

struct CostTable {
  std::array<Cost, kCosts> parts;
  Cost& operator[](CostOf part) { return parts[static_cast<size_t>(part)]; }
  const Cost& operator[](CostOf part) const { return parts[static_cast<size_t>(part)]; }
  Cost total() const;
};

// The ops do nothing but count. `context`: cache positions that one row attends to; decoding one token after n others
// is context n + 1.
class CostOps final : public Ops {
 public:
  explicit CostOps(int context) : context_(context) {}
  void embed(const Embed&) override;
  void qkv(const Qkv&) override;
  void store_kv(const StoreKv&) override;
  void attend(const Attend&) override;
  void add_linear(const AddLinear&) override;
  void gated_up(const GatedUp&) override;
  void project(const Project&) override;
  void next_token(const NextToken&) override;
  const CostTable& table() const { return table_; }

 private:
  int context_;
  CostTable table_;
  Cost last_project_;  // becomes the head's where next_token follows
};

// Of a recorded step.
CostTable cost_of(const Tape& step, int context);

}  // namespace quantbench
