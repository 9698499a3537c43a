// Llama (transformers' LlamaForCausalLM): RMSNorm, grouped-query attention with RoPE, gated MLP, residual around each.
// And Qwen2 and 2.5 (Qwen2ForCausalLM), whose queries, keys and values alone have biases.
#include <fmt/format.h>

#include <cmath>

#include "model/family.h"

namespace quantbench {
namespace {

struct Biases {  // of the attention's products
  bool inputs = false, output = false;
};

class Llama final : public Model {
 public:
  Llama(const ConfigReader& c, const Storage& storage, Shape shape, Biases biases);

  const Shape& shape() const override { return shape_; }
  std::vector<WeightSlot> weights() override;
  void make_tables(Backend& backend, int positions) override { rope_.make(backend, positions); }
  size_t table_bytes(int positions) const override { return rope_.bytes(positions); }

  void forward(Ops& ops, const State& s) const override {
    ops.embed({.x = s.x, .table = table(), .rows = s.rows});
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& w = layers_[i];
      ops.qkv({s.q, s.kv[i], s.x, &w.attn_norm, &w.wq, &w.wk, &w.wv, rope_.rope(), s.rows});
      if (i + 1 < layers_.size()) {
        behind_cache(ops, s, i);
      } else {
        behind_cache(ops, s.answering({&w.wo, &w.gate, &w.up, &w.down}), i);
      }
    }
  }
  void head(Ops& ops, const State& s, int first, int count) const override {
    ops.project({.y = s.logits.slice(0, count), .x = s.x.slice(first, count), .norm = &norm_, .w = &head_});
  }

 private:
  struct Layer {
    Norm attn_norm, mlp_norm;
    Linear wq, wk, wv, wo, gate, up, down;
  };
  // What a layer does when its keys and values are there.
  void behind_cache(Ops& ops, const State& s, size_t i) const {
    const Layer& w = layers_[i];
    ops.attend({s.a, s.q, s.kv[i], scale_, s.rows});
    ops.add_linear({s.x, s.a, &w.wo});                                   // x += Wo·a
    ops.gated_up({s.h, s.x, &w.mlp_norm, &w.gate, &w.up, activation_});  // h = silu(G·n) ∘ (U·n)
    ops.add_linear({s.x, s.h, &w.down});                                 // x += Wd·h
  }
  // A tied table is the head's own matrix, so that it is planned, packed and counted once.
  const Matrix* table() const { return tied_ ? &head_.weight : &embedding_; }

  Shape shape_;
  bool tied_;
  Act activation_;
  float scale_;  // of q·k: 1 / √head_dim
  RopeTables rope_;
  Matrix embedding_;
  std::vector<Layer> layers_;
  Norm norm_;
  Linear head_;
};

// Published files name a window of the sequence that 'use_sliding_window' leaves unused. transformers 5 writes the same
// out a layer: every one of 'layer_types' is "full_attention".
void refuse_windows(const ConfigReader& c) {
  c.refuse("use_sliding_window", "sliding-window attention");
  const auto types = c.source().config.find("layer_types");
  if (types == c.source().config.end() || types->is_null()) return;
  if (!types->is_array()) c.fail_key("layer_types", "a list");
  for (const auto& type : *types) {
    if (type != "full_attention") c.fail_unsupported("layer_types", "\"full_attention\" in every layer");
  }
}

// What both families read alike. has_kv_heads: whether every file has the key; else one without it means all heads.
Shape read_shape(const ConfigReader& c, const char* architecture, bool has_kv_heads) {
  Shape s;
  s.architecture = architecture;
  s.layers = c.integer("num_hidden_layers", 1, kMostLayers);
  s.hidden = c.integer("hidden_size", 1, kMostHidden);
  s.intermediate = c.integer("intermediate_size", 1, kMostHidden);
  s.heads = c.integer("num_attention_heads", 1, kMostHeads);
  s.kv_heads = has_kv_heads ? c.integer("num_key_value_heads", 1, s.heads)
                            : c.integer_or("num_key_value_heads", 1, s.heads, s.heads);
  s.vocab = c.integer("vocab_size", 1, kMostVocab);
  s.max_positions = c.integer("max_position_embeddings", 1, kMostPositions);
  if (s.heads % s.kv_heads != 0) {
    c.fail_key("num_key_value_heads", fmt::format("a divisor of num_attention_heads, {}", s.heads));
  }
  // Files from before the key existed mean hidden_size / num_attention_heads.
  s.head_dim = c.integer_or("head_dim", 1, kMostHidden, s.hidden / s.heads);
  if (static_cast<int64_t>(s.heads) * s.head_dim > kMostHidden) {
    c.fail_key("head_dim", fmt::format("at most {} with {} heads", kMostHidden / s.heads, s.heads));
  }
  if (s.head_dim == s.hidden / s.heads && s.hidden % s.heads != 0) {
    c.fail_key("num_attention_heads", fmt::format("a divisor of hidden_size, {}", s.hidden));
  }
  if (c.number_or("partial_rotary_factor", 0, 1, 1) != 1) {
    c.fail_unsupported("partial_rotary_factor", "1 (this family turns whole heads)");
  }
  return s;
}

Llama::Llama(const ConfigReader& c, const Storage& storage, Shape shape, Biases biases)
    : shape_(std::move(shape)),
      tied_(c.boolean_or("tie_word_embeddings",
                         false)),  // as both Configs have it: files of Llama's first year do not say
      activation_(c.activation("hidden_act")),
      scale_(1 / std::sqrt(static_cast<float>(shape_.head_dim))),
      rope_(read_rope(c, shape_.head_dim, 1.0)),
      embedding_(unloaded_unquantized(storage, shape_.vocab, shape_.hidden)) {
  const int d = shape_.hidden, q = shape_.heads * shape_.head_dim, kv = shape_.kv_heads * shape_.head_dim;
  const Norm norm{nullptr, nullptr, static_cast<float>(c.number("rms_norm_eps", 1e-12, 0.1)), false};
  const auto linear = [&](int n, int k, bool with_bias) { return unloaded_linear(storage, n, k, with_bias); };
  layers_.assign(static_cast<size_t>(shape_.layers),
                 {norm, norm, linear(q, d, biases.inputs), linear(kv, d, biases.inputs), linear(kv, d, biases.inputs),
                  linear(d, q, biases.output), linear(shape_.intermediate, d, false),
                  linear(shape_.intermediate, d, false), linear(d, shape_.intermediate, false)});
  norm_ = norm;
  head_ = {unloaded_unquantized(storage, shape_.vocab, d)};
  complete_shape(c, weights(), &shape_);
}

std::vector<WeightSlot> Llama::weights() {
  const int d = shape_.hidden;
  Slots slots;
  if (!tied_) slots.table("model.embed_tokens.weight", &embedding_);
  if (tied_) slots.head("model.embed_tokens", &head_);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& w = layers_[i];
    const std::string layer = fmt::format("model.layers.{}.", i);
    slots.vector(layer + "input_layernorm.weight", d, &w.attn_norm.weight);
    slots.linear(layer + "self_attn.q_proj", &w.wq);
    slots.linear(layer + "self_attn.k_proj", &w.wk);
    slots.linear(layer + "self_attn.v_proj", &w.wv);
    slots.linear(layer + "self_attn.o_proj", &w.wo);
    slots.vector(layer + "post_attention_layernorm.weight", d, &w.mlp_norm.weight);
    slots.linear(layer + "mlp.gate_proj", &w.gate);
    slots.linear(layer + "mlp.up_proj", &w.up);
    slots.linear(layer + "mlp.down_proj", &w.down);
  }
  slots.vector("model.norm.weight", d, &norm_.weight);
  if (!tied_) slots.head("lm_head", &head_);
  if (tied_) slots.tied("lm_head.weight", "model.embed_tokens.weight", shape_.vocab, d);
  return slots.take();
}

}  // namespace

std::unique_ptr<Model> make_llama(const ModelConfig& config, const Storage& storage) {
  const ConfigReader c(config);
  // A file from before grouped-query attention says nothing of key and value heads.
  Shape shape = read_shape(c, "LlamaForCausalLM", false);
  c.refuse("mlp_bias", "a bias in the MLP");
  c.refuse("sliding_window", "sliding-window attention");
  const bool biased = c.boolean_or("attention_bias", false);
  return std::make_unique<Llama>(c, storage, std::move(shape), Biases{biased, biased});
}

std::unique_ptr<Model> make_qwen2(const ModelConfig& config, const Storage& storage) {
  const ConfigReader c(config);
  Shape shape = read_shape(c, "Qwen2ForCausalLM", true);  // without the key transformers would take 32
  refuse_windows(c);
  return std::make_unique<Llama>(c, storage, std::move(shape), Biases{true, false});
}

}  // namespace quantbench
