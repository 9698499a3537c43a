// T5 v1.1 and Flan-T5, and T5 as first published (transformers' T5ForConditionalGeneration): an encoder, and a decoder
// that reads it by cross-attention. Attention has no scale and no rotation; a bias by distance, of the first layer of a
// stack, serves all of it. The MLP's second matrix stays fp32 in every precision.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/family.h"

namespace quantbench {
namespace {

// The bias of one stack: the values are the model's, the buckets (arXiv 1910.10683, _relative_position_bucket) made
// here.
struct StackBias {
  DistanceBias bias;
  std::unique_ptr<Buffer> buckets;  // int32 [2 · reach + 1]
};

class T5 final : public Model {
 public:
  T5(const ConfigReader& c, const Storage& storage);

  const Shape& shape() const override { return shape_; }
  std::vector<WeightSlot> weights() override;
  void make_tables(Backend& backend, int positions) override;
  size_t table_bytes(int) const override { return 2 * bucket_count() * sizeof(int32_t); }

  void encode(Ops& ops, const State& s) const override {
    const EncoderState& e = s.encoder;
    ops.embed({.x = e.x, .table = table(), .rows = e.rows});
    for (const EncoderLayer& w : encoder_) {
      ops.qkv({e.q, e.kv, e.x, &w.norm, &w.wq, &w.wk, &w.wv, nullptr, e.rows});
      ops.attend({e.a, e.q, e.kv, 1, e.rows, e.lengths, &encoder_bias_.bias});
      ops.add_linear({e.x, e.a, &w.wo});
      feed_forward(ops, e.x, e.h, w.ff);
    }
    for (size_t i = 0; i < decoder_.size(); ++i) {
      ops.store_kv({s.cross[i], e.x, &encoder_norm_, &decoder_[i].cross_k, &decoder_[i].cross_v, e.rows});
    }
  }
  void forward(Ops& ops, const State& s) const override {
    ops.embed({.x = s.x, .table = table(), .rows = s.rows});
    for (size_t i = 0; i < decoder_.size(); ++i) {
      const DecoderLayer& w = decoder_[i];
      ops.qkv({s.q, s.kv[i], s.x, &w.norm, &w.wq, &w.wk, &w.wv, nullptr, s.rows});
      ops.attend({s.a, s.q, s.kv[i], 1, s.rows, nullptr, &decoder_bias_.bias});
      ops.add_linear({s.x, s.a, &w.wo});
      ops.project({.y = s.q, .x = s.x, .norm = &w.cross_norm, .w = &w.cross_q});
      ops.attend({s.a, s.q, s.cross[i], 1, s.rows, s.cross_lengths, nullptr, s.cross[i].positions});
      ops.add_linear({s.x, s.a, &w.cross_o});
      feed_forward(ops, s.x, s.h, w.ff);
    }
  }
  void head(Ops& ops, const State& s, int first, int count) const override {
    ops.project({.y = s.logits.slice(0, count), .x = s.x.slice(first, count), .norm = &norm_, .w = &head_});
  }

 private:
  struct FeedForward {
    Norm norm;
    Linear gate, up, down;  // wi_0, wi_1, wo; without a gate wi is `up`
  };
  struct EncoderLayer {
    Norm norm;
    Linear wq, wk, wv, wo;
    FeedForward ff;
  };
  struct DecoderLayer {
    Norm norm, cross_norm;
    Linear wq, wk, wv, wo, cross_q, cross_k, cross_v, cross_o;
    FeedForward ff;
  };

  void feed_forward(Ops& ops, Tensor x, Tensor h, const FeedForward& ff) const {
    if (gated_) {
      ops.gated_up({h, x, &ff.norm, &ff.gate, &ff.up, activation_});  // h = gelu(W0·n) ∘ (W1·n)
    } else {
      ops.project({.y = h, .x = x, .norm = &ff.norm, .w = &ff.up, .act = activation_});  // h = relu(W·n)
    }
    ops.add_linear({x, h, &ff.down});  // x += Wo·h
  }
  const Matrix* table() const { return tied_ ? &head_.weight : &embedding_; }
  size_t bucket_count() const { return 2 * static_cast<size_t>(max_distance_) + 1; }
  int bucket_of(int distance, bool both_ways) const;
  void add_feed_forward(Slots& slots, const std::string& layer, FeedForward* ff) const;

  Shape shape_;
  bool scaled_, tied_, gated_;
  Act activation_;
  int buckets_, max_distance_;
  StackBias encoder_bias_, decoder_bias_;
  Matrix embedding_;
  std::vector<EncoderLayer> encoder_;
  std::vector<DecoderLayer> decoder_;
  Norm encoder_norm_, norm_;
  Linear head_;
};

constexpr int kUsualLength = 512;  // of the texts that T5 was trained with; files of today do not say it

Shape read_shape(const ConfigReader& c) {
  Shape s;
  s.architecture = "T5ForConditionalGeneration";
  EncoderShape e;
  e.layers = c.integer("num_layers", 1, kMostLayers);
  s.layers = c.integer_or("num_decoder_layers", 1, kMostLayers, e.layers);
  s.hidden = e.hidden = c.integer("d_model", 1, kMostHidden);
  s.intermediate = e.intermediate = c.integer("d_ff", 1, kMostHidden);
  s.heads = s.kv_heads = e.heads = c.integer("num_heads", 1, kMostHeads);
  s.head_dim = e.head_dim = c.integer("d_kv", 1, kMostHidden);
  if (static_cast<int64_t>(s.heads) * s.head_dim > kMostHidden) {
    c.fail_key("d_kv", fmt::format("at most {} with {} heads", kMostHidden / s.heads, s.heads));
  }
  s.vocab = c.integer("vocab_size", 1, kMostVocab);
  s.max_positions = kMostPositions;  // distances have no end
  e.max_tokens = c.integer_or("n_positions", 1, kMostPositions, kUsualLength);
  s.encoder = e;
  const std::vector<int32_t> start = special_ids(c.source(), "decoder_start_token_id", s.vocab);
  if (start.size() != 1) c.fail_key("decoder_start_token_id", "one token id");
  s.decoder_start = start.front();
  return s;
}

bool read_gated(const ConfigReader& c) {
  const auto told = c.source().config.find("feed_forward_proj");
  if (told == c.source().config.end() || told->is_null()) return false;  // as T5Config has it, of the first T5
  const std::string form = c.text("feed_forward_proj");
  if (form == "gated-gelu") return true;
  if (form != "relu") c.fail_unsupported("feed_forward_proj", "gated-gelu or relu");
  return false;
}

T5::T5(const ConfigReader& c, const Storage& storage)
    : shape_(read_shape(c)),
      // As T5Config has it. transformers 5 writes that they are tied of every model, and of one that was not that the
      // decoder's outputs are not scaled; such a one that it made itself has no head of its own all the same.
      scaled_(c.boolean_or("tie_word_embeddings", true) && c.boolean_or("scale_decoder_outputs", true)),
      tied_(scaled_ || (c.source().lacks_head && c.boolean_or("tie_word_embeddings", true))),
      gated_(read_gated(c)),
      activation_(gated_ ? Act::gelu_tanh : Act::relu),
      buckets_(c.integer_or("relative_attention_num_buckets", 4, kMostHidden, 32)),
      // Files of its first year do not say it.
      max_distance_(c.integer_or("relative_attention_max_distance", buckets_, kMostHidden, 128)),
      embedding_(unloaded_unquantized(storage, shape_.vocab, shape_.hidden)) {
  if (buckets_ % 4 != 0) c.fail_key("relative_attention_num_buckets", "a multiple of 4");
  const int d = shape_.hidden, q = shape_.heads * shape_.head_dim, ff = shape_.intermediate;
  const Norm norm{nullptr, nullptr, static_cast<float>(c.number("layer_norm_epsilon", 1e-12, 0.1)), false};
  const auto linear = [&](int n, int k) { return unloaded_linear(storage, n, k, false); };
  const FeedForward mlp{norm, gated_ ? linear(ff, d) : Linear{}, linear(ff, d), {F32Matrix{d, ff}}};
  encoder_.assign(static_cast<size_t>(shape_.encoder->layers),
                  {norm, linear(q, d), linear(q, d), linear(q, d), linear(d, q), mlp});
  decoder_.assign(static_cast<size_t>(shape_.layers),
                  {norm, norm, linear(q, d), linear(q, d), linear(q, d), linear(d, q), linear(q, d), linear(q, d),
                   linear(q, d), linear(d, q), mlp});
  encoder_norm_ = norm_ = norm;
  head_ = {unloaded_unquantized(storage, shape_.vocab, d)};
  for (StackBias* stack : {&encoder_bias_, &decoder_bias_}) {
    stack->bias.reach = max_distance_;
    stack->bias.buckets = buckets_;
  }
  complete_shape(c, weights(), &shape_);
}

// distance: key − query. An encoder has half of the buckets for keys behind the query.
int T5::bucket_of(int distance, bool both_ways) const {
  const int n = both_ways ? buckets_ / 2 : buckets_, first = both_ways && distance > 0 ? n : 0;
  const int d = both_ways ? std::abs(distance) : std::max(-distance, 0), exact = n / 2;
  if (d < exact) return first + d;
  const float share = std::log(static_cast<float>(d) / static_cast<float>(exact)) /
                      static_cast<float>(std::log(static_cast<double>(max_distance_) / exact));
  return first + std::min(n - 1, exact + static_cast<int>(share * static_cast<float>(n - exact)));
}

void T5::make_tables(Backend& backend, int) {
  for (StackBias* stack : {&encoder_bias_, &decoder_bias_}) {
    if (stack->buckets) continue;
    std::vector<int32_t> buckets;
    for (int distance = -max_distance_; distance <= max_distance_; ++distance) {
      buckets.push_back(bucket_of(distance, stack == &encoder_bias_));
    }
    stack->buckets = backend.allocate(Use::tables, buckets.size() * sizeof(int32_t));
    backend.upload(*stack->buckets, 0, buckets.data(), buckets.size() * sizeof(int32_t));
    stack->bias.bucket = static_cast<const int32_t*>(stack->buckets->data());
  }
}

void T5::add_feed_forward(Slots& slots, const std::string& layer, FeedForward* ff) const {
  if (gated_) slots.linear(layer + "DenseReluDense.wi_0", &ff->gate);
  slots.linear(layer + (gated_ ? "DenseReluDense.wi_1" : "DenseReluDense.wi"), &ff->up);
  slots.linear(layer + "DenseReluDense.wo", &ff->down);
  slots.vector(layer + "layer_norm.weight", shape_.hidden, &ff->norm.weight);
}

std::vector<WeightSlot> T5::weights() {
  const int d = shape_.hidden;
  Slots slots;
  if (!tied_) slots.table("shared.weight", &embedding_);
  if (tied_) slots.head("shared", &head_);
  for (const char* stack : {"encoder", "decoder"}) {
    slots.tied(fmt::format("{}.embed_tokens.weight", stack), "shared.weight", shape_.vocab, d, Role::embedding);
  }
  const auto attention = [&slots](const std::string& prefix, Linear* q, Linear* k, Linear* v, Linear* o) {
    slots.linear(prefix + ".q", q);
    slots.linear(prefix + ".k", k);
    slots.linear(prefix + ".v", v);
    slots.linear(prefix + ".o", o);
  };
  const auto bias = [&](const char* stack, StackBias* to) {
    slots.floats(fmt::format("{}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", stack), buckets_,
                 shape_.heads, &to->bias.values);
  };
  bias("encoder", &encoder_bias_);
  for (size_t i = 0; i < encoder_.size(); ++i) {
    EncoderLayer& w = encoder_[i];
    const std::string block = fmt::format("encoder.block.{}.", i);
    slots.vector(block + "layer.0.layer_norm.weight", d, &w.norm.weight);
    attention(block + "layer.0.SelfAttention", &w.wq, &w.wk, &w.wv, &w.wo);
    add_feed_forward(slots, block + "layer.1.", &w.ff);
  }
  slots.vector("encoder.final_layer_norm.weight", d, &encoder_norm_.weight);
  bias("decoder", &decoder_bias_);
  for (size_t i = 0; i < decoder_.size(); ++i) {
    DecoderLayer& w = decoder_[i];
    const std::string block = fmt::format("decoder.block.{}.", i);
    slots.vector(block + "layer.0.layer_norm.weight", d, &w.norm.weight);
    attention(block + "layer.0.SelfAttention", &w.wq, &w.wk, &w.wv, &w.wo);
    slots.vector(block + "layer.1.layer_norm.weight", d, &w.cross_norm.weight);
    attention(block + "layer.1.EncDecAttention", &w.cross_q, &w.cross_k, &w.cross_v, &w.cross_o);
    add_feed_forward(slots, block + "layer.2.", &w.ff);
  }
  // The head of the first T5 reads what the decoder gives divided by √d_model.
  slots.vector("decoder.final_layer_norm.weight", d, &norm_.weight,
               scaled_ ? 1 / std::sqrt(static_cast<float>(d)) : 1.0f);
  if (!tied_) slots.head("lm_head", &head_);
  if (tied_) slots.tied("lm_head.weight", "shared.weight", shape_.vocab, d);
  return slots.take();
}

}  // namespace

std::unique_ptr<Model> make_t5(const ModelConfig& config, const Storage& storage) {
  return std::make_unique<T5>(ConfigReader(config), storage);
}

}  // namespace quantbench
