#include "backend/ops_fixture.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>

#include "quant/int8.h"

namespace quantbench {
namespace {

constexpr int kSpareSlots = 5;  // of the cache beyond what is used; the last key tile is never whole

std::vector<float> uniform(size_t count, float low, float high, Random& random) {
  std::vector<float> values(count);
  for (float& v : values) v = random.uniform(low, high);
  return values;
}

// Activations between -2 and 2. In every third row some columns hold values beyond LLM.int8's threshold; the first row
// always has some, or one-row cases would never meet the outlier path.
std::vector<float> activations(int rows, int cols, Random& random) {
  std::vector<float> x = uniform(static_cast<size_t>(rows) * cols, -2, 2, random);
  for (int r = 0; r < rows; r += 3) {
    for (int i = 0; i < 4; ++i) x[static_cast<size_t>(r) * cols + random.below(cols)] = random.uniform(6.5f, 60);
    // The threshold itself is an outlier, the fp16 number below it is not.
    constexpr float kBelowThreshold = 5.99609375f;
    for (const float value : {6.0f, -6.0f, kBelowThreshold, -kBelowThreshold}) {
      x[static_cast<size_t>(r) * cols + random.below(cols)] = value;
    }
  }
  // One row of zeros, whose absmax is 0.
  if (rows > 4) std::fill_n(x.begin() + static_cast<std::ptrdiff_t>(cols), cols, 0.0f);
  return x;
}

// [rows, cols] of `unit` times -1, 0 or 1, and one of 127 a row; exact in fp16.
std::vector<float> small_codes(int rows, int cols, float unit, Random& random) {
  std::vector<float> x(static_cast<size_t>(rows) * static_cast<size_t>(cols));
  for (float& v : x) v = unit * static_cast<float>(random.below(3) - 1);
  for (int r = 0; r < rows; ++r) {
    x[static_cast<size_t>(r) * static_cast<size_t>(cols) + static_cast<size_t>(random.below(cols))] = 127 * unit;
  }
  return x;
}

}  // namespace

HostWeight::HostWeight(Format format, bool double_quantized, int n, int k, bool biased, Random& random,
                       ThreadPool& pool, Numbers numbers)
    : format_(format), n_(n), k_(k) {
  const size_t count = static_cast<size_t>(n) * k;
  const float spread = 2 / std::sqrt(static_cast<float>(k));
  f16_.resize(count);
  if (numbers == Numbers::small_sums) {
    const std::vector<float> codes = small_codes(n, k, 0x1p-4f, random);
    std::transform(codes.begin(), codes.end(), f16_.begin(), to_f16);
  } else {
    for (f16& w : f16_) w = to_f16(random.uniform(-spread, spread));
  }
  if (biased) {
    bias_ = uniform(static_cast<size_t>(n), -1, 1, random);
    for (float& b : bias_) b = to_float(to_f16(b));
  }
  if (format == Format::f32) {
    f32_.resize(count);
    std::transform(f16_.begin(), f16_.end(), f32_.begin(),
                   [&](f16 w) { return to_float(w) + random.uniform(0, 1e-5f); });
  } else if (format == Format::int8) {
    codes_.resize(count);
    absmax_.resize(static_cast<size_t>(n));
    quantize_int8(f16_, n, k, codes_, absmax_, pool);
  } else if (format == Format::nf4) {
    quantize_nf4(f16_, n, k, &nf4_, pool, double_quantized);
  }
}

HostMatrix HostWeight::view() const {
  const size_t k = static_cast<size_t>(k_);
  switch (format_) {
    case Format::f16:
      return HostF16{n_, k_, [this, k](int first, int count, f16* out) {
                       std::memcpy(out, f16_.data() + first * k, count * k * sizeof(f16));
                     }};
    case Format::f32:
      return HostF32{n_, k_, [this, k](int first, int count, float* out) {
                       std::memcpy(out, f32_.data() + first * k, count * k * sizeof(float));
                     }};
    case Format::bf16:
      return HostBf16{n_, k_, [this, k](int first, int count, bf16* out) {
                        std::transform(f16_.data() + first * k, f16_.data() + (first + count) * k, out,
                                       [](f16 w) { return to_bf16(to_float(w)); });
                      }};
    case Format::int8: return HostInt8{n_, k_, codes_, absmax_};
    case Format::nf4: return nf4_.view();
  }
  return {};
}

CaseSizes full_sizes(const OpCase& c) { return {c.shape.heads, c.shape.kv_heads, c.shape.ff, c.shape.vocab}; }

CaseSizes test_sizes(const OpCase& c) {
  CaseSizes s = full_sizes(c);
  if (c.shape.hidden < 1024) return s;
  const int divisor = c.rows > 8 ? 8 : 4;  // of the heads; their groups stay
  s.heads /= divisor;
  s.kv_heads /= divisor;
  s.ff = c.rows > 8 ? 89 : c.kind == OpKind::add_linear ? s.ff : 2003;
  if (c.kind == OpKind::add_linear && c.rows > 8) s.ff = 1024;
  s.vocab = std::min(s.vocab, 20011);
  return s;
}

CaseData::CaseData(const OpCase& c, CaseSizes s, uint64_t seed, ThreadPool& pool, Numbers numbers) : op(c), sizes(s) {
  Random random(seed);
  const OpShape& shape = c.shape;
  const bool is_small = numbers == Numbers::small_sums;
  const auto add_weight = [&](int n, int k, bool biased) {
    weights.emplace_back(c.format, c.double_quantized, n, k, biased && !is_small, random, pool, numbers);
  };
  const auto activations = [&](int rows, int cols, Random& from) {
    return is_small ? small_codes(rows, cols, 0x1p-6f, from) : quantbench::activations(rows, cols, from);
  };
  const int d = shape.hidden;
  if (is_small) {
    // The 127 of a row is at most √d of its root mean square; a tenth of that is no outlier.
    norm_weight.assign(static_cast<size_t>(d), 0.1f);
    if (shape.layer_norm) norm_bias.assign(static_cast<size_t>(d), 0.0f);
  } else {
    norm_weight = uniform(static_cast<size_t>(d), 0.5f, 1.5f, random);
    if (shape.layer_norm) norm_bias = uniform(static_cast<size_t>(d), -0.5f, 0.5f, random);
    for (int i = 0; i < 3; ++i) norm_weight[static_cast<size_t>(random.below(d))] = 8;  // outliers behind the norm too
  }
  sequences = c.kind == OpKind::attention && c.rows % 2 == 0 ? 2 : 1;
  for (int r = 0; r < c.rows; ++r) {
    tokens.push_back(random.below(s.vocab));
    row_sequences.push_back(r % sequences);
    positions.push_back(r / sequences);
  }
  switch (c.kind) {
    case OpKind::embed: add_weight(s.vocab, d, false); break;
    case OpKind::attention: {
      x = activations(c.rows, d, random);
      next_x = activations(sequences, d, random);
      add_weight(s.heads * shape.head_dim, d, shape.biased);
      add_weight(s.kv_heads * shape.head_dim, d, shape.biased);
      add_weight(s.kv_heads * shape.head_dim, d, shape.biased);
      for (int p = 0; p <= c.rows; ++p) {
        for (int i = 0; i < shape.rope_dims / 2; ++i) {
          const double angle = p * std::pow(10000.0, -2.0 * i / shape.rope_dims);
          cos.push_back(static_cast<float>(std::cos(angle)));
          sin.push_back(static_cast<float>(std::sin(angle)));
        }
      }
      if (c.sight != Sight::before) {
        std::vector<int32_t> rows_of(static_cast<size_t>(sequences));
        for (const int32_t of : row_sequences) ++rows_of[static_cast<size_t>(of)];
        for (const int32_t of : row_sequences) lengths.push_back(rows_of[static_cast<size_t>(of)]);
        // What a step stores it sees, unless the rows before it alone are stored.
        for (const int32_t rows : rows_of) next_lengths.push_back(rows + (c.sight == Sight::all ? 1 : 0));
      }
      if (c.by_distance) {
        bias_values = uniform(static_cast<size_t>(kBiasBuckets) * static_cast<size_t>(s.heads), -4, 4, random);
        for (int i = 0; i <= 2 * kBiasReach; ++i) bias_buckets.push_back(random.below(kBiasBuckets));
      }
      break;
    }
    case OpKind::add_linear:
      x = activations(c.rows, s.ff, random);
      start = uniform(static_cast<size_t>(c.rows) * d, -2, 2, random);
      add_weight(d, s.ff, shape.biased);
      break;
    case OpKind::gated_up:
      x = activations(c.rows, d, random);
      add_weight(s.ff, d, shape.biased);
      add_weight(s.ff, d, shape.biased);
      break;
    case OpKind::project:
      x = activations(c.rows, d, random);
      add_weight(s.ff, d, shape.biased);
      break;
    case OpKind::next_token: {
      x = uniform(static_cast<size_t>(c.rows) * s.vocab, -8, 8, random);
      // The largest twice: the lower id must win.
      const int low = random.below(s.vocab / 2), high = s.vocab / 2 + random.below(s.vocab / 2);
      x[static_cast<size_t>(low)] = x[static_cast<size_t>(high)] = 9;
      break;
    }
  }
}

struct CaseRun::Parts {
  struct Copy {
    std::deque<Linear> linears;
    std::deque<Matrix> tables;
    Tape tape, next_tape;
    std::unique_ptr<Program> program, next_program;
  };
  const CaseData& data;
  Backend& backend;
  Sampling sampling;
  std::vector<std::unique_ptr<Buffer>> buffers;
  Norm norm;
  Rope rope;
  DistanceBias bias;
  const int32_t *lengths = nullptr, *next_lengths = nullptr;
  Rows rows, next_rows;
  KvLayer kv;
  Tensor x, next_x, q, a, y;
  Buffer* start_buffer = nullptr;
  std::vector<std::pair<Tensor, bool>> outs;  // of the last run; true: poisoned before it
  std::deque<Copy> copies;
  std::unique_ptr<Program> turn;

  Parts(const CaseData& d, Backend& b, Sampling s) : data(d), backend(b), sampling(s) {}

  void* allocate(size_t bytes, Use use = Use::activations) {
    buffers.push_back(backend.allocate(use, std::max<size_t>(bytes, 1)));
    return buffers.back()->data();
  }
  template <typename T>
  T* upload(const std::vector<T>& values) {
    if (values.empty()) return nullptr;
    auto* const to = static_cast<T*>(allocate(values.size() * sizeof(T)));
    backend.upload(*buffers.back(), 0, values.data(), values.size() * sizeof(T));
    return to;
  }
  Tensor tensor(const std::vector<float>& values, int row_count) {
    return {upload(values), DType::f32, row_count, static_cast<int>(values.size()) / row_count};
  }
  Tensor out(int row_count, int cols) {
    return {allocate(static_cast<size_t>(row_count) * cols * sizeof(float)), DType::f32, row_count, cols};
  }
  Rows make_rows(const std::vector<int32_t>& tokens, const std::vector<int32_t>& positions,
                 const std::vector<int32_t>& sequences) {
    return {upload(tokens), upload(positions), upload(sequences), static_cast<int>(positions.size())};
  }
  void prepare();
  void add_copy();
  void poison();
};

void CaseRun::Parts::prepare() {
  const OpShape& shape = data.op.shape;
  const CaseSizes& s = data.sizes;
  const int count = data.op.rows;
  norm = {upload(data.norm_weight), upload(data.norm_bias), 1e-5f, shape.layer_norm};
  rows = make_rows(data.tokens, data.positions, data.row_sequences);
  if (!data.x.empty()) x = tensor(data.x, count);
  switch (data.op.kind) {
    case OpKind::embed: y = out(count, shape.hidden); break;
    case OpKind::attention: {
      const int slots = (count + data.sequences - 1) / data.sequences + kSpareSlots;
      const size_t cache = static_cast<size_t>(data.sequences) * slots * s.kv_heads * shape.head_dim * sizeof(f16);
      kv = {static_cast<f16*>(allocate(cache, Use::kv_cache)),
            static_cast<f16*>(allocate(cache, Use::kv_cache)),
            data.sequences,
            slots,
            s.kv_heads,
            shape.head_dim};
      rope = {shape.rope_dims, upload(data.cos), upload(data.sin)};
      q = out(count, s.heads * shape.head_dim);
      a = out(count, s.heads * shape.head_dim);
      next_x = tensor(data.next_x, data.sequences);
      std::vector<int32_t> next_positions, next_sequences;
      for (int i = 0; i < data.sequences; ++i) {
        next_sequences.push_back(i);
        next_positions.push_back((count - i + data.sequences - 1) / data.sequences);
      }
      next_rows = make_rows(next_sequences, next_positions, next_sequences);
      lengths = upload(data.lengths);
      next_lengths = upload(data.next_lengths);
      bias = {upload(data.bias_values), upload(data.bias_buckets), kBiasReach, kBiasBuckets};
      break;
    }
    case OpKind::add_linear:
      y = out(count, shape.hidden);
      start_buffer = buffers.back().get();
      break;
    case OpKind::gated_up:
    case OpKind::project: y = out(count, s.ff); break;
    case OpKind::next_token: break;
  }
}

void CaseRun::Parts::add_copy() {
  const OpShape& shape = data.op.shape;
  Copy& copy = copies.emplace_back();
  // Rows of its own, or a backend could make them ready once for all copies.
  const Tensor in = copies.size() == 1 || data.x.empty() ? x : tensor(data.x, data.op.rows);
  // Shapes first: a plan must not need the weights.
  for (const HostWeight& w : data.weights) {
    Linear& linear = copy.linears.emplace_back();
    linear.biased = !w.bias().empty();
    switch (data.op.format) {
      case Format::f16: linear.weight = F16Matrix{w.n(), w.k()}; break;
      case Format::f32: linear.weight = F32Matrix{w.n(), w.k()}; break;
      case Format::bf16: linear.weight = Bf16Matrix{w.n(), w.k()}; break;
      case Format::int8: linear.weight = Int8Matrix{w.n(), w.k()}; break;
      case Format::nf4: {
        Nf4Matrix m{w.n(), w.k()};
        m.double_quantized = data.op.double_quantized;
        linear.weight = m;
        break;
      }
    }
  }
  const auto* l = copy.linears.empty() ? nullptr : &copy.linears[0];
  TapeOps tape, next;
  switch (data.op.kind) {
    case OpKind::embed:
      copy.tables.push_back(copy.linears[0].weight);
      tape.embed({.x = y, .table = &copy.tables[0], .scale = 0.75f, .rows = rows});
      break;
    case OpKind::attention: {
      const float scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
      const Linear *wk = &copy.linears[1], *wv = &copy.linears[2];
      const DistanceBias* const by_distance = data.op.by_distance ? &bias : nullptr;
      const bool is_stored = data.op.sight == Sight::stored;
      const auto project = [&](TapeOps& to, Tensor queries, Tensor of, const Rows& at) {
        if (is_stored)
          to.project({.y = queries, .x = of, .norm = &norm, .w = l});
        else
          to.qkv(
              {.q = queries, .kv = kv, .x = of, .norm = &norm, .wq = l, .wk = wk, .wv = wv, .rope = &rope, .rows = at});
      };
      project(tape, q, in, rows);
      if (is_stored) tape.store_kv({.kv = kv, .x = in, .norm = &norm, .wk = wk, .wv = wv, .rows = rows});
      tape.attend({.a = a, .q = q, .kv = kv, .scale = scale, .rows = rows, .lengths = lengths, .bias = by_distance});
      const Tensor nq = q.slice(0, data.sequences), na = a.slice(0, data.sequences);
      project(next, nq, next_x, next_rows);
      next.attend({.a = na,
                   .q = nq,
                   .kv = kv,
                   .scale = scale,
                   .rows = next_rows,
                   .lengths = next_lengths,
                   .bias = by_distance});
      break;
    }
    case OpKind::add_linear: tape.add_linear({.x = y, .a = in, .w = l}); break;
    case OpKind::gated_up:
      tape.gated_up({.h = y, .x = in, .norm = &norm, .gate = l, .up = &copy.linears[1], .act = shape.act});
      break;
    case OpKind::project:
      tape.project({.y = y, .x = in, .norm = &norm, .w = l, .act = shape.biased ? shape.act : Act::none});
      break;
    case OpKind::next_token: tape.next_token({.rows = rows, .logits = in, .sampling = sampling}); break;
  }
  copy.tape = tape.tape();
  copy.next_tape = next.tape();
  const Plan plan = backend.plan(copy.tape, data.op.rows);
  for (size_t i = 0; i < data.weights.size(); ++i) {
    const Matrix packed = backend.pack(data.weights[i].view(), Role::linear, plan);
    if (!copy.tables.empty()) copy.tables[i] = packed;
    copy.linears[i].weight = packed;
    if (!data.weights[i].bias().empty()) copy.linears[i].bias = upload(data.weights[i].bias());
  }
}

void CaseRun::Parts::poison() {
  for (const Tensor& t : {y, q, a}) {
    if (!t.data) continue;
    for (const auto& buffer : buffers) {
      if (buffer->data() != t.data) continue;
      const std::vector<float> nan(static_cast<size_t>(t.rows) * t.cols, std::numeric_limits<float>::quiet_NaN());
      backend.upload(*buffer, 0, nan.data(), t.bytes());
    }
  }
  if (start_buffer) backend.upload(*start_buffer, 0, data.start.data(), data.start.size() * sizeof(float));
}

CaseRun::CaseRun(const CaseData& data, Backend& backend, int copies, Sampling sampling)
    : parts_(std::make_unique<Parts>(data, backend, sampling)) {
  parts_->prepare();
  for (int i = 0; i < copies; ++i) parts_->add_copy();
  parts_->poison();
}
CaseRun::~CaseRun() = default;

void CaseRun::run(int copy) {
  Parts& p = *parts_;
  Parts::Copy& c = p.copies[static_cast<size_t>(copy)];
  if (!c.program) c.program = p.backend.record(p.backend.plan(c.tape, p.data.op.rows));
  c.program->run();
  p.backend.synchronize();
  p.outs.clear();
  for (const Tensor& t : {p.q, p.a, p.y}) {
    if (t.data) p.outs.emplace_back(t, true);
  }
}

void CaseRun::run_turns(int turns) {
  Parts& p = *parts_;
  if (!p.turn) {
    Tape tape;
    for (const Parts::Copy& c : p.copies) tape.insert(tape.end(), c.tape.begin(), c.tape.end());
    p.turn = p.backend.record(p.backend.plan(tape, p.data.op.rows));
  }
  for (int i = 0; i < turns; ++i) p.turn->run();
  p.backend.synchronize();
}

void CaseRun::run_next_step(int copy) {
  Parts& p = *parts_;
  p.poison();
  // Only now: a backend has the workspace of one program.
  Parts::Copy& c = p.copies[static_cast<size_t>(copy)];
  if (!c.next_program) c.next_program = p.backend.record(p.backend.plan(c.next_tape, p.data.op.rows));
  c.next_program->run();
  p.backend.synchronize();
  p.outs = {{p.q.slice(0, p.data.sequences), true}, {p.a.slice(0, p.data.sequences), true}};
}

std::vector<float> CaseRun::outputs() const {
  const Parts& p = *parts_;
  std::vector<float> all;
  for (const auto& [t, poisoned] : p.outs) {
    std::vector<float> values(static_cast<size_t>(t.rows) * t.cols);
    p.backend.download(values.data(), t.data, t.bytes());
    all.insert(all.end(), values.begin(), values.end());
  }
  if (p.data.op.kind == OpKind::next_token) {
    for (const int32_t* from : {p.rows.token, p.rows.position}) {
      std::vector<int32_t> ids(static_cast<size_t>(p.rows.count));
      p.backend.download(ids.data(), from, ids.size() * sizeof(int32_t));
      all.insert(all.end(), ids.begin(), ids.end());
    }
  }
  return all;
}

const Tape& CaseRun::tape() const { return parts_->copies[0].tape; }

Tolerance tolerance_of(const OpCase& c, const CaseSizes& sizes, Activations activations, Numbers numbers) {
  // Copying, arg-max: nothing is rounded differently. LLM.int8: int32 sums are exact and every rounding is specified,
  // also behind a norm, which is summed in double.
  const bool exact = c.format == Format::int8;
  const double k = c.kind == OpKind::add_linear ? sizes.ff : c.shape.hidden;
  // A sum of k products in fp32 goes wrong by about √k roundings of a partial sum of √k average products. Weights are
  // spread over ±2/√k; most activations are within ±4. Twice that for bad luck.
  double sum = 2 * std::sqrt(k) * 0x1p-24 * std::sqrt(k) * (2 / std::sqrt(k)) * 4;
  // A backend may round nf4's code and activations to some 13 bits where it streams weights (bitsandbytes multiplies in
  // fp16): √k roundings of 1/16382 of a block's largest weight times activations of 1, and of outliers up to 60 alone.
  if (c.format == Format::nf4 && (c.rows <= 8 || c.kind == OpKind::attention))
    sum += 6 * 0.3 / 8191 * 2 * (1.2 + 4 * 60 / std::sqrt(k));
  // Rounding activations (and nf4's codes) to fp16: √k roundings of up to 2⁻¹² of the value.
  if (activations == Activations::fp16 && !exact) sum += 6 * 0x1p-12 * 2 * (1.2 + 2 * 60 / std::sqrt(k));
  // With more than one row (up to 16: of whole groups of 128 inputs) a backend with tensor cores sums outlier columns
  // in an order of its own, so that LLM.int8's second rounding to fp16 may go the other way: one unit in the last
  // place, of values up to some tens where others are added.
  const bool reordered = exact && numbers == Numbers::any && activations == Activations::fp16 &&
                         (c.rows > 16 || (c.rows > 1 && std::fmod(k, 128) == 0));
  constexpr double kUlp = 0x1p-10;
  if (reordered) {
    switch (c.kind) {
      case OpKind::add_linear: return {32 * kUlp, 1e-6};
      case OpKind::project: return {4 * kUlp, kUlp};
      case OpKind::gated_up: return {30 * kUlp, kUlp};
      // Keys and values, too: with scores of some tens a key's last place moves weights by a hundredth. And these are
      // rounded to fp16: 2⁻¹¹ of an average of values.
      case OpKind::attention: return {32 * kUlp, 2 * kUlp};
      default: break;
    }
  }
  switch (c.kind) {
    case OpKind::embed:
    case OpKind::next_token: return {};
    case OpKind::add_linear: return exact ? Tolerance{} : Tolerance{sum, 1e-6};
    case OpKind::project: {
      const bool activated = c.shape.biased && c.shape.act != Act::none;
      if (!activated) return exact ? Tolerance{} : Tolerance{sum, 1e-6};
      return {exact ? 1e-6 : 1.2 * sum + 1e-6, 3e-6};  // simd.h states the activations' errors
    }
    case OpKind::gated_up: return {exact ? 1e-5 : 30 * sum, 5e-6};  // the other factor reaches some tens
    case OpKind::attention:
      // Queries and softmax in fp32, then values; where a key or value lies between two fp16 numbers, an fp32
      // difference in its last place can choose the other one (2⁻¹¹ relative), except with int8, whose keys are exact.
      // There scores of some hundreds, rounded to fp32, move weights by 2e-5 and averages of values up to ten by ten
      // times that. One key in some hundreds meets such a choice in an element that matters: scores of some tens move
      // by a hundredth, and with them what its query heads give, here and in the rows behind it (seen in 20 of 400
      // seeds: up to 0.4 % of the outputs, by up to 0.015).
      if (exact) return {2e-4, 2e-6};
      return {2e-3 + 3 * sum, 1e-3, 0.02, 2.0 * sizes.heads / sizes.kv_heads * c.shape.head_dim};
  }
  return {};
}

size_t count_wrong(const std::vector<float>& got, const std::vector<float>& expected, Tolerance t, size_t* first) {
  const double rare = t.rare_share * static_cast<double>(expected.size()) + t.rare_count;
  size_t far = 0, too_far = 0, first_far = 0, first_too_far = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double limit = t.absolute + t.relative * std::fabs(double{expected[i]});
    const double distance =
        i < got.size() ? std::fabs(double{got[i]} - expected[i]) : std::numeric_limits<double>::infinity();
    if (distance <= limit) continue;
    if (far++ == 0) first_far = i;
    if (rare > 0 && distance <= kRareFactor * limit) continue;
    if (too_far++ == 0) first_too_far = i;
  }
  const bool too_many = static_cast<double>(far) > rare;
  *first = too_many ? first_far : first_too_far;
  return too_many ? far : too_far;
}

}  // namespace quantbench
