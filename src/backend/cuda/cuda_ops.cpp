#include "backend/cuda/cuda_ops.h"

#include <algorithm>
#include <cassert>

#include "backend/cuda/flash_attention.h"
#include "backend/cuda/views.h"
#include "backend/host_memory.h"

namespace quantbench::QB_CUDA {
namespace {

// Pieces of one buffer; counts bytes where there is none yet.
class Cutter {
 public:
  explicit Cutter(std::byte* buffer) : buffer_(buffer) {}
  template <typename T>
  void take(T** to, size_t count) {
    if (buffer_) *to = reinterpret_cast<T*>(buffer_ + bytes_);
    bytes_ += piece_bytes(count * sizeof(T));
  }
  void align(size_t to) { bytes_ = (bytes_ + to - 1) / to * to; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* buffer_;
  size_t bytes_ = 0;
};

void cut_wide(const WideShape& shape, Cutter* cutter, Workspace* w) {
  WideWorkspace& wide = w->wide;
  const size_t rows = static_cast<size_t>(shape.rows);
  wide.rows = shape.rows;
  wide.raw_numbers = shape.raw_numbers;
  const auto take_ready = [&](int cols, WideWorkspace::Ready* ready) {
    ready->stride = padded_k(cols);
    const size_t stride = static_cast<size_t>(ready->stride);
    cutter->take(&ready->x16, rows * stride);
    if (shape.int8) cutter->take(&ready->marks, stride);
  };
  cutter->take(&wide.general.x16, rows * static_cast<size_t>(padded_k(shape.general)));
  wide.general.stride = padded_k(shape.general);
  wide.general.marks = w->marks;  // of the same size or less
  take_ready(shape.attended, &wide.attended);
  take_ready(shape.inner, &wide.inner);
  float* raw = nullptr;
  std::byte* gemm = nullptr;
  cutter->align(kGemmAlignment);
  if (shape.beyond_batches) cutter->take(&gemm, kGemmWorkspaceBytes);
  cutter->take(&raw, shape.raw_numbers);
  wide.raw = raw;
  wide.gemm = gemm;
  wide.scratch_numbers = shape.beyond_batches ? shape.scratch_numbers : 0;
  if (shape.expands && shape.beyond_batches) cutter->take(&wide.scratch, shape.scratch_numbers);
  wide.codes = w->codes;
  wide.absmax = w->absmax;
  wide.outliers = w->outliers;
}

// Whether the products that stream their weights put keys and values where they belong.
bool places_qkv(const Qkv& op) {
  const Format format = format_of(op.wq->weight);
  return format == format_of(op.wk->weight) && format == format_of(op.wv->weight) &&
         has_tiles(view(op.wq->weight).format, op.x.cols) && can_place_qkv(view(op.kv), view(op.rope));
}

size_t cut(const WorkspaceShape& shape, std::byte* buffer, Workspace* w) {
  Cutter cutter(buffer);
  const size_t rows = static_cast<size_t>(shape.rows), k = static_cast<size_t>(shape.k);
  const size_t stride = static_cast<size_t>(padded_k(shape.k));
  if (shape.int8) {
    cutter.take(&w->codes, rows * stride);
    cutter.take(&w->absmax, rows);
    cutter.take(&w->marks, stride);
    cutter.take(&w->outliers, 1 + k);
  }
  cutter.take(&w->ready_row, static_cast<size_t>(padded_k(std::max(shape.k, shape.activated))));
  for (float** const to : {&w->stored_keys, &w->stored_values}) {
    cutter.take(to, rows * static_cast<size_t>(shape.stored_cols));
  }
  const size_t attending = static_cast<size_t>(shape.attend_rows), ending = static_cast<size_t>(shape.token_rows);
  w->attend_rows = shape.attend_rows;
  w->token_rows = shape.token_rows;
  cutter.take(&w->parts, attending * attend_parts(shape.q_heads, shape.head_dim));
  cutter.take(&w->attend_arrived, attending * static_cast<size_t>(shape.q_heads));
  cutter.take(&w->scores, ending * kTokenBlocks);
  cutter.take(&w->ids, ending * kTokenBlocks);
  cutter.take(&w->token_arrived, ending);
  cutter.take(&w->cut_sums, ending * kCutSums);
  cutter.take(&w->cut_state, ending * 2);
  cutter.take(&w->cut_most, ending);
  w->wide.counters = shape.wide.raw_cols / 4;
  cutter.take(&w->wide.arrived, static_cast<size_t>(w->wide.counters));
  // From here on a product has either of the two.
  Cutter wide = cutter;
  if (shape.wide.rows > 0) cut_wide(shape.wide, &wide, w);
  cutter.take(&w->x16, rows * stride);
  cutter.take(&w->x32, rows * static_cast<size_t>(shape.normed_k));
  for (float** const to : {&w->keys, &w->values}) cutter.take(to, rows * static_cast<size_t>(shape.kv_cols));
  return std::max(cutter.bytes(), wide.bytes());
}

}  // namespace

WorkspaceShape workspace_shape(const Tape& step, int max_rows, bool beyond_batches, size_t cache_bytes, bool tensor) {
  WorkspaceShape shape{.rows = max_rows};
  shape.wide = wide_shape(step, beyond_batches ? max_rows : std::min(max_rows, kMostBatchRows), cache_bytes, tensor);
  shape.wide.beyond_batches = beyond_batches;
  const auto product = [&shape](const Linear* w, int rows, bool normed) {
    const Format format = format_of(w->weight);
    shape.rows = std::max(shape.rows, rows);
    shape.k = std::max(shape.k, cols_of(w->weight));
    shape.int8 |= format == Format::int8;
    if (normed && format != Format::int8) shape.normed_k = std::max(shape.normed_k, cols_of(w->weight));
  };
  struct Visitor {
    const decltype(product)& add;
    WorkspaceShape& shape;
    void operator()(const Embed&) const {}
    void operator()(const Qkv& o) const {
      for (const Linear* w : {o.wq, o.wk, o.wv}) add(w, o.x.rows, true);
      if (!places_qkv(o)) shape.kv_cols = std::max(shape.kv_cols, o.kv.heads * o.kv.head_dim);
    }
    void operator()(const StoreKv& o) const {
      for (const Linear* w : {o.wk, o.wv}) add(w, o.x.rows, true);
      shape.stored_cols = std::max(shape.stored_cols, o.kv.heads * o.kv.head_dim);
    }
    void operator()(const Attend& o) const {
      constexpr int kMostRows = 8;  // of these there are enough blocks without sharing out positions
      if (o.q.rows <= kMostRows) shape.attend_rows = std::max(shape.attend_rows, o.q.rows);
      shape.q_heads = std::max(shape.q_heads, o.q.cols / o.kv.head_dim);
      shape.head_dim = std::max(shape.head_dim, o.kv.head_dim);
    }
    void operator()(const AddLinear& o) const { add(o.w, o.x.rows, false); }
    void operator()(const GatedUp& o) const {
      for (const Linear* w : {o.gate, o.up}) add(w, o.x.rows, true);
      shape.activated = std::max(shape.activated, rows_of(o.up->weight));
    }
    void operator()(const Project& o) const {
      add(o.w, o.x.rows, o.norm != nullptr);
      if (o.act != Act::none) shape.activated = std::max(shape.activated, rows_of(o.w->weight));
    }
    void operator()(const NextToken& o) const { shape.token_rows = std::max(shape.token_rows, o.logits.rows); }
  };
  for (const Op& op : step) std::visit(Visitor{product, shape}, op);
  return shape;
}

size_t workspace_bytes(const WorkspaceShape& shape) {
  Workspace none;
  return cut(shape, nullptr, &none);
}
Workspace cut_workspace(const WorkspaceShape& shape, std::byte* buffer) {
  Workspace w;
  cut(shape, buffer, &w);
  return w;
}

Input CudaOps::make_input(Tensor x, const Norm* norm, bool int8, bool dense) {
  const Workspace& w = workspace_;
  const int stride = padded_k(x.cols);
  wide_.forget();  // it shares these buffers
  if (int8) runtime_.zero(w.marks, static_cast<size_t>(x.cols));
  prepare({.x = x.f32(),
           .norm = view(norm),
           .rows = x.rows,
           .k = x.cols,
           .stride = stride,
           .x32 = dense && norm ? w.x32 : nullptr,
           .x16 = w.x16,
           .marks = int8 ? w.marks : nullptr},
          runtime_.stream());
  if (int8) quantize({w.x16, w.marks, x.rows, x.cols, stride, w.codes, w.absmax, w.outliers, false}, runtime_.stream());
  return {.rows = x.rows,
          .k = x.cols,
          .stride = stride,
          .x = norm ? w.x32 : x.f32(),
          .x16 = w.x16,
          .codes = w.codes,
          .absmax = w.absmax,
          .outliers = w.outliers};
}

bool CudaOps::makes_own_rows(Tensor x, const Weight& weight) const {
  // Beside it a block keeps its sums and nf4's table.
  constexpr size_t kOther = size_t{41} << 10;
  return x.rows == 1 && has_tiles(weight.format, x.cols) &&
         own_row_bytes(weight.format, x.cols) + kOther <= runtime_.shared_bytes();
}

void CudaOps::multiply(Tensor x, const Norm* norm, std::initializer_list<Output> outputs, Finish finish, Act act,
                       const Qkv* qkv) {
  ProductArgs args{.finish = finish, .act = view(act), .tables = tables_};
  bool int8 = false, dense = false, own_rows = true, as_it_is = !norm;
  for (const Output& output : outputs) {
    const Weight weight = view(output.w->weight);
    int8 |= weight.format == WeightFormat::int8;
    dense |= weight.format != WeightFormat::int8;
    own_rows &= makes_own_rows(x, weight);
    as_it_is &= weight.format == WeightFormat::f32;
  }
  args.own_rows = own_rows;
  args.norm = view(norm);
  const bool is_ready = own_rows && x.f32() == ready_of_ && !norm;
  args.x = own_rows || as_it_is ? Input{.rows = x.rows,
                                        .k = x.cols,
                                        .stride = padded_k(x.cols),
                                        .x = x.f32(),
                                        .x16 = is_ready ? workspace_.ready_row : nullptr}
                                : make_input(x, norm, int8, dense);
  const float* const written = std::prev(outputs.end())->y;
  for (const Output& output : outputs) {
    if (output.y) wrote({output.y, DType::f32, x.rows, rows_of(output.w->weight)});
  }
  // What an activation gives is the next product's input.
  if (own_rows && (finish == Finish::gate || act != Act::none)) {
    args.ready.x16 = workspace_.ready_row;
    ready_of_ = written;
  }
  if (qkv) {
    args.kv = view(qkv->kv);
    args.rotation = view(qkv->rope);
    args.places = {qkv->rows.position, qkv->rows.sequence};
  }
  const Room room = runtime_.room();
  for (const Output& output : outputs) {
    const Weight weight = view(output.w->weight);
    if (args.job_count != 0 && args.jobs[0].w.format != weight.format) {  // one format a launch
      assert(finish == Finish::store);
      QB_CUDA::multiply(args, room, runtime_.stream());
      args.job_count = 0;
    }
    args.jobs[args.job_count++] = {weight, output.w->bias, output.y};
  }
  QB_CUDA::multiply(args, room, runtime_.stream());
}

void CudaOps::forget() {
  wide_.forget();
  ready_of_ = nullptr;
}

void CudaOps::wrote(Tensor y) {
  wide_.wrote(y);
  if (y.f32() == ready_of_) ready_of_ = nullptr;
}

bool CudaOps::multiply_wide(Tensor x, const Norm* norm, std::initializer_list<Output> outputs, Finish finish, Act act,
                            const Qkv* qkv) {
  if (x.rows <= kStreamedRows) return false;
  ready_of_ = nullptr;
  WideProducts::Product product{.x = x, .norm = norm, .finish = finish, .act = view(act)};
  for (const Output& output : outputs) product.outputs.push_back({view(output.w->weight), output.w->bias, output.y});
  if (qkv) {
    product.kv = view(qkv->kv);
    product.rotation = view(qkv->rope);
    product.places = {qkv->rows.position, qkv->rows.sequence};
  }
  return wide_.multiply(product);
}

void CudaOps::embed(const Embed& op) {
  wrote(op.x);
  const Weight table = view(*op.table);
  QB_CUDA::embed({op.x.f32(), static_cast<const uint16_t*>(table.w), op.rows.token, op.rows.count, table.k, op.scale,
                  table.format == WeightFormat::bf16},
                 runtime_.stream());
}

void CudaOps::qkv(const Qkv& op) {
  const Workspace& w = workspace_;
  const Cache kv = view(op.kv);
  const Rotation rotation = view(op.rope);
  const std::initializer_list<Output> placed = {{op.wq, op.q.f32()}, {op.wk, nullptr}, {op.wv, nullptr}};
  if (multiply_wide(op.x, op.norm, placed, Finish::qkv, Act::none, &op)) return;
  if (places_qkv(op)) {
    multiply(op.x, op.norm, placed, Finish::qkv, Act::none, &op);
    return;
  }
  multiply(op.x, op.norm, {{op.wq, op.q.f32()}, {op.wk, w.keys}, {op.wv, w.values}}, Finish::store, Act::none);
  rotate_and_store({.q = op.q.f32(),
                    .k = w.keys,
                    .v = w.values,
                    .rotation = rotation,
                    .rows = op.rows.count,
                    .q_heads = op.q.cols / op.kv.head_dim,
                    .places = {op.rows.position, op.rows.sequence},
                    .kv = kv},
                   runtime_.stream());
}

void CudaOps::store_kv(const StoreKv& op) {
  const Workspace& w = workspace_;
  if (op.rows.count <= kMostBatchRows && format_of(op.wk->weight) == format_of(op.wv->weight)) {
    // As of qkv, whose queries are none.
    Linear no_queries{.weight = op.wk->weight};
    std::visit([](auto& matrix) { matrix.n = 0; }, no_queries.weight);
    const Qkv qkv{.kv = op.kv, .rows = op.rows};
    const std::initializer_list<Output> placed = {{&no_queries, nullptr}, {op.wk, nullptr}, {op.wv, nullptr}};
    if (multiply_wide(op.x, op.norm, placed, Finish::qkv, Act::none, &qkv)) return;
  }
  // One after the other: of several outputs only those of qkv and of a gate are multiplied together everywhere.
  for (const auto& [linear, to] : {std::pair{op.wk, w.stored_keys}, {op.wv, w.stored_values}}) {
    if (!multiply_wide(op.x, op.norm, {{linear, to}}, Finish::store, Act::none)) {
      multiply(op.x, op.norm, {{linear, to}}, Finish::store, Act::none);
    }
  }
  rotate_and_store({.q = nullptr,
                    .k = w.stored_keys,
                    .v = w.stored_values,
                    .rotation = {},
                    .rows = op.rows.count,
                    .q_heads = 0,
                    .places = {op.rows.position, op.rows.sequence},
                    .kv = view(op.kv)},
                   runtime_.stream());
}

void CudaOps::attend(const Attend& op) {
  assert(op.kv.head_dim <= kMostHeadDim);
  const Workspace& w = workspace_;
  // Where every row has a sequence of its own, a tile of rows would share no keys.
  if (op.rows.count > kStreamedAttentionRows && op.rows.count > op.kv.sequences &&
      has_flash(op.kv.head_dim, op.bias != nullptr)) {
    attend_flash({.a = op.a.f32(),
                  .q = op.q.f32(),
                  .rows = op.rows.count,
                  .q_heads = op.q.cols / op.kv.head_dim,
                  .places = {op.rows.position, op.rows.sequence},
                  .kv = view(op.kv),
                  .scale = op.scale,
                  .ready = wide_.attended(op.a),
                  .lengths = op.lengths,
                  .bias = view(op.bias)},
                 runtime_.room(), runtime_.stream());
    return;
  }
  wrote(op.a);
  const ReadyRows ready = wide_.attended(op.a);
  const bool shared_out = op.rows.count <= w.attend_rows;
  QB_CUDA::attend({.a = op.a.f32(),
                   .q = op.q.f32(),
                   .rows = op.rows.count,
                   .q_heads = op.q.cols / op.kv.head_dim,
                   .places = {op.rows.position, op.rows.sequence},
                   .kv = view(op.kv),
                   .scale = op.scale,
                   .parts = shared_out ? w.parts : nullptr,
                   .arrived = w.attend_arrived,
                   .ready = ready,
                   .lengths = op.lengths,
                   .bias = view(op.bias)},
                  runtime_.stream());
}

void CudaOps::add_linear(const AddLinear& op) {
  if (multiply_wide(op.a, nullptr, {{op.w, op.x.f32()}}, Finish::add, Act::none)) return;
  multiply(op.a, nullptr, {{op.w, op.x.f32()}}, Finish::add, Act::none);
}

void CudaOps::gated_up(const GatedUp& op) {
  const std::initializer_list<Output> outputs = {{op.gate, nullptr}, {op.up, op.h.f32()}};
  if (multiply_wide(op.x, op.norm, outputs, Finish::gate, op.act)) return;
  multiply(op.x, op.norm, outputs, Finish::gate, op.act);
}

void CudaOps::project(const Project& op) {
  if (multiply_wide(op.x, op.norm, {{op.w, op.y.f32()}}, Finish::store, op.act)) return;
  multiply(op.x, op.norm, {{op.w, op.y.f32()}}, Finish::store, op.act);
}

void CudaOps::next_token(const NextToken& op) {
  assert(op.rows.count <= workspace_.token_rows);
  const bool cuts = op.sampling.cuts(op.logits.cols);
  const bool by_rank = cuts && op.sampling.cuts_by_rank(op.logits.cols), by_mass = cuts && op.sampling.cuts_by_mass();
  QB_CUDA::next_token({.logits = op.logits.f32(),
                       .rows = op.rows.count,
                       .vocab = op.logits.cols,
                       .token = op.rows.token,
                       .position = op.rows.position,
                       .sequence = op.rows.sequence,
                       .history = op.history,
                       .history_positions = op.history_positions,
                       .stops = op.stops,
                       .done = op.done,
                       .temperature = op.sampling.temperature,
                       .seed = op.sampling.seed,
                       .scores = workspace_.scores,
                       .ids = workspace_.ids,
                       .arrived = workspace_.token_arrived,
                       .cut = {.top_k = by_rank ? op.sampling.top_k : 0,
                               .top_p = by_mass ? op.sampling.top_p : 1,
                               .sums = workspace_.cut_sums,
                               .state = workspace_.cut_state,
                               .most = workspace_.cut_most}},
                      runtime_.stream());
}

}  // namespace quantbench::QB_CUDA
