#include "backend/cuda/wide_products.h"

#include <algorithm>
#include <cassert>
#include <map>

#include "backend/cuda/tensor_products.h"
#include "backend/cuda/turned_products.h"
#include "backend/cuda/views.h"
#include "core/os.h"
#include "quant/nf4.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kFewRows = 64;  // up to which a tile of our own tensor products would be half empty

// Whole loads for the library and for the kernels around it: of 16 bytes, of fp16 rows 8.
bool divides(WeightFormat format, int n, int k) {
  switch (format) {
    case WeightFormat::f16: return k % 4 == 0 && n % 8 == 0;  // as SigLIP's patches of 588 numbers
    case WeightFormat::int8: return k % 16 == 0 && n % 16 == 0 && can_gather(k);
    case WeightFormat::nf4:  // eight codes have one scale, also where blocks straddle rows
    case WeightFormat::bf16: return k % 8 == 0 && n % 8 == 0;
    case WeightFormat::f32: return false;
  }
  return false;
}

// Multiplied as fp16, which they are expanded to before.
bool is_expanded(WeightFormat format) { return format == WeightFormat::nf4 || format == WeightFormat::bf16; }

// Rows of a weight expanded at a time, so that all chunks are about as large.
int chunk_rows(int n, int k, size_t scratch_numbers) {
  constexpr int kWhole = kExpandedTile;
  const int most = static_cast<int>(scratch_numbers / static_cast<size_t>(k)) / kWhole * kWhole;
  assert(most > 0);
  const int chunks = (n + most - 1) / most;
  return std::min(((n + chunks - 1) / chunks + kWhole - 1) / kWhole * kWhole, n);
}

// Whether fits_tensor() or fits_turned() takes a gate of such weights, rows aside.
bool tensor_takes(const Matrix& w) {
  const int n = rows_of(w), k = cols_of(w);
  switch (format_of(w)) {
    case Format::f16: return can_multiply_tensor(WeightFormat::f16, n, k);
    case Format::int8: return can_gather(k) && can_multiply_tensor(WeightFormat::int8, n, k);
    case Format::nf4: return k % 64 == 0 && can_multiply_tensor(WeightFormat::f16, n, k);
    case Format::bf16:
    case Format::f32: return false;
  }
  return false;
}

bool is_off() { return os::environment("QUANTBENCH_CUBLASLT") == "off"; }

}  // namespace

WideShape wide_shape(const Tape& step, int max_rows, size_t cache_bytes, bool tensor) {
  WideShape shape;
  if (max_rows <= kStreamedRows) return shape;
  shape.rows = max_rows;
  const int padded = std::max(max_rows, 8);  // fewer rows than eight are multiplied as eight
  int largest = 0, added = 0;                // inputs: of any product, of those that add to the stream
  size_t together = 0;                       // weights of one op in whole tiles, of those that are expanded
  struct Columns {
    int sum = 0, most = 0;
  };
  const auto add = [&](std::initializer_list<const Linear*> linears) {
    Columns columns;
    size_t numbers = 0;
    for (const Linear* w : linears) {
      const int n = rows_of(w->weight), k = cols_of(w->weight);
      largest = std::max(largest, k);
      columns.sum += n;
      columns.most = std::max(columns.most, n);
      shape.int8 |= format_of(w->weight) == Format::int8;
      if (!is_expanded(view(w->weight).format)) continue;
      shape.expands = true;
      numbers += static_cast<size_t>((n + kExpandedTile - 1) / kExpandedTile * kExpandedTile) * static_cast<size_t>(k);
    }
    together = std::max(together, numbers);
    return columns;
  };
  const auto raise = [](int* to, int cols) { *to = std::max(*to, cols); };
  const auto raise_raw = [&](int cols, int rows) {
    raise(&shape.raw_cols, cols);
    shape.raw_numbers = std::max(shape.raw_numbers, static_cast<size_t>(rows) * static_cast<size_t>(cols));
  };
  for (size_t i = 0; i < step.size(); ++i) {
    const Op& op = step[i];
    if (const auto* const o = std::get_if<Qkv>(&op)) {
      raise_raw(add({o->wq, o->wk, o->wv}).sum, padded);
      raise(&shape.general, o->x.cols);
    }
    if (const auto* const o = std::get_if<StoreKv>(&op)) {
      raise_raw(add({o->wk, o->wv}).most, padded);
      raise(&shape.general, o->x.cols);
    }
    if (const auto* const o = std::get_if<Attend>(&op)) raise(&shape.attended, o->a.cols);
    if (const auto* const o = std::get_if<AddLinear>(&op)) {
      raise_raw(add({o->w}).sum, padded);
      raise(&added, cols_of(o->w->weight));
    }
    if (const auto* const o = std::get_if<GatedUp>(&op)) {
      const int n = add({o->gate, o->up}).most;
      // Where our own products take it, they leave no sums, but for so few rows that they would be half empty.
      const bool by_tensor = tensor && tensor_takes(o->gate->weight) && tensor_takes(o->up->weight);
      raise_raw(n, by_tensor ? std::min(padded, kFewRows) : padded);
      raise(&shape.inner, n);
      raise(&shape.general, o->x.cols);
    }
    if (const auto* const o = std::get_if<Project>(&op)) {
      raise(&shape.general, o->x.cols);
      // The head: its rows are few, and its sums stand where they belong. Known by its place, since a plan made before
      // anything is allocated has no addresses to tell it by.
      if (i + 1 < step.size() && std::holds_alternative<NextToken>(step[i + 1])) continue;
      const int n = add({o->w}).sum;
      raise_raw(n, padded);
      raise(&shape.inner, n);
    }
  }
  if (added > std::max(shape.general, shape.inner)) shape.general = added;
  if (shape.expands) shape.scratch_numbers = std::min(expanded_at_once(cache_bytes, largest), together);
  return shape;
}

bool WideProducts::open() {
  if (!tried_ && !is_off()) gemm_ = open_gemm(runtime_);
  tried_ = true;
  return gemm_ != nullptr || runtime_.has_tensor_products();
}

MatrixLibrary WideProducts::library() const {
  if (is_off()) return {.missing = "QUANTBENCH_CUBLASLT is off; unset it"};
  return find_gemm_library();
}

void WideProducts::use(const WideWorkspace& workspace) {
  w_ = workspace;
  general_ = {w_.general};
  attended_ = {w_.attended};
  inner_ = {w_.inner};
  quantized_ = nullptr;
  if (gemm_) gemm_->use(w_.gemm, kGemmWorkspaceBytes);
}

void WideProducts::forget() {
  for (Slot* slot : {&general_, &attended_, &inner_}) {
    slot->begin = slot->end = nullptr;
    slot->marked = slot->clean = false;
  }
  quantized_ = nullptr;
}

void WideProducts::wrote(Tensor t) {
  const auto* const begin = static_cast<const std::byte*>(t.data);
  const std::byte* const end = begin + t.bytes();
  for (Slot* slot : {&general_, &attended_, &inner_}) {
    if (slot->begin == nullptr || end <= slot->begin || begin >= slot->end) continue;
    slot->begin = slot->end = nullptr;
    if (quantized_ == slot) quantized_ = nullptr;
  }
}

ReadyRows WideProducts::produce(Slot& slot, Tensor from, const void* norm) {
  const int stride = padded_k(from.cols);
  if (from.rows > w_.rows || from.rows <= kStreamedRows || stride > slot.ready.stride) return {};
  if (slot.ready.marks && !slot.clean) {
    runtime_.zero(slot.ready.marks, static_cast<size_t>(slot.ready.stride));
  }
  slot.clean = false;
  slot.marked = slot.ready.marks != nullptr;
  slot.gathered = false;
  slot.begin = static_cast<const std::byte*>(from.data);
  slot.end = slot.begin + from.bytes();
  slot.norm = norm;
  if (quantized_ == &slot) quantized_ = nullptr;
  return {slot.ready.x16, stride, slot.ready.marks};
}

ReadyRows WideProducts::attended(Tensor a) {
  wrote(a);
  return w_.rows > 0 ? produce(attended_, a, nullptr) : ReadyRows{};
}

WideProducts::Slot& WideProducts::ready_rows(const Product& product, bool int8) {
  const Tensor& x = product.x;
  const void* const norm = product.norm ? product.norm->weight : nullptr;
  for (Slot* slot : {&general_, &attended_, &inner_}) {
    if (slot->begin != x.data || slot->begin == nullptr || slot->end != slot->begin + x.bytes() || slot->norm != norm)
      continue;
    if (int8 ? slot->marked || quantized_ == slot : !slot->gathered) return *slot;
  }
  Slot& slot = room_for(x.cols);
  const ReadyRows to = produce(slot, x, norm);
  prepare({.x = x.f32(),
           .norm = view(product.norm),
           .rows = x.rows,
           .k = x.cols,
           .stride = to.stride,
           .x32 = nullptr,
           .x16 = to.x16,
           .marks = to.marks},
          runtime_.stream());
  return slot;
}

bool WideProducts::has_room(int k) const { return padded_k(k) <= std::max(w_.general.stride, w_.inner.stride); }
WideProducts::Slot& WideProducts::room_for(int k) { return padded_k(k) <= w_.general.stride ? general_ : inner_; }

bool WideProducts::fits(const Product& product) const {
  const Tensor& x = product.x;
  if (!gemm_ || x.rows <= kStreamedRows || x.rows > w_.rows || !has_room(x.cols)) return false;
  const WeightFormat format = product.outputs.front().w.format;
  if (is_expanded(format) && x.rows <= kStreamedNf4Rows) return false;
  for (const Product::Output& output : product.outputs) {
    if (output.w.format != format || !divides(format, output.w.n, output.w.k)) return false;
  }
  if (format == WeightFormat::int8 && !w_.codes) return false;
  if (is_expanded(format) && !has_scratch(x.cols)) return false;
  int raw = 0;
  if (product.finish == Finish::qkv) {
    for (const Product::Output& output : product.outputs) raw += output.w.n;
    if (!can_finish_qkv(product.kv, product.rotation)) return false;
  }
  if (product.finish == Finish::gate || (product.finish == Finish::add && format == WeightFormat::int8))
    raw = product.outputs.front().w.n;
  return static_cast<size_t>(std::max(x.rows, 8)) * static_cast<size_t>(raw) <= w_.raw_numbers;
}

bool WideProducts::has_scratch(int k) const {
  return w_.scratch && w_.scratch_numbers >= size_t{kExpandedTile} * static_cast<size_t>(k);
}

bool WideProducts::finishes(const Product& product) const {
  if (product.outputs.front().w.format == WeightFormat::int8) return true;
  if (product.finish == Finish::add) return false;
  return product.finish != Finish::store || product.act != Activation::none;
}

// Where sums go: into the output where they have its size, else into `raw`.
std::vector<WideProducts::Call> WideProducts::calls_of(const Product& product, int rows, int x_stride) const {
  const bool finished = finishes(product), add = product.finish == Finish::add && !finished;
  int columns = 0;
  for (const Product::Output& output : product.outputs) columns += output.w.n;
  std::vector<Call> calls;
  int column = 0;
  for (size_t i = 0; i < product.outputs.size(); ++i) {
    const Product::Output& output = product.outputs[i];
    const Weight& w = output.w;
    if (w.n == 0) continue;
    const bool raw = product.finish == Finish::qkv || (product.finish == Finish::gate && i == 0) ||
                     (product.finish == Finish::add && finished);
    const int y_stride = product.finish == Finish::qkv ? columns : w.n;
    auto* const y = raw ? static_cast<float*>(w_.raw) + column : output.y;
    if (product.finish == Finish::qkv) column += w.n;
    GemmShape shape{w.format == WeightFormat::int8, rows, w.n, w.k, x_stride, y_stride, add, false};
    shape.biased = !finished && output.bias;
    Call* const last = calls.empty() ? nullptr : &calls.back();
    const bool side_by_side = last && product.finish == Finish::qkv;
    if (!is_expanded(w.format)) {
      const size_t number = shape.int8 ? sizeof(int8_t) : sizeof(uint16_t);
      const size_t before = last ? static_cast<size_t>(last->gemm.shape.n) * w.k * number : 0;
      if (side_by_side && static_cast<const std::byte*>(last->gemm.w) + before == w.w) {
        last->gemm.shape.n += w.n;  // the weights lie behind one another: one product
        continue;
      }
      calls.push_back({{shape, w.w, nullptr, y, output.bias}, {}});
      continue;
    }
    if (side_by_side && last->expand.part_count < kMostJobs &&
        static_cast<size_t>(last->gemm.shape.n + w.n) * w.k <= w_.scratch_numbers) {
      last->expand.parts[last->expand.part_count++] = {w, 0, w.n};
      last->gemm.shape.n += w.n;
      continue;
    }
    const int chunk = chunk_rows(w.n, w.k, w_.scratch_numbers);
    for (int first = 0; first < w.n; first += chunk) {
      Call call{{shape, w_.scratch, nullptr, y + first, output.bias ? output.bias + first : nullptr}, {}};
      call.gemm.shape.n = std::min(chunk, w.n - first);
      call.expand.parts[0] = {w, first, call.gemm.shape.n};
      call.expand.part_count = 1;
      call.expand.to = w_.scratch;
      call.expand.nested_code = tables_.nested_code;
      std::copy(kNf4Code.begin(), kNf4Code.end(), call.expand.code);
      calls.push_back(call);
    }
  }
  return calls;
}

bool WideProducts::fits_batch(const Product& product) const {
  const Tensor& x = product.x;
  const WeightFormat format = product.outputs.front().w.format;
  if (x.rows > w_.rows || !has_room(x.cols) || !can_multiply_batch(format, x.cols, x.rows)) return false;
  if (format == WeightFormat::int8 && (!w_.codes || !can_gather(x.cols))) return false;
  for (const Product::Output& output : product.outputs) {
    if (output.w.format != format) return false;
  }
  return product.finish != Finish::qkv || can_place_qkv(product.kv, product.rotation);
}

Input WideProducts::input_of(const Product& product, const Slot& slot) const {
  return {.rows = product.x.rows,
          .k = product.x.cols,
          .stride = padded_k(product.x.cols),
          .x16 = slot.ready.x16,
          .codes = w_.codes,
          .absmax = w_.absmax,
          .outliers = w_.outliers};
}

bool WideProducts::multiply_batch(const Product& product, Slot& slot) {
  ProductArgs args{.x = input_of(product, slot), .finish = product.finish, .act = product.act, .tables = tables_};
  for (const Product::Output& output : product.outputs) args.jobs[args.job_count++] = {output.w, output.bias, output.y};
  args.kv = product.kv;
  args.rotation = product.rotation;
  args.places = product.places;
  args.batch.partial = w_.raw;
  args.batch.most_partial = w_.raw_numbers;
  args.batch.arrived = w_.arrived;
  args.batch.most_counters = w_.counters;
  const bool zeroes = &slot == quantized_ && !slot.clean;
  if (zeroes) {
    args.used = slot.ready.marks;
    args.used_count = slot.ready.stride;
  }
  const auto& output = product.finish == Finish::qkv ? product.outputs.front() : product.outputs.back();
  const Tensor out{output.y, DType::f32, product.x.rows, output.w.n};
  const Room room = runtime_.room();
  // An activation's output is the next product's input. What reads the slot that it fills would find it changed.
  const bool leaves = (product.finish == Finish::gate || product.act != Activation::none) && &slot != &inner_;
  wrote(out);
  if (leaves) args.ready = produce(inner_, out, nullptr);
  if (!QB_CUDA::multiply_batch(args, room, runtime_.stream())) {
    if (leaves) wrote(out);
    return false;
  }
  if (zeroes) slot.clean = true;
  return true;
}

bool WideProducts::fits_tensor(const Product& product) const {
  const Tensor& x = product.x;
  if (!runtime_.has_tensor_products() || x.rows <= kFewRows || x.rows > w_.rows || !has_room(x.cols)) return false;
  // The library's products are as fast where little is left to be finished.
  if (gemm_ && product.finish != Finish::gate) return false;
  const WeightFormat format = product.outputs.front().w.format;
  if (format == WeightFormat::int8 && (!w_.codes || !can_gather(x.cols))) return false;
  // A gate's NF4 is multiplied turned, its bf16 by the library.
  if (is_expanded(format) && (product.finish == Finish::gate || x.cols % 64 != 0 || !has_scratch(x.cols))) return false;
  int columns = 0;
  for (const Product::Output& output : product.outputs) {
    const WeightFormat multiplied = is_expanded(format) ? WeightFormat::f16 : format;
    if (output.w.format != format || !can_multiply_tensor(multiplied, output.w.n, x.cols)) return false;
    columns += output.w.n;
  }
  return product.finish != Finish::qkv ||
         (static_cast<size_t>(x.rows) * static_cast<size_t>(columns) <= w_.raw_numbers &&
          can_finish_qkv(product.kv, product.rotation));
}

bool WideProducts::fits_turned(const Product& product) const {
  const Tensor& x = product.x;
  if (!runtime_.has_tensor_products() || product.finish != Finish::gate || x.rows > w_.rows || !has_room(x.cols))
    return false;
  for (const Product::Output& output : product.outputs) {
    if (output.w.format != product.outputs.front().w.format ||
        !can_multiply_turned(output.w.format, output.w.n, output.w.k)) {
      return false;
    }
  }
  // Expanding NF4 takes longer than a tile's empty rows do.
  if (product.outputs.front().w.format == WeightFormat::nf4) return x.rows > kMostBatchRows;
  return turned_rows(x.rows) <= unturned_rows(x.rows);
}

void WideProducts::multiply_by_tensor(const FinishArgs& args, const void* rows) {
  const Weight& w = args.jobs[0].w;
  const int stride = padded_k(w.k);
  if (!is_expanded(w.format)) {
    multiply_tensor(args, rows, stride, false, runtime_.multiprocessors(), runtime_.stream());
    return;
  }
  // Expanded piece by piece.
  for (int job = 0; job < args.job_count; ++job) {
    const Job& whole = args.jobs[job];
    const int n = whole.w.n, chunk = chunk_rows(n, w.k, w_.scratch_numbers);
    for (int first = 0; first < n; first += chunk) {
      const int count = std::min(chunk, n - first);
      FinishArgs part = args;
      ExpandArgs expansion{.part_count = 1, .to = w_.scratch, .nested_code = tables_.nested_code};
      std::copy(kNf4Code.begin(), kNf4Code.end(), expansion.code);
      expansion.parts[0] = {whole.w, first, count};
      part.job_count = 1;
      part.jobs[0] = {{.n = count, .k = w.k, .w = w_.scratch},
                      whole.bias ? whole.bias + first : nullptr,
                      whole.y ? whole.y + first : nullptr};
      part.sums[0] = static_cast<float*>(args.sums[job]) + first;
      part.stride[0] = args.stride[job];
      if (part.ready.x16) part.ready.x16 += first;
      expand(expansion, runtime_.multiprocessors(), runtime_.stream());
      multiply_tensor(part, rows, stride, true, runtime_.multiprocessors(), runtime_.stream());
    }
  }
}

void WideProducts::quantize_rows(const Product& product, Slot& slot) {
  if (quantized_ == &slot) return;
  const Tensor& x = product.x;
  quantize({slot.ready.x16, slot.ready.marks, x.rows, x.cols, padded_k(x.cols), w_.codes, w_.absmax, w_.outliers, true},
           runtime_.stream());
  slot.gathered = true;
  slot.marked = false;
  quantized_ = &slot;
}

FinishArgs WideProducts::finish_args(const Product& product, Slot& slot) {
  const Product::Output& last = product.outputs.back();
  FinishArgs args{.job_count = static_cast<int>(product.outputs.size()), .rows = product.x.rows};
  args.finish = product.finish;
  args.act = product.act;
  int columns = 0, column = 0;
  for (const Product::Output& output : product.outputs) columns += output.w.n;
  for (int i = 0; i < args.job_count; ++i) {
    const Product::Output& output = product.outputs[static_cast<size_t>(i)];
    const bool raw =
        product.finish == Finish::qkv || (product.finish == Finish::gate && i == 0) || product.finish == Finish::add;
    args.jobs[i] = {output.w, output.bias, output.y};
    args.sums[i] = raw ? static_cast<float*>(w_.raw) + column : output.y;
    args.stride[i] = product.finish == Finish::qkv ? columns : output.w.n;
    if (product.finish == Finish::qkv) column += output.w.n;
  }
  if (last.w.format == WeightFormat::int8) {
    args.x = input_of(product, slot);
    if (!slot.clean) {
      args.used = slot.ready.marks;
      args.used_count = slot.ready.stride;
      slot.clean = true;
    }
  }
  args.kv = product.kv;
  args.rotation = product.rotation;
  args.places = product.places;
  if (product.finish == Finish::qkv) {
    wrote({product.outputs.front().y, DType::f32, product.x.rows, product.outputs.front().w.n});
    return args;
  }
  const Tensor out{last.y, DType::f32, product.x.rows, last.w.n};
  wrote(out);
  // What reads the slot that it fills would find it changed.
  if (product.finish != Finish::add && &slot != &inner_) args.ready = produce(inner_, out, nullptr);
  return args;
}

bool WideProducts::multiply(const Product& product) {
  if (fits_turned(product)) {
    Slot& slot = ready_rows(product, false);
    const FinishArgs args = finish_args(product, slot);
    multiply_turned(args, slot.ready.x16, padded_k(product.x.cols), kNf4Code.data(), tables_.nested_code,
                    runtime_.multiprocessors(), runtime_.stream());
    return true;
  }
  const bool batch = fits_batch(product), tensor = fits_tensor(product);
  if (!batch && !tensor && !fits(product)) return false;
  const Tensor& x = product.x;
  const bool int8 = product.outputs.front().w.format == WeightFormat::int8;
  const int stride = padded_k(x.cols);
  std::vector<Call> calls;
  if (!tensor && fits(product)) calls = calls_of(product, x.rows, stride);
  for (const Call& call : calls) {
    if (gemm_->takes(call.gemm.shape)) continue;
    if (!batch) return false;
    calls.clear();
    break;
  }
  Slot& slot = ready_rows(product, int8);
  if (int8) quantize_rows(product, slot);
  if (batch && multiply_batch(product, slot)) return true;
  const void* const rows = int8 ? static_cast<const void*>(w_.codes) : slot.ready.x16;
  if (tensor) {
    const FinishArgs args = finish_args(product, slot);
    multiply_by_tensor(args, rows);
    if (product.finish == Finish::qkv) QB_CUDA::finish(args, runtime_.stream());
    return true;
  }
  if (calls.empty()) return false;
  for (Call& call : calls) {
    if (call.expand.part_count > 0) expand(call.expand, runtime_.multiprocessors(), runtime_.stream());
    call.gemm.x = rows;
    gemm_->run(call.gemm);
  }
  if (finishes(product)) {
    QB_CUDA::finish(finish_args(product, slot), runtime_.stream());
  } else {
    wrote({product.outputs.back().y, DType::f32, x.rows, product.outputs.back().w.n});
  }
  return true;
}

void WideProducts::tune(const Tape& step, int rows) {
  tuning_ = rows > kStreamedRows ? "own kernels" : "";
  if (!gemm_ || rows <= kStreamedRows || rows > w_.rows) return;
  std::map<GemmShape, std::vector<GemmCall>> calls;
  const auto add = [&](Finish finish, Act act, int k, std::initializer_list<const Linear*> linears) {
    Product product{.x = {nullptr, DType::f32, rows, k}, .finish = finish, .act = view(act)};
    for (const Linear* l : linears) {
      if (!view(l->weight).w) return;  // planned, not loaded
      product.outputs.push_back({view(l->weight), l->bias, static_cast<float*>(w_.raw)});
    }
    const WeightFormat format = product.outputs.front().w.format;
    if (can_multiply_batch(format, k, rows) || fits_turned(product) || fits_tensor(product)) return;
    if (is_expanded(format) && rows <= kStreamedNf4Rows) return;
    for (const Product::Output& output : product.outputs) {
      if (output.w.format != format || !divides(format, output.w.n, k)) return;
    }
    if (format == WeightFormat::int8 && !w_.codes) return;
    if (is_expanded(format) && !has_scratch(k)) return;
    for (Call& call : calls_of(product, rows, padded_k(k))) {
      GemmCall& gemm = call.gemm;
      if (static_cast<size_t>(rows) * static_cast<size_t>(gemm.shape.y_stride) > w_.raw_numbers) continue;  // no room
      gemm.x = gemm.shape.int8 ? static_cast<const void*>(w_.codes) : room_for(k).ready.x16;
      gemm.y = w_.raw;
      calls[gemm.shape].push_back(gemm);
    }
  };
  for (const Op& op : step) {
    if (const auto* const o = std::get_if<Qkv>(&op)) add(Finish::qkv, Act::none, o->x.cols, {o->wq, o->wk, o->wv});
    if (const auto* const o = std::get_if<AddLinear>(&op)) add(Finish::add, Act::none, o->a.cols, {o->w});
    if (const auto* const o = std::get_if<GatedUp>(&op)) add(Finish::gate, o->act, o->x.cols, {o->gate, o->up});
    if (const auto* const o = std::get_if<Project>(&op)) add(Finish::store, o->act, o->x.cols, {o->w});
  }
  if (calls.empty()) return;
  // Zeros would be multiplied faster than what comes later.
  const auto fill_rows = [&](void* x, int stride, size_t bytes_each) {
    const size_t words = static_cast<size_t>(rows) * static_cast<size_t>(stride) * bytes_each / sizeof(uint32_t);
    if (words > 0) fill({static_cast<uint32_t*>(x), words}, runtime_.multiprocessors(), runtime_.stream());
  };
  for (const WideWorkspace::Ready* ready : {&w_.general, &w_.inner})
    fill_rows(ready->x16, ready->stride, sizeof(uint16_t));
  if (w_.codes) fill_rows(w_.codes, std::max(w_.general.stride, w_.inner.stride), sizeof(int8_t));
  tuning_ = gemm_->tune(calls);
  forget();
}

}  // namespace quantbench::QB_CUDA
