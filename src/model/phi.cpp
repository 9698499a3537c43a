// Phi-1, 1.5 and 2 (transformers' PhiForCausalLM): one LayerNorm feeds attention and MLP, both are added to the stream.
#include <fmt/format.h>

#include <cmath>

#include "model/family.h"

namespace quantbench {
namespace {

class Phi final : public Model {
 public:
  Phi(const ConfigReader& c, const Storage& storage);

  const Shape& shape() const override { return shape_; }
  std::vector<WeightSlot> weights() override;
  void make_tables(Backend& backend, int positions) override { rope_.make(backend, positions); }
  size_t table_bytes(int positions) const override { return rope_.bytes(positions); }

  void forward(Ops& ops, const State& s) const override {
    ops.embed({.x = s.x, .table = &embedding_, .rows = s.rows});
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& w = layers_[i];
      ops.qkv({s.q, s.kv[i], s.x, &w.norm, &w.wq, &w.wk, &w.wv, rope_.rope(), s.rows});
      if (i + 1 < layers_.size()) {
        behind_cache(ops, s, i);
      } else {
        behind_cache(ops, s.answering({&w.fc1, &w.fc2, &w.dense}), i);
      }
    }
  }
  void head(Ops& ops, const State& s, int first, int count) const override {
    ops.project({.y = s.logits.slice(0, count), .x = s.x.slice(first, count), .norm = &norm_, .w = &head_});
  }

 private:
  struct Layer {
    Norm norm;
    Linear wq, wk, wv, dense, fc1, fc2;
  };
  // What a layer does when its keys and values are there.
  void behind_cache(Ops& ops, const State& s, size_t i) const {
    const Layer& w = layers_[i];
    ops.project({s.h, s.x, &w.norm, &w.fc1, activation_});  // h = gelu(W1·n + b1), from the same n
    ops.attend({s.a, s.q, s.kv[i], scale_, s.rows});
    // First what does not depend on the attention, so that it need not be waited for.
    ops.add_linear({s.x, s.h, &w.fc2});    // x += W2·h + b2
    ops.add_linear({s.x, s.a, &w.dense});  // x += Wo·a + bo
  }

  Shape shape_;
  Act activation_;
  float scale_;  // of q·k: 1 / √head_dim
  RopeTables rope_;
  Matrix embedding_;
  std::vector<Layer> layers_;
  Norm norm_;
  Linear head_;
};

Shape read_shape(const ConfigReader& c) {
  Shape s;
  s.architecture = "PhiForCausalLM";
  s.layers = c.integer("num_hidden_layers", 1, kMostLayers);
  s.hidden = c.integer("hidden_size", 1, kMostHidden);
  s.intermediate = c.integer("intermediate_size", 1, kMostHidden);
  s.heads = c.integer("num_attention_heads", 1, kMostHeads);
  s.kv_heads = c.integer_or("num_key_value_heads", 1, s.heads, s.heads);  // null in some published files: all heads
  s.vocab = c.integer("vocab_size", 1, kMostVocab);
  s.max_positions = c.integer("max_position_embeddings", 1, kMostPositions);
  if (s.heads % s.kv_heads != 0) {
    c.fail_key("num_key_value_heads", fmt::format("a divisor of num_attention_heads, {}", s.heads));
  }
  if (s.hidden % s.heads != 0) {
    c.fail_key("num_attention_heads", fmt::format("a divisor of hidden_size, {}", s.hidden));
  }
  s.head_dim = s.hidden / s.heads;
  s.attention_first = false;
  c.boolean_or("tie_word_embeddings", false);
  c.refuse("tie_word_embeddings", "an output head tied to the embedding");
  c.refuse("qk_layernorm", "a LayerNorm on queries and keys");
  c.refuse("sliding_window", "sliding-window attention");
  return s;
}

Phi::Phi(const ConfigReader& c, const Storage& storage)
    : shape_(read_shape(c)),
      activation_(c.activation("hidden_act")),
      scale_(1 / std::sqrt(static_cast<float>(shape_.head_dim))),
      rope_(read_rope(c, shape_.head_dim, c.number("partial_rotary_factor", 0, 1))),
      embedding_(unloaded_unquantized(storage, shape_.vocab, shape_.hidden)) {
  const int d = shape_.hidden, ff = shape_.intermediate, kv = shape_.kv_heads * shape_.head_dim;
  const Norm norm{nullptr, nullptr, static_cast<float>(c.number("layer_norm_eps", 1e-12, 0.1)), true};
  const auto linear = [&](int n, int k) { return unloaded_linear(storage, n, k, true); };
  layers_.assign(static_cast<size_t>(shape_.layers),
                 {norm, linear(d, d), linear(kv, d), linear(kv, d), linear(d, d), linear(ff, d), linear(d, ff)});
  norm_ = norm;
  head_ = {unloaded_unquantized(storage, shape_.vocab, d), nullptr, true};
  complete_shape(c, weights(), &shape_);
}

std::vector<WeightSlot> Phi::weights() {
  const int d = shape_.hidden;
  Slots slots;
  slots.table("model.embed_tokens.weight", &embedding_);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& w = layers_[i];
    const std::string layer = fmt::format("model.layers.{}.", i);
    slots.vector(layer + "input_layernorm.weight", d, &w.norm.weight);
    slots.vector(layer + "input_layernorm.bias", d, &w.norm.bias);
    slots.linear(layer + "self_attn.q_proj", &w.wq);
    slots.linear(layer + "self_attn.k_proj", &w.wk);
    slots.linear(layer + "self_attn.v_proj", &w.wv);
    slots.linear(layer + "self_attn.dense", &w.dense);
    slots.linear(layer + "mlp.fc1", &w.fc1);
    slots.linear(layer + "mlp.fc2", &w.fc2);
  }
  slots.vector("model.final_layernorm.weight", d, &norm_.weight);
  slots.vector("model.final_layernorm.bias", d, &norm_.bias);
  slots.head("lm_head", &head_);
  return slots.take();
}

}  // namespace

std::unique_ptr<Model> make_phi(const ModelConfig& config, const Storage& storage) {
  return std::make_unique<Phi>(ConfigReader(config), storage);
}

}  // namespace quantbench
