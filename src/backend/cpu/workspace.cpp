#include "backend/cpu/workspace.h"

#include <algorithm>
#include <variant>

#include "backend/sampling.h"

namespace quantbench::cpu {
namespace {

constexpr size_t kAlignment = 64;

// Hands out pieces behind one another; with a null start it only counts.
class Cutter {
 public:
  explicit Cutter(std::byte* start) : start_(start) {}
  template <typename T>
  void take(T** piece, size_t count, size_t bytes_each) {
    if (start_) *piece = reinterpret_cast<T*>(start_ + used_);
    used_ += (count * bytes_each + kAlignment - 1) / kAlignment * kAlignment;
  }
  template <typename T>
  void take(T** piece, size_t count) {
    take(piece, count, sizeof(T));
  }
  size_t used() const { return used_; }

 private:
  std::byte* start_;
  size_t used_ = 0;
};

size_t padded_rows(int rows) { return (static_cast<size_t>(rows) + kTile - 1) / kTile * kTile; }

// A thread's biases of one head by distance.
size_t bias_floats(const WorkspaceShape& s) { return s.bias_reach < 0 ? 0 : bias_scratch(s.bias_reach); }

size_t thread_floats(const WorkspaceShape& s) {
  const size_t panel = size_t{kTile} * (static_cast<size_t>(s.k) + 64);  // rows on their way into a panel
  return 2 * Workspace::kTileFloats + std::max({gemm_scratch(s.k), bias_floats(s) + attend_scratch(s.head_dim), panel});
}

size_t cut(const WorkspaceShape& s, std::byte* buffer, Workspace* w) {
  Cutter cutter(buffer);
  const size_t rows = padded_rows(s.rows), k = static_cast<size_t>(s.k);
  w->dense_floats = rows * k;
  if (!s.int8) {
    const size_t pieces = ceil_div(w->dense_floats, kMostDenseFloats), most = padded_rows(kLeastDenseRows);
    const size_t each = padded_rows(static_cast<int>(ceil_div(rows, pieces)));
    w->dense_floats = std::min(rows, std::max(each, most)) * k;
  }
  cutter.take(&w->dense, w->dense_floats);
  cutter.take(&w->keys, static_cast<size_t>(s.rows) * s.kv_cols);
  cutter.take(&w->values, static_cast<size_t>(s.rows) * s.kv_cols);
  if (s.int8) {
    const size_t dwords = codes_stride(s.k) / static_cast<size_t>(s.int8_per_dword);
    cutter.take(&w->codes, rows * dwords, sizeof(int32_t));
    cutter.take(&w->columns, k);
    cutter.take(&w->masks, k * static_cast<size_t>(s.threads));
  }
  if (s.nf4_in_int16) {
    cutter.take(&w->nf4_codes, kFewRows * k);
    cutter.take(&w->nf4_scales, kFewRows * (k / kNf4Block + 1));
  }
  cutter.take(&w->absmax, rows);
  cutter.take(&w->sums, rows);
  cutter.take(&w->best, Workspace::kArgMaxParts);
  cutter.take(&w->best_id, Workspace::kArgMaxParts);
  cutter.take(&w->digits, static_cast<size_t>(s.threads) * kDigitValues);
  w->thread_bytes = (thread_floats(s) * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
  cutter.take(&w->threads, w->thread_bytes * static_cast<size_t>(s.threads));
  return cutter.used();
}

}  // namespace

WorkspaceShape workspace_shape(const Plan& plan, int threads, const Kernels& kernels) {
  WorkspaceShape shape;
  shape.rows = std::max(plan.max_rows, 1);
  shape.threads = threads;
  shape.int8_per_dword = kernels.int8_per_dword;
  struct Visitor {
    WorkspaceShape& shape;
    bool nf4_in_int16;
    void linear(const Linear* w) const {
      shape.k = std::max(shape.k, cols_of(w->weight));
      shape.int8 = shape.int8 || std::holds_alternative<Int8Matrix>(w->weight);
      shape.nf4_in_int16 = shape.nf4_in_int16 || (nf4_in_int16 && std::holds_alternative<Nf4Matrix>(w->weight));
    }
    // Of the ops before the step each says itself how many rows it has.
    void rows(Tensor x) const { shape.rows = std::max(shape.rows, x.rows); }
    void operator()(const Embed& o) const { rows(o.x); }
    void operator()(const Qkv& o) const {
      for (const Linear* w : {o.wq, o.wk, o.wv}) linear(w);
      shape.kv_cols = std::max(shape.kv_cols, o.kv.heads * o.kv.head_dim);
    }
    void operator()(const StoreKv& o) const {
      for (const Linear* w : {o.wk, o.wv}) linear(w);
      shape.kv_cols = std::max(shape.kv_cols, o.kv.heads * o.kv.head_dim);
      rows(o.x);
    }
    void operator()(const Attend& o) const {
      shape.head_dim = std::max(shape.head_dim, o.kv.head_dim);
      if (o.bias) shape.bias_reach = std::max(shape.bias_reach, o.bias->reach);
    }
    void operator()(const AddLinear& o) const { linear(o.w); }
    void operator()(const GatedUp& o) const {
      linear(o.gate);
      linear(o.up);
    }
    void operator()(const Project& o) const { linear(o.w); }
    void operator()(const NextToken&) const {}
  };
  for (const Tape* const tape : {&plan.tape, &plan.before}) {
    for (const Op& op : *tape) std::visit(Visitor{shape, kernels.nf4_in_int16}, op);
  }
  return shape;
}

size_t workspace_bytes(const WorkspaceShape& shape) {
  Workspace unused;
  return cut(shape, nullptr, &unused);
}

Workspace cut_workspace(const WorkspaceShape& shape, std::byte* buffer) {
  Workspace workspace;
  workspace.shape = shape;
  cut(shape, buffer, &workspace);
  return workspace;
}

}  // namespace quantbench::cpu
