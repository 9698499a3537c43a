#include "engine/buffers.h"

#include <algorithm>

#include "core/error.h"

namespace quantbench {
namespace {

constexpr size_t kAlignment = 256;  // of every tensor in a buffer; the strictest that a device asks for

// Hands out offsets in a buffer that is still to be taken.
class Layout {
 public:
  explicit Layout(size_t begin = 0) : bytes_(begin) {}
  size_t take(size_t bytes) {
    const size_t at = bytes_;
    bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_;
};

struct RowsAt {
  size_t token, position, sequence;
  RowsAt(Layout& layout, int count)
      : token(layout.take(bytes(count))), position(layout.take(bytes(count))), sequence(layout.take(bytes(count))) {}
  static size_t bytes(int count) { return static_cast<size_t>(count) * sizeof(int32_t); }
};

// Of a model without an encoder all of its sizes are 0.
EncoderShape encoder_of(const Shape& shape) { return shape.encoder.value_or(EncoderShape{}); }

// Of keys or values of one layer.
size_t cache_bytes(int sequences, int positions, int heads, int head_dim) {
  return static_cast<size_t>(sequences) * static_cast<size_t>(positions) * static_cast<size_t>(heads) *
         static_cast<size_t>(head_dim) * sizeof(f16);
}

// What is not needed at the same time shares memory. Of a layer, q and a are done with before h is written; so they lie
// in the last rows of h, where steps, which read h's first rows alone, never find them (a recorded step may tell
// tensors by their addresses). The encoder is done before the decoder begins.
struct ActivationLayout {
  Layout all;
  size_t x, logits, history, stops, done;
  RowsAt prefill, decode;
  size_t lengths, cross_lengths, encoder_lengths;
  RowsAt encoder;
  size_t q, a, h;
  struct {
    size_t q, a, h, x, patches, k, v;
  } of_encoder;

  ActivationLayout(const Shape& shape, const StateShape& run)
      : ActivationLayout(shape, run, encoder_of(shape), run.encoder_rows) {}

 private:
  ActivationLayout(const Shape& shape, const StateShape& run, const EncoderShape& e, int rows)
      : x(all.take(floats(run.rows, shape.hidden))),
        logits(all.take(floats(run.logit_rows, shape.vocab))),
        history(all.take(floats(run.sequences, run.positions))),
        stops(all.take(floats(1, 1 + static_cast<int>(RunBuffers::kMostStops)))),
        done(all.take(floats(1, run.sequences))),
        prefill(all, run.rows),
        decode(all, run.sequences),
        lengths(all.take(shape.has_picture() ? floats(run.rows, 1) : 0)),
        cross_lengths(all.take(shape.has_cross_attention() ? floats(run.rows, 1) : 0)),
        encoder_lengths(all.take(floats(rows, 1))),
        encoder(all, rows) {
    const size_t begin = all.bytes();
    Layout of_decoder(begin), before(begin);
    h = of_decoder.take(floats(shape.attention_first ? run.sequences : run.rows, shape.intermediate));
    q = of_decoder.take(floats(run.rows, shape.heads * shape.head_dim));
    a = of_decoder.take(floats(run.rows, shape.heads * shape.head_dim));
    Layout whole(begin);
    whole.take(floats(run.rows, shape.intermediate));

    Layout attention(begin), mlp(begin);
    of_encoder.q = attention.take(floats(rows, e.heads * e.head_dim));
    of_encoder.a = attention.take(floats(rows, e.heads * e.head_dim));
    of_encoder.h = mlp.take(floats(rows, e.intermediate));
    before.take(std::max(attention.bytes(), mlp.bytes()) - begin);
    of_encoder.x = before.take(floats(rows, e.hidden));
    of_encoder.patches = before.take(e.picture ? floats(rows, e.picture->values()) : 0);
    of_encoder.k = before.take(cache_bytes(run.sequences, run.encoder_positions, e.heads, e.head_dim));
    of_encoder.v = before.take(cache_bytes(run.sequences, run.encoder_positions, e.heads, e.head_dim));

    const size_t end = std::max({of_decoder.bytes(), whole.bytes(), before.bytes()});
    q += end - of_decoder.bytes();
    a += end - of_decoder.bytes();
    all.take(end - begin);
  }
  static size_t floats(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols) * 4; }
};

struct KvLayout {
  Layout all;
  std::vector<size_t> k, v;              // one a layer
  std::vector<size_t> cross_k, cross_v;  // likewise, where there is a cross-attention

  KvLayout(const Shape& shape, const StateShape& run) {
    const auto take = [&](int positions, std::vector<size_t>* keys, std::vector<size_t>* values) {
      const size_t bytes = cache_bytes(run.sequences, positions, shape.kv_heads, shape.head_dim);
      for (int i = 0; i < shape.layers; ++i) {
        keys->push_back(all.take(bytes));
        values->push_back(all.take(bytes));
      }
    };
    take(run.positions, &k, &v);
    if (shape.has_cross_attention()) take(run.encoder_positions, &cross_k, &cross_v);
  }
};

}  // namespace

RunBuffers::RunBuffers(Backend& backend, const Shape& shape, const StateShape& run) : backend_(backend) {
  const ActivationLayout at(shape, run);
  const KvLayout kv_at(shape, run);
  activations_ = backend.allocate(Use::activations, at.all.bytes());
  kv_cache_ = backend.allocate(Use::kv_cache, kv_at.all.bytes());

  auto* const base = static_cast<std::byte*>(activations_->data());
  auto* const kv_base = static_cast<std::byte*>(kv_cache_->data());
  const auto tensor = [&](size_t offset, int rows, int cols) { return Tensor{base + offset, DType::f32, rows, cols}; };
  const auto ints = [&](size_t offset) { return reinterpret_cast<int32_t*>(base + offset); };
  const auto rows = [&](const RowsAt& r, int count) {
    return Rows{ints(r.token), ints(r.position), ints(r.sequence), count};
  };
  prefill.x = tensor(at.x, run.rows, shape.hidden);
  prefill.q = tensor(at.q, run.rows, shape.heads * shape.head_dim);
  prefill.a = tensor(at.a, run.rows, shape.heads * shape.head_dim);
  prefill.h = tensor(at.h, run.rows, shape.intermediate);
  prefill.logits = tensor(at.logits, run.logit_rows, shape.vocab);
  const auto halves = [](std::byte* start) { return reinterpret_cast<f16*>(start); };
  for (size_t i = 0; i < kv_at.k.size(); ++i) {
    prefill.kv.push_back({halves(kv_base + kv_at.k[i]), halves(kv_base + kv_at.v[i]), run.sequences, run.positions,
                          shape.kv_heads, shape.head_dim});
  }
  for (size_t i = 0; i < kv_at.cross_k.size(); ++i) {
    prefill.cross.push_back({halves(kv_base + kv_at.cross_k[i]), halves(kv_base + kv_at.cross_v[i]), run.sequences,
                             run.encoder_positions, shape.kv_heads, shape.head_dim});
  }
  if (shape.has_picture()) prefill.lengths = ints(at.lengths);
  if (shape.has_cross_attention()) prefill.cross_lengths = ints(at.cross_lengths);
  if (shape.encoder) {
    const EncoderShape& e = *shape.encoder;
    const int count = run.encoder_rows, width = e.heads * e.head_dim;
    prefill.encoder = {.x = tensor(at.of_encoder.x, count, e.hidden),
                       .q = tensor(at.of_encoder.q, count, width),
                       .a = tensor(at.of_encoder.a, count, width),
                       .h = tensor(at.of_encoder.h, count, e.intermediate),
                       .kv = {halves(base + at.of_encoder.k), halves(base + at.of_encoder.v), run.sequences,
                              run.encoder_positions, e.heads, e.head_dim},
                       .rows = rows(at.encoder, count),
                       .lengths = ints(at.encoder_lengths)};
    if (e.picture) prefill.encoder.patches = tensor(at.of_encoder.patches, count, e.picture->values());
  }
  prefill.rows = rows(at.prefill, run.rows);
  prefill.history = ints(at.history);
  prefill.history_positions = run.positions;
  prefill.stops = ints(at.stops);
  prefill.done = ints(at.done);
  decode = prefill.first(run.sequences);
  decode.rows = rows(at.decode, run.sequences);
  decode.lengths = nullptr;  // a step sees all that is before it
}

void RunBuffers::upload_encoder_rows(std::span<const int32_t> token, std::span<const int32_t> position,
                                     std::span<const int32_t> sequence, std::span<const int32_t> length) {
  upload_rows(prefill.encoder.rows, token, position, sequence);
  put(prefill.encoder.lengths, length);
}

void RunBuffers::upload_patches(std::span<const float> values) {
  put(prefill.encoder.patches.data, values.data(), values.size_bytes());
}

void RunBuffers::upload_rows(const Rows& rows, std::span<const int32_t> token, std::span<const int32_t> position,
                             std::span<const int32_t> sequence) {
  put(rows.token, token);
  put(rows.position, position);
  put(rows.sequence, sequence);
}

void RunBuffers::upload_stops(std::span<const int32_t> ids) {
  ids = ids.first(std::min(ids.size(), kMostStops));
  std::vector<int32_t> counted{static_cast<int32_t>(ids.size())};
  counted.insert(counted.end(), ids.begin(), ids.end());
  put(decode.stops, counted);
  put(decode.done, std::vector<int32_t>(static_cast<size_t>(decode.rows.count)));
}

void RunBuffers::put(const void* to, const void* from, size_t bytes) {
  const auto* const base = static_cast<const std::byte*>(activations_->data());
  backend_.upload(*activations_, static_cast<size_t>(static_cast<const std::byte*>(to) - base), from, bytes);
}

MemoryUse predict_memory(const Plan& plan, const Model& model, const StateShape& run) {
  MemoryUse use = plan.predicted;
  use[Use::activations] += ActivationLayout(model.shape(), run).all.bytes();
  use[Use::kv_cache] += KvLayout(model.shape(), run).all.bytes();
  use[Use::tables] += model.table_bytes(run.positions);
  return use;
}

void require_memory(const MemoryUse& predicted, const DeviceInfo& device) {
  const size_t wanted = predicted.total();
  if (wanted <= device.available_bytes) return;
  const auto gib = [](size_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  std::string parts;
  for (int i = 0; i < kUses; ++i) {
    const auto use = static_cast<Use>(i);
    if (predicted[use] > 0)
      parts += fmt::format("{}{} {:.2f}", parts.empty() ? "" : ", ", name_of(use), gib(predicted[use]));
  }
  fail(ErrorKind::out_of_memory,
       "not enough memory on {}: {:.2f} GiB are needed ({}), {:.2f} GiB are available; choose int8 or 4bit, a smaller "
       "model, a shorter prompt or fewer tokens, or free memory",
       device.name, gib(wanted), parts, gib(device.available_bytes));
}

}  // namespace quantbench
