// PaliGemma (transformers' PaliGemmaForConditionalGeneration): a SigLIP tower makes rows of a picture, a linear brings
// them to the width of a Gemma decoder, which reads them in front of the prompt's tokens. The whole prompt sees itself;
// what is generated sees all before it.
#include <fmt/format.h>

#include <cmath>

#include "model/family.h"

namespace quantbench {
namespace {

class PaliGemma final : public Model {
 public:
  PaliGemma(const ModelConfig& config, const ConfigReader& top, const Storage& storage);

  const Shape& shape() const override { return shape_; }
  std::vector<WeightSlot> weights() override;
  // transformers, as 5.17 writes a model, as 5.17's model names itself, and as one before it did.
  std::vector<RenamedPrefix> other_prefixes() const override {
    return {{"model.vision_tower.vision_model.", "vision_tower.vision_model."},
            {"model.vision_tower.", "vision_tower.vision_model."},
            {"vision_tower.", "vision_tower.vision_model."},
            {"model.multi_modal_projector.", "multi_modal_projector."},
            {"model.language_model.", "language_model.model."},
            {"lm_head.", "language_model.lm_head."}};
  }
  void make_tables(Backend& backend, int positions) override { rope_.make(backend, positions); }
  size_t table_bytes(int positions) const override { return rope_.bytes(positions); }

  void encode(Ops& ops, const State& s) const override {
    const EncoderState& e = s.encoder;
    ops.embed({.x = e.x, .table = &patch_positions_, .rows = e.rows});
    ops.add_linear({e.x, e.patches, &patch_});
    for (const VisionLayer& w : tower_) {
      ops.qkv({e.q, e.kv, e.x, &w.attn_norm, &w.wq, &w.wk, &w.wv, nullptr, e.rows});
      ops.attend({e.a, e.q, e.kv, vision_scale_, e.rows, e.lengths});
      ops.add_linear({e.x, e.a, &w.wo});
      ops.project({.y = e.h, .x = e.x, .norm = &w.mlp_norm, .w = &w.fc1, .act = Act::gelu_tanh});
      ops.add_linear({e.x, e.h, &w.fc2});
    }
    ops.project({.y = s.x.slice(0, e.rows.count), .x = e.x, .norm = &tower_norm_, .w = &projector_});
  }
  void forward(Ops& ops, const State& s) const override {
    const int text = s.rows.count - s.picture_rows;
    ops.embed({.x = s.x.slice(s.picture_rows, text),
               .table = table(),
               .scale = embedding_scale_,
               .rows = s.rows.slice(s.picture_rows, text)});
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
  struct VisionLayer {
    Norm attn_norm, mlp_norm;
    Linear wq, wk, wv, wo, fc1, fc2;
  };
  struct Layer {
    Norm attn_norm, mlp_norm;
    Linear wq, wk, wv, wo, gate, up, down;
  };
  // What a layer does when its keys and values are there.
  void behind_cache(Ops& ops, const State& s, size_t i) const {
    const Layer& w = layers_[i];
    ops.attend({s.a, s.q, s.kv[i], scale_, s.rows, s.lengths});
    ops.add_linear({s.x, s.a, &w.wo});
    ops.gated_up({s.h, s.x, &w.mlp_norm, &w.gate, &w.up, Act::gelu_tanh});
    ops.add_linear({s.x, s.h, &w.down});
  }

  const Matrix* table() const { return &head_.weight; }  // always tied

  Shape shape_;
  float embedding_scale_;  // √hidden, rounded to fp16 as transformers does
  float scale_, vision_scale_;
  RopeTables rope_;
  Matrix patch_positions_;
  Linear patch_, projector_;
  std::vector<VisionLayer> tower_;
  std::vector<Layer> layers_;
  Norm tower_norm_, norm_;
  Linear head_;
};

// An object of config.json as a configuration of its own. generation_config.json belongs to the whole.
ModelConfig inner_config(const ModelConfig& config, const char* key) {
  const auto found = config.config.find(key);
  if (found == config.config.end() || !found->is_object()) {
    ConfigReader(config).fail_key(key, "an object");
  }
  return {*found, nullptr, fmt::format("{}, '{}'", config.where, key)};
}

// Published files leave out what transformers' GemmaConfig and SiglipVisionConfig have as defaults.
constexpr int kUsualHeadDim = 256, kUsualImage = 224, kUsualPositions = 8192;
constexpr double kUsualEps = 1e-6;

void require_gelu(const ConfigReader& c, std::string_view key) {
  if (c.source().config.contains(key) && !c.source().config.find(key)->is_null() &&
      c.text(key) != "gelu_pytorch_tanh") {
    c.fail_unsupported(key, "gelu_pytorch_tanh");
  }
}

EncoderShape read_tower(const ConfigReader& c) {
  EncoderShape e;
  e.layers = c.integer("num_hidden_layers", 1, kMostLayers);
  e.hidden = c.integer("hidden_size", 1, kMostHidden);
  e.intermediate = c.integer("intermediate_size", 1, kMostHidden);
  e.heads = c.integer("num_attention_heads", 1, kMostHeads);
  if (e.hidden % e.heads != 0) c.fail_key("num_attention_heads", fmt::format("a divisor of hidden_size, {}", e.hidden));
  e.head_dim = e.hidden / e.heads;
  constexpr int kMostImage = 1 << 14;
  Picture p;
  p.size = c.integer_or("image_size", 1, kMostImage, kUsualImage);
  p.patch = c.integer("patch_size", 1, p.size);
  if (p.size % p.patch != 0) c.fail_key("patch_size", fmt::format("a divisor of image_size, {}", p.size));
  c.integer_or("num_channels", 3, 3, 3);
  c.refuse("vision_use_head", "a pooling head of the vision tower");
  require_gelu(c, "hidden_act");
  e.max_tokens = p.tokens();
  e.picture = p;
  return e;
}

Shape read_shape(const ConfigReader& top, const ConfigReader& text, const ConfigReader& vision) {
  Shape s;
  s.architecture = "PaliGemmaForConditionalGeneration";
  s.layers = text.integer("num_hidden_layers", 1, kMostLayers);
  s.hidden = text.integer("hidden_size", 1, kMostHidden);
  s.intermediate = text.integer("intermediate_size", 1, kMostHidden);
  s.heads = text.integer("num_attention_heads", 1, kMostHeads);
  s.kv_heads = text.integer("num_key_value_heads", 1, s.heads);
  if (s.heads % s.kv_heads != 0) {
    text.fail_key("num_key_value_heads", fmt::format("a divisor of num_attention_heads, {}", s.heads));
  }
  s.head_dim = text.integer_or("head_dim", 1, kMostHidden, kUsualHeadDim);
  if (static_cast<int64_t>(s.heads) * s.head_dim > kMostHidden) {
    text.fail_key("head_dim", fmt::format("at most {} with {} heads", kMostHidden / s.heads, s.heads));
  }
  s.vocab = text.integer("vocab_size", 1, kMostVocab);
  s.max_positions = text.integer_or("max_position_embeddings", 1, kMostPositions, kUsualPositions);
  text.refuse("attention_bias", "a bias in the decoder's attention");
  require_gelu(text, "hidden_act");
  require_gelu(text, "hidden_activation");
  const std::string family = text.source().config.contains("model_type") ? text.text("model_type") : "gemma";
  if (family != "gemma") text.fail_unsupported("model_type", "gemma (PaliGemma's first version)");
  s.encoder = read_tower(vision);
  Picture& picture = *s.encoder->picture;
  if (picture.tokens() >= s.max_positions) {
    vision.fail_key("patch_size", fmt::format("fewer patches than the decoder has positions, {}, and not {}",
                                              s.max_positions, picture.tokens()));
  }
  for (const ConfigReader* c : {&text, &vision}) {
    if (c->integer_or("num_image_tokens", 1, kMostPositions, picture.tokens()) == picture.tokens()) continue;
    c->fail_key("num_image_tokens",
                fmt::format("{}, one for each patch of {} x {} pixels of a picture of {} x {}", picture.tokens(),
                            picture.patch, picture.patch, picture.size, picture.size));
  }
  // Ids of text are those below it.
  picture.token = top.integer(top.source().config.contains("image_token_id") ? "image_token_id" : "image_token_index",
                              1, s.vocab - 1);
  return s;
}

PaliGemma::PaliGemma(const ModelConfig& config, const ConfigReader& top, const Storage& storage)
    : embedding_scale_(0), scale_(0), vision_scale_(0), rope_(RopeConfig{}) {
  const ModelConfig text_config = inner_config(config, "text_config"),
                    vision_config = inner_config(config, "vision_config");
  const ConfigReader text(text_config), vision(vision_config);
  shape_ = read_shape(top, text, vision);
  for (const ConfigReader* c : {&top, &text}) {
    if (!c->boolean_or("tie_word_embeddings", true)) c->fail_unsupported("tie_word_embeddings", "true");
  }
  const int d = shape_.hidden, q = shape_.heads * shape_.head_dim, kv = shape_.kv_heads * shape_.head_dim;
  embedding_scale_ = to_float(to_f16(std::sqrt(static_cast<float>(d))));
  scale_ = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
  vision_scale_ = 1 / std::sqrt(static_cast<float>(shape_.encoder->head_dim));
  // A prompt's first token stands at position 1.
  rope_ = RopeTables(read_rope(text, shape_.head_dim, 1.0), 1);

  const EncoderShape& e = *shape_.encoder;
  const auto eps = [&](const ConfigReader& c, const char* key) {
    return static_cast<float>(c.number_or(key, 1e-12, 0.1, kUsualEps));
  };
  const Norm vision_norm{nullptr, nullptr, eps(vision, "layer_norm_eps"), true},
      text_norm{nullptr, nullptr, eps(text, "rms_norm_eps"), false};
  const auto linear = [&](int n, int k, bool biased) { return unloaded_linear(storage, n, k, biased); };
  patch_positions_ = unloaded_unquantized(storage, e.picture->tokens(), e.hidden);
  patch_ = {unloaded_unquantized(storage, e.hidden, e.picture->values()), nullptr, true};
  const Linear square = linear(e.hidden, e.hidden, true);
  tower_.assign(static_cast<size_t>(e.layers),
                {vision_norm, vision_norm, square, square, square, square, linear(e.intermediate, e.hidden, true),
                 linear(e.hidden, e.intermediate, true)});
  tower_norm_ = vision_norm;
  projector_ = linear(d, e.hidden, true);
  layers_.assign(static_cast<size_t>(shape_.layers),
                 {text_norm, text_norm, linear(q, d, false), linear(kv, d, false), linear(kv, d, false),
                  linear(d, q, false), linear(shape_.intermediate, d, false), linear(shape_.intermediate, d, false),
                  linear(d, shape_.intermediate, false)});
  norm_ = text_norm;
  head_ = {unloaded_unquantized(storage, shape_.vocab, d)};
  complete_shape(top, weights(), &shape_);
}

// Named as published.
std::vector<WeightSlot> PaliGemma::weights() {
  const int d = shape_.hidden;
  const EncoderShape& e = *shape_.encoder;
  const int64_t patch = e.picture->patch;
  Slots slots;
  const auto layer_norm = [&](const std::string& prefix, Norm* norm) {
    slots.vector(prefix + ".weight", e.hidden, &norm->weight);
    slots.vector(prefix + ".bias", e.hidden, &norm->bias);
  };
  const std::string tower = "vision_tower.vision_model.";
  slots.table(tower + "embeddings.position_embedding.weight", &patch_positions_);
  slots.convolution(tower + "embeddings.patch_embedding", &patch_, {e.hidden, 3, patch, patch});
  for (size_t i = 0; i < tower_.size(); ++i) {
    VisionLayer& w = tower_[i];
    const std::string layer = fmt::format("{}encoder.layers.{}.", tower, i);
    layer_norm(layer + "layer_norm1", &w.attn_norm);
    slots.linear(layer + "self_attn.q_proj", &w.wq);
    slots.linear(layer + "self_attn.k_proj", &w.wk);
    slots.linear(layer + "self_attn.v_proj", &w.wv);
    slots.linear(layer + "self_attn.out_proj", &w.wo);
    layer_norm(layer + "layer_norm2", &w.mlp_norm);
    slots.linear(layer + "mlp.fc1", &w.fc1);
    slots.linear(layer + "mlp.fc2", &w.fc2);
  }
  layer_norm(tower + "post_layernorm", &tower_norm_);
  slots.linear("multi_modal_projector.linear", &projector_);

  // Gemma multiplies by 1 + w.
  const auto rms_norm = [&](std::string name, Norm* norm) {
    slots.vector(std::move(name), d, &norm->weight, 1.0f, 1.0f);
  };
  const std::string decoder = "language_model.model.";
  slots.head(decoder + "embed_tokens", &head_);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& w = layers_[i];
    const std::string layer = fmt::format("{}layers.{}.", decoder, i);
    rms_norm(layer + "input_layernorm.weight", &w.attn_norm);
    slots.linear(layer + "self_attn.q_proj", &w.wq);
    slots.linear(layer + "self_attn.k_proj", &w.wk);
    slots.linear(layer + "self_attn.v_proj", &w.wv);
    slots.linear(layer + "self_attn.o_proj", &w.wo);
    rms_norm(layer + "post_attention_layernorm.weight", &w.mlp_norm);
    slots.linear(layer + "mlp.gate_proj", &w.gate);
    slots.linear(layer + "mlp.up_proj", &w.up);
    slots.linear(layer + "mlp.down_proj", &w.down);
  }
  rms_norm(decoder + "norm.weight", &norm_);
  slots.tied("language_model.lm_head.weight", decoder + "embed_tokens.weight", shape_.vocab, d);
  return slots.take();
}

}  // namespace

std::unique_ptr<Model> make_paligemma(const ModelConfig& config, const Storage& storage) {
  return std::make_unique<PaliGemma>(config, ConfigReader(config), storage);
}

}  // namespace quantbench
