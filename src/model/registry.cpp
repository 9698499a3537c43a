#include "model/registry.h"

#include <fmt/ranges.h>

#include "core/error.h"
#include "model/family.h"

namespace quantbench {
namespace {

struct Family {
  std::string_view architecture, model_type;
  std::unique_ptr<Model> (*make)(const ModelConfig&, const Storage&);
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", make_llama},
    {"PhiForCausalLM", "phi", make_phi},
    {"Qwen2ForCausalLM", "qwen2", make_qwen2},
    {"T5ForConditionalGeneration", "t5", make_t5},
    {"PaliGemmaForConditionalGeneration", "paligemma", make_paligemma},
};

const Family& family_of(const ModelConfig& config) {
  const auto names = config.config.is_object() ? config.config.find("architectures") : config.config.end();
  std::string found = "missing";
  if (names != config.config.end()) {
    found = names->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (names->is_array() && names->size() == 1 && names->front().is_string()) {
      for (const Family& family : kFamilies) {
        if (names->front().get_ref<const std::string&>() == family.architecture) return family;
      }
    }
  }
  fail(ErrorKind::bad_model, "{}: 'architectures' is {}, expected one of {}; choose a model of one of these families",
       config.where, found, fmt::join(architectures(), ", "));
}

// transformers picks the model by 'model_type', so one that names another model contradicts 'architectures'.
void check_model_type(const ModelConfig& config, const Family& family) {
  const auto type = config.config.find("model_type");
  if (type == config.config.end() || type->is_null()) return;
  if (type->is_string() && type->get_ref<const std::string&>() == family.model_type) return;
  fail(ErrorKind::bad_model,
       "{}: 'model_type' is {}, expected \"{}\" where 'architectures' says {}; take the config.json that came with the "
       "weights, or choose a model of one of these families: {}",
       config.where, type->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), family.model_type,
       family.architecture, fmt::join(architectures(), ", "));
}

// How the weights will be kept, for a precision that was asked and weights that may be quantised already.
Storage storage_for(const std::string& where, Precision precision, Prequantized stored) {
  const auto check = [&](Precision only, std::string_view form) {
    if (precision == only) return;
    fail(ErrorKind::usage,
         "{}: these weights were saved quantised as {} and can run as --precision {} only, not {}; to compare "
         "precisions give the unquantised checkpoint",
         where, form, name_of(only), name_of(precision));
  };
  switch (stored) {
    case Prequantized::none: break;
    case Prequantized::int8: check(Precision::int8, "8-bit"); break;
    case Prequantized::nf4_nested: check(Precision::nf4, "4-bit NF4"); break;
    case Prequantized::nf4_plain: check(Precision::nf4, "4-bit NF4 without double quantisation"); break;
  }
  return {precision, stored != Prequantized::nf4_plain};
}

}  // namespace

std::vector<std::string> architectures() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.architecture);
  return names;
}

std::unique_ptr<Model> make_model(const ModelConfig& config, Precision precision, Prequantized stored) {
  const Family& family = family_of(config);
  check_model_type(config, family);
  return family.make(config, storage_for(config.where, precision, stored));
}

namespace {

// Views of nothing, of a call with so many rows.
State shapes_of(const Shape& s, int rows) {
  const int q = s.heads * s.head_dim;
  const auto tensor = [&](int cols) { return Tensor{nullptr, DType::f32, rows, cols}; };
  State state{
      .x = tensor(s.hidden), .q = tensor(q), .a = tensor(q), .h = tensor(s.intermediate), .logits = tensor(s.vocab)};
  const KvLayer kv{nullptr, nullptr, rows, 0, s.kv_heads, s.head_dim};
  state.kv.assign(static_cast<size_t>(s.layers), kv);
  state.rows.count = rows;
  if (!s.encoder) return state;
  const EncoderShape& e = *s.encoder;
  EncoderState& encoder = state.encoder;
  const int encoder_q = e.heads * e.head_dim;
  encoder.x = tensor(e.hidden);
  encoder.q = encoder.a = tensor(encoder_q);
  encoder.h = tensor(e.intermediate);
  if (e.picture) encoder.patches = tensor(e.picture->values());
  encoder.kv = {nullptr, nullptr, rows, 0, e.heads, e.head_dim};
  encoder.rows.count = rows;
  if (s.has_cross_attention()) state.cross = state.kv;
  return state;
}

}  // namespace

Tape decode_shapes(const Model& model, int sequences, int encoder_positions) {
  TapeOps ops;
  State state = shapes_of(model.shape(), sequences);
  for (KvLayer& kv : state.cross) kv.positions = encoder_positions;
  model.decode(ops, state);
  return ops.tape();
}

Tape encode_shapes(const Model& model, int rows) {
  TapeOps ops;
  if (model.shape().encoder) model.encode(ops, shapes_of(model.shape(), rows));
  return ops.tape();
}

}  // namespace quantbench
