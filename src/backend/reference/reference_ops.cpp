#include "backend/reference/reference_ops.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "backend/sampling.h"
#include "quant/int8.h"
#include "quant/nf4.h"

namespace quantbench {
namespace {

using Floats = std::vector<float>;

// RMSNorm: x / √(mean(x²) + eps) · weight. LayerNorm: (x − mean) / √(variance + eps) · weight + bias.
Floats normalize(Tensor x, const Norm& norm) {
  Floats out(static_cast<size_t>(x.rows) * x.cols);
  for (int r = 0; r < x.rows; ++r) {
    const float* in = x.f32(r);
    double mean = 0, square = 0;
    if (norm.centered) {
      for (int i = 0; i < x.cols; ++i) mean += in[i];
      mean /= x.cols;
    }
    for (int i = 0; i < x.cols; ++i) square += (in[i] - mean) * (in[i] - mean);
    const double factor = 1 / std::sqrt(square / x.cols + norm.eps);
    for (int i = 0; i < x.cols; ++i) {
      const double bias = norm.bias ? norm.bias[i] : 0;
      out[static_cast<size_t>(r) * x.cols + i] = static_cast<float>((in[i] - mean) * factor * norm.weight[i] + bias);
    }
  }
  return out;
}

Tensor view(Floats& values, int rows) {
  return {values.data(), DType::f32, rows, static_cast<int>(values.size() / static_cast<size_t>(rows))};
}

// y = x·Wᵀ + b for each format. y: [rows, n]; x: [rows, k].
struct Product {
  Tensor y, x;
  const float* bias;

  template <typename T>
  void dense(int n, int k, const T* w) const {
    const auto value = [](T stored) -> double {
      if constexpr (std::is_same_v<T, float>)
        return stored;
      else
        return to_float(stored);
    };
    for (int r = 0; r < x.rows; ++r) {
      const float* in = x.f32(r);
      for (int i = 0; i < n; ++i) {
        const T* row = w + static_cast<size_t>(i) * k;
        double sum = bias ? bias[i] : 0;
        for (int j = 0; j < k; ++j) sum += double{in[j]} * value(row[j]);
        y.f32(r)[i] = static_cast<float>(sum);
      }
    }
  }
  void operator()(const F16Matrix& m) const { dense(m.n, m.k, m.w); }
  void operator()(const Bf16Matrix& m) const { dense(m.n, m.k, m.w); }
  void operator()(const F32Matrix& m) const { dense(m.n, m.k, m.w); }

  void operator()(const Int8Matrix& m) const {
    const size_t n = static_cast<size_t>(m.n), k = static_cast<size_t>(m.k), rows = static_cast<size_t>(x.rows);
    std::vector<f16> in(rows * k), out(rows * n);
    for (size_t i = 0; i < in.size(); ++i) in[i] = to_f16(x.f32()[i]);
    int8_linear({m.n, m.k, {m.w, n * k}, {m.absmax, n}}, bias, in, x.rows, out);
    for (size_t i = 0; i < out.size(); ++i) y.f32()[i] = to_float(out[i]);
  }

  void operator()(const Nf4Matrix& m) const {
    const size_t count = static_cast<size_t>(m.n) * m.k, blocks = ceil_div(count, kNf4Block);
    HostNf4 host{.n = m.n, .k = m.k, .codes = {m.w, ceil_div(count, 2)}, .offset = m.offset};
    if (m.double_quantized) {
      host.absmax8 = {m.absmax8, blocks};
      host.nested_absmax = {m.nested_absmax, ceil_div(blocks, kNf4NestedBlock)};
    } else {
      host.absmax = {m.absmax, blocks};
    }
    Floats weights(count);
    dequantize_nf4(host, weights);
    dense(m.n, m.k, weights.data());
  }
};

void multiply(Tensor y, Tensor x, const Linear& w) { std::visit(Product{y, x, w.bias}, w.weight); }

Floats product(Tensor x, const Linear& w) {
  Floats y(static_cast<size_t>(x.rows) * rows_of(w.weight));
  multiply(view(y, x.rows), x, w);
  return y;
}

float activate(float value, Act act) {
  const double x = value;
  switch (act) {
    case Act::none: return value;
    case Act::relu: return std::max(value, 0.0f);
    case Act::silu: return static_cast<float>(x / (1 + std::exp(-x)));
    case Act::gelu_tanh:
      return static_cast<float>(0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))));
  }
  return value;
}

// Rotates pairs (i, i + dims/2) of one head in place.
void rotate(float* head, const Rope& rope, int position) {
  const int half = rope.dims / 2;
  const float* cos = rope.cos + static_cast<size_t>(position) * half;
  const float* sin = rope.sin + static_cast<size_t>(position) * half;
  for (int i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cos[i] - b * sin[i];
    head[i + half] = b * cos[i] + a * sin[i];
  }
}

// Index of one cached head vector.
size_t cache_at(const KvLayer& kv, int sequence, int position, int head) {
  return ((static_cast<size_t>(sequence) * kv.positions + position) * kv.heads + head) * kv.head_dim;
}

// What is added to a score of head h of `heads`.
float bias_of(const DistanceBias& bias, int distance, int h, int heads) {
  const int bucket = bias.bucket[std::clamp(distance, -bias.reach, bias.reach) + bias.reach];
  return bias.values[static_cast<size_t>(bucket) * heads + h];
}

void store(f16* cache, const float* values, int count) {
  for (int i = 0; i < count; ++i) cache[i] = to_f16(values[i]);
}

// Ascending. See Sampling.
std::vector<int32_t> ids_that_stay(std::span<const float> logits, const Sampling& sampling) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const int vocab = static_cast<int>(logits.size());
  if (!sampling.cuts(vocab)) return ids;
  const auto key = [&](int32_t id) { return order_key(logits[static_cast<size_t>(id)]); };
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return key(a) > key(b); });
  const auto keep_from = [&](uint32_t least) { std::erase_if(ids, [&](int32_t id) { return key(id) < least; }); };
  if (sampling.cuts_by_rank(vocab)) keep_from(key(ids[static_cast<size_t>(sampling.top_k - 1)]));
  if (sampling.cuts_by_mass()) {
    const float most = logits[static_cast<size_t>(ids.front())];
    const auto mass = [&](int32_t id) {
      return sampling_mass(logits[static_cast<size_t>(id)], most, sampling.temperature);
    };
    uint64_t total = 0, above = 0;
    for (const int32_t id : ids) total += mass(id);
    const uint64_t kept = mass_to_keep(sampling.top_p, total);
    for (const int32_t id : ids) {
      above += mass(id);
      if (above < kept) continue;
      if (kept > 0) keep_from(key(id));
      break;
    }
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace

void ReferenceOps::embed(const Embed& op) {
  const int d = cols_of(*op.table);
  const auto embed = [&](const auto* table) {
    for (int r = 0; r < op.rows.count; ++r) {
      const auto* row = table + static_cast<size_t>(op.rows.token[r]) * d;
      for (int i = 0; i < d; ++i) op.x.f32(r)[i] = to_float(row[i]) * op.scale;
    }
  };
  if (const auto* half = std::get_if<F16Matrix>(op.table)) return embed(half->w);
  embed(std::get<Bf16Matrix>(*op.table).w);
}

void ReferenceOps::qkv(const Qkv& op) {
  Floats normed = normalize(op.x, *op.norm);
  const Tensor n = view(normed, op.x.rows);
  const KvLayer& kv = op.kv;
  multiply(op.q, n, *op.wq);
  Floats k = product(n, *op.wk), v = product(n, *op.wv);
  const size_t kv_dim = static_cast<size_t>(kv.heads) * kv.head_dim;
  for (int r = 0; r < op.rows.count; ++r) {
    const int position = op.rows.position[r], sequence = op.rows.sequence[r];
    float *k_row = k.data() + r * kv_dim, *v_row = v.data() + r * kv_dim;
    if (op.rope) {
      for (int i = 0; i < op.q.cols; i += kv.head_dim) rotate(op.q.f32(r) + i, *op.rope, position);
      for (int h = 0; h < kv.heads; ++h) rotate(k_row + static_cast<size_t>(h) * kv.head_dim, *op.rope, position);
    }
    store(kv.k + cache_at(kv, sequence, position, 0), k_row, static_cast<int>(kv_dim));
    store(kv.v + cache_at(kv, sequence, position, 0), v_row, static_cast<int>(kv_dim));
  }
}

void ReferenceOps::store_kv(const StoreKv& op) {
  Floats normed = normalize(op.x, *op.norm);
  const Tensor n = view(normed, op.x.rows);
  const Floats k = product(n, *op.wk), v = product(n, *op.wv);
  const int kv_dim = op.kv.heads * op.kv.head_dim;
  for (int r = 0; r < op.rows.count; ++r) {
    const size_t to = cache_at(op.kv, op.rows.sequence[r], op.rows.position[r], 0),
                 from = static_cast<size_t>(r) * kv_dim;
    store(op.kv.k + to, k.data() + from, kv_dim);
    store(op.kv.v + to, v.data() + from, kv_dim);
  }
}

void ReferenceOps::attend(const Attend& op) {
  const KvLayer& kv = op.kv;
  const int d = kv.head_dim, q_heads = op.q.cols / d, group = q_heads / kv.heads;
  for (int r = 0; r < op.rows.count; ++r) {
    const int position = op.rows.position[r], sequence = op.rows.sequence[r];
    const int length = op.lengths ? op.lengths[r] : position + 1;
    for (int h = 0; h < q_heads; ++h) {
      const float* q = op.q.f32(r) + static_cast<size_t>(h) * d;
      std::vector<double> p(static_cast<size_t>(length)), sum(static_cast<size_t>(d));
      for (int t = 0; t < length; ++t) {
        const f16* k = kv.k + cache_at(kv, sequence, t, h / group);
        double dot = 0;
        for (int i = 0; i < d; ++i) dot += double{q[i]} * to_float(k[i]);
        p[t] = dot * op.scale + (op.bias ? bias_of(*op.bias, t - position, h, q_heads) : 0);
      }
      const double most = *std::max_element(p.begin(), p.end());
      double total = 0;
      for (double& score : p) total += score = std::exp(score - most);
      for (int t = 0; t < length; ++t) {
        const f16* v = kv.v + cache_at(kv, sequence, t, h / group);
        for (int i = 0; i < d; ++i) sum[i] += p[t] / total * to_float(v[i]);
      }
      for (int i = 0; i < d; ++i) op.a.f32(r)[h * d + i] = static_cast<float>(sum[i]);
    }
  }
}

void ReferenceOps::add_linear(const AddLinear& op) {
  const Floats y = product(op.a, *op.w);
  for (size_t i = 0; i < y.size(); ++i) op.x.f32()[i] += y[i];
}

void ReferenceOps::gated_up(const GatedUp& op) {
  Floats normed = normalize(op.x, *op.norm);
  const Tensor n = view(normed, op.x.rows);
  multiply(op.h, n, *op.up);
  const Floats gate = product(n, *op.gate);
  for (size_t i = 0; i < gate.size(); ++i) op.h.f32()[i] *= activate(gate[i], op.act);
}

void ReferenceOps::project(const Project& op) {
  if (op.norm) {
    Floats normed = normalize(op.x, *op.norm);
    multiply(op.y, view(normed, op.x.rows), *op.w);
  } else {
    multiply(op.y, op.x, *op.w);
  }
  for (size_t i = 0; i < static_cast<size_t>(op.y.rows) * op.y.cols; ++i) {
    op.y.f32()[i] = activate(op.y.f32()[i], op.act);
  }
}

void ReferenceOps::next_token(const NextToken& op) {
  for (int r = 0; r < op.rows.count; ++r) {
    if (is_done(op, r)) continue;
    const float* logits = op.logits.f32(r);
    const int position = op.rows.position[r];
    int32_t best = 0;
    float best_score = -INFINITY;
    for (const int32_t id : ids_that_stay({logits, static_cast<size_t>(op.logits.cols)}, op.sampling)) {
      const float score = sampling_score(logits[id], op.sampling.temperature, op.sampling.seed, position, id);
      if (score > best_score) best = id, best_score = score;
    }
    take_token(op, r, best);
  }
}

}  // namespace quantbench
