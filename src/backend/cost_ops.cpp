#include "backend/cost_ops.h"

namespace quantbench {
namespace {

size_t norm_bytes(const Norm* norm, int d) {
  return norm ? static_cast<size_t>(d) * sizeof(float) * (norm->centered ? 2 : 1) : 0;
}

Cost linear_cost(const Linear& l, int rows) {
  const auto* nf4 = std::get_if<Nf4Matrix>(&l.weight);
  const int n = rows_of(l.weight), k = cols_of(l.weight);
  const size_t bias = l.biased ? static_cast<size_t>(n) * sizeof(float) : 0;
  return {.weight_bytes = format_bytes(format_of(l.weight), n, k, !nf4 || nf4->double_quantized).total() + bias,
          .flops = 2.0 * rows * n * k};
}

}  // namespace

std::string_view name_of(CostOf part) {
  switch (part) {
    case CostOf::embedding: return "embedding";
    case CostOf::qkv: return "qkv";
    case CostOf::attention: return "attention";
    case CostOf::output_linear: return "output_linear";
    case CostOf::mlp: return "mlp";
    case CostOf::head: return "head";
  }
  return "?";
}

void Cost::add(const Cost& other) {
  weight_bytes += other.weight_bytes;
  kv_bytes += other.kv_bytes;
  flops += other.flops;
}

Cost CostTable::total() const {
  Cost sum;
  for (const Cost& part : parts) sum.add(part);
  return sum;
}

void CostOps::embed(const Embed& op) {
  table_[CostOf::embedding].add({.weight_bytes = static_cast<size_t>(op.x.rows) * cols_of(*op.table) * sizeof(f16)});
}

void CostOps::qkv(const Qkv& op) {
  Cost& sum = table_[CostOf::qkv];
  sum.add({.weight_bytes = norm_bytes(op.norm, op.x.cols)});
  for (const Linear* w : {op.wq, op.wk, op.wv}) sum.add(linear_cost(*w, op.x.rows));
  sum.kv_bytes += size_t{2} * op.x.rows * op.kv.heads * op.kv.head_dim * sizeof(f16);
}

void CostOps::store_kv(const StoreKv& op) {
  Cost& sum = table_[CostOf::qkv];
  sum.add({.weight_bytes = norm_bytes(op.norm, op.x.cols)});
  for (const Linear* w : {op.wk, op.wv}) sum.add(linear_cost(*w, op.x.rows));
  sum.kv_bytes += size_t{2} * op.x.rows * op.kv.heads * op.kv.head_dim * sizeof(f16);
}

void CostOps::attend(const Attend& op) {
  const size_t rows = static_cast<size_t>(op.q.rows);
  const int positions = op.whole > 0 ? op.whole : context_;
  table_[CostOf::attention].add(
      {.kv_bytes = 2 * rows * static_cast<size_t>(positions) * op.kv.heads * op.kv.head_dim * sizeof(f16),
       .flops = 4.0 * rows * positions * op.q.cols});
}

void CostOps::add_linear(const AddLinear& op) { table_[CostOf::output_linear].add(linear_cost(*op.w, op.x.rows)); }

void CostOps::gated_up(const GatedUp& op) {
  Cost& sum = table_[CostOf::mlp];
  sum.add({.weight_bytes = norm_bytes(op.norm, op.x.cols)});
  for (const Linear* w : {op.gate, op.up}) sum.add(linear_cost(*w, op.x.rows));
}

void CostOps::project(const Project& op) {
  last_project_ = linear_cost(*op.w, op.x.rows);
  last_project_.weight_bytes += norm_bytes(op.norm, op.x.cols);
  table_[CostOf::mlp].add(last_project_);
}

void CostOps::next_token(const NextToken&) {
  Cost& mlp = table_[CostOf::mlp];
  mlp.weight_bytes -= last_project_.weight_bytes;
  mlp.flops -= last_project_.flops;
  table_[CostOf::head].add(last_project_);
  last_project_ = {};
}

CostTable cost_of(const Tape& step, int context) {
  CostOps ops(context);
  for (const Op& op : step) run(op, ops);
  return ops.table();
}

}  // namespace quantbench
