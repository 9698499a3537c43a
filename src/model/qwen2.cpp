// Qwen2 and 2.5 (transformers' Qwen2ForCausalLM): Llama's order of ops, with biases on queries, keys and values alone.
#include <fmt/format.h>

#include <cmath>

#include "model/family.h"

namespace quantbench {
namespace {

class Qwen2 final : public Model {
 public:
  Qwen2(const ConfigReader& c, const Storage& storage);

  const Shape& shape() const override { return shape_; }
  std::vector<WeightSlot> weights() override;
  void make_tables(Backend& backend, int positions) override { rope_.make(backend, positions); }
  size_t table_bytes(int positions) const override { return rope_.bytes(positions); }

  void forward(Ops& ops, const State& s) const override {
    ops.embed({.x = s.x, .table = table(), .rows = s.rows});
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& w = layers_[i];
      ops.qkv({s.q, s.kv[i], s.x, &w.attn_norm, &w.wq, &w.wk, &w.wv, rope_.rope(), s.rows});  // each with its bias
      ops.attend({s.a, s.q, s.kv[i], scale_, s.rows});
      ops.add_linear({s.x, s.a, &w.wo});                                   // x += Wo·a
      ops.gated_up({s.h, s.x, &w.mlp_norm, &w.gate, &w.up, activation_});  // h = silu(G·n) ∘ (U·n)
      ops.add_linear({s.x, s.h, &w.down});                                 // x += Wd·h
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
  // A tied table is the head's own matrix, so that it is planned, packed and counted once.
  const F16Matrix* table() const { return tied_ ? std::get_if<F16Matrix>(&head_.weight) : &embedding_; }

  Shape shape_;
  bool tied_;
  Act activation_;
  float scale_;  // of q·k: 1 / √head_dim
  RopeTables rope_;
  F16Matrix embedding_;
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

Shape read_shape(const ConfigReader& c) {
  Shape s;
  s.architecture = "Qwen2ForCausalLM";
  s.layers = c.integer("num_hidden_layers", 1, kMostLayers);
  s.hidden = c.integer("hidden_size", 1, kMostHidden);
  s.intermediate = c.integer("intermediate_size", 1, kMostHidden);
  s.heads = c.integer("num_attention_heads", 1, kMostHeads);
  s.kv_heads = c.integer("num_key_value_heads", 1, s.heads);  // absent, transformers would take 32
  s.vocab = c.integer("vocab_size", 1, kMostVocab);
  s.max_positions = c.integer("max_position_embeddings", 1, kMostPositions);
  if (s.heads % s.kv_heads != 0) {
    c.fail_key("num_key_value_heads", fmt::format("a divisor of num_attention_heads, {}", s.heads));
  }
  // No published file has the key; transformers takes it where it is.
  s.head_dim = c.integer_or("head_dim", 1, kMostHidden, s.hidden / s.heads);
  if (static_cast<int64_t>(s.heads) * s.head_dim > kMostHidden) {
    c.fail_key("head_dim", fmt::format("at most {} with {} heads", kMostHidden / s.heads, s.heads));
  }
  if (s.head_dim == s.hidden / s.heads && s.hidden % s.heads != 0) {
    c.fail_key("num_attention_heads", fmt::format("a divisor of hidden_size, {}", s.hidden));
  }
  if (c.number_or("partial_rotary_factor", 0, 1, 1) != 1) {
    c.fail_unsupported("partial_rotary_factor", "1 (Qwen2 turns whole heads)");
  }
  refuse_windows(c);
  return s;
}

Qwen2::Qwen2(const ConfigReader& c, const Storage& storage)
    : shape_(read_shape(c)),
      tied_(c.boolean_or("tie_word_embeddings", false)),  // as Qwen2Config has it
      activation_(c.activation("hidden_act")),
      scale_(1 / std::sqrt(static_cast<float>(shape_.head_dim))),
      rope_(read_rope(c, shape_.head_dim, 1.0)),
      embedding_{shape_.vocab, shape_.hidden} {
  const int d = shape_.hidden, ff = shape_.intermediate;
  const int q = shape_.heads * shape_.head_dim, kv = shape_.kv_heads * shape_.head_dim;
  const Norm norm{nullptr, nullptr, static_cast<float>(c.number("rms_norm_eps", 1e-12, 0.1)), false};
  const auto biased = [&](int n, int k) { return unloaded_linear(storage, n, k, true); };
  const auto plain = [&](int n, int k) { return unloaded_linear(storage, n, k, false); };
  layers_.assign(static_cast<size_t>(shape_.layers), {norm, norm, biased(q, d), biased(kv, d), biased(kv, d),
                                                      plain(d, q), plain(ff, d), plain(ff, d), plain(d, ff)});
  norm_ = norm;
  head_ = {F16Matrix{shape_.vocab, d}};
  complete_shape(c, weights(), &shape_);
}

std::vector<WeightSlot> Qwen2::weights() {
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

std::unique_ptr<Model> make_qwen2(const ModelConfig& config, const Storage& storage) {
  return std::make_unique<Qwen2>(ConfigReader(config), storage);
}

}  // namespace quantbench
