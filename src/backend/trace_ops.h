// Runs the ops of a backend and shows the output of each, for finding the first op in which two backends differ.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace quantbench {

struct TracedOp {
  int index = 0;          // of the op since the TraceOps was made
  std::string_view name;  // "qkv", "attend", …
  int rows = 0, cols = 0;
  std::vector<float> output;  // [rows, cols]; of qkv the queries, of next_token the chosen ids, of store_kv nothing
};

// Waits for the device after each op.
class TraceOps final : public Ops {
 public:
  using Sink = std::function<void(const TracedOp&)>;
  TraceOps(Backend& backend, Sink sink) : backend_(backend), sink_(std::move(sink)) {}
  void embed(const Embed& op) override { trace("embed", op, op.x); }
  void qkv(const Qkv& op) override { trace("qkv", op, op.q); }
  void store_kv(const StoreKv& op) override { trace("store_kv", op, {}); }
  void attend(const Attend& op) override { trace("attend", op, op.a); }
  void add_linear(const AddLinear& op) override { trace("add_linear", op, op.x); }
  void gated_up(const GatedUp& op) override { trace("gated_up", op, op.h); }
  void project(const Project& op) override { trace("project", op, op.y); }
  void next_token(const NextToken& op) override {
    trace("next_token", op, {op.rows.token, DType::i32, op.rows.count, 1});
  }

 private:
  void trace(std::string_view name, const Op& op, Tensor output);

  Backend& backend_;
  Sink sink_;
  int index_ = 0;
};

}  // namespace quantbench
