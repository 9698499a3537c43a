#include "model/registry.h"

#include <fmt/ranges.h>

#include "core/error.h"
#include "model/family.h"

namespace quantbench {
namespace {

struct Family {
  std::string_view architecture;
  std::unique_ptr<Model> (*make)(const ModelConfig&, const Storage&);
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", make_llama},
    {"PhiForCausalLM", make_phi},
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
  return family_of(config).make(config, storage_for(config.where, precision, stored));
}

Tape decode_shapes(const Model& model, int sequences) {
  const Shape& s = model.shape();
  const int q = s.heads * s.head_dim;
  const auto tensor = [&](int cols) { return Tensor{nullptr, DType::f32, sequences, cols}; };
  State state{
      .x = tensor(s.hidden), .q = tensor(q), .a = tensor(q), .h = tensor(s.intermediate), .logits = tensor(s.vocab)};
  state.kv.assign(static_cast<size_t>(s.layers), {nullptr, nullptr, sequences, 0, s.kv_heads, s.head_dim});
  state.rows.count = sequences;
  TapeOps ops;
  model.decode(ops, state);
  return ops.tape();
}

}  // namespace quantbench
