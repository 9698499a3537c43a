#include "bench/open_model.h"

#include <algorithm>

#include "checkpoint/prequantized.h"
#include "checkpoint/random_weights.h"
#include "checkpoint/renamed_source.h"
#include "core/json.h"
#include "model/config.h"
#include "model/loader.h"
#include "model/registry.h"
#include "text/regex.h"

namespace quantbench {
namespace {

std::unique_ptr<WeightSource> random_weights(Model& model, const ModelSource& source) {
  return std::make_unique<RandomWeights>(source.weight_seed, random_tensors(model), source.outlier_channels);
}

// Of a built-in configuration, or of a folder that need not hold weights.
ModelConfig config_without_weights(const ModelSource& source) {
  if (source.folder.empty()) return published_config(source.name);
  const auto path = find_model_file(source.folder, "config.json", source.allow_symlinks);
  if (!path) {
    fail(ErrorKind::bad_model, "'{}' has no config.json; give a model folder or the id of a built-in configuration",
         source.folder);
  }
  ModelConfig config{read_json_file(*path), nullptr, *path};
  if (const auto more = find_model_file(source.folder, "generation_config.json", source.allow_symlinks)) {
    config.generation = read_json_file(*more);
    if (!config.generation.is_object()) {
      fail(ErrorKind::bad_model, "{}: expected a JSON object, found {}; get the file again", *more,
           config.generation.type_name());
    }
  }
  return config;
}

std::unique_ptr<Checkpoint> open_checkpoint(const ModelSource& source) {
  return Checkpoint::open(source.folder, {source.allow_symlinks, source.allow_nonfinite});
}

std::string describe(Prequantized stored) {
  switch (stored) {
    case Prequantized::none: return "checkpoint, quantised here if at all";
    case Prequantized::int8: return "bitsandbytes int8 checkpoint";
    case Prequantized::nf4_nested: return "bitsandbytes nf4 checkpoint, double quantisation";
    case Prequantized::nf4_plain: return "bitsandbytes nf4 checkpoint, plain fp32 absmax";
  }
  return "?";
}

// Modules that quantization_config names in llm_int8_skip_modules, as transformers compares them: an entry is the end
// of a module's name, or a regular expression for its beginning.
class SkippedModules {
 public:
  explicit SkippedModules(const Checkpoint& checkpoint) {
    const nlohmann::json& config = checkpoint.config();
    const auto quantization = config.find("quantization_config");
    if (quantization == config.end() || !quantization->is_object()) return;
    const auto names = quantization->find("llm_int8_skip_modules");
    if (names == quantization->end() || !names->is_array()) return;
    for (const nlohmann::json& entry : *names) {
      if (!entry.is_string() || entry.get_ref<const std::string&>().empty()) continue;
      ends_.push_back(entry);
      try {
        beginnings_.emplace_back(ends_.back(), checkpoint.where() + "/config.json: llm_int8_skip_modules");
      } catch (const Error&) {  // it names an end all the same
      }
    }
  }
  bool has(const std::string& weight) const {
    const std::string module = weight.substr(0, weight.rfind('.'));
    return std::any_of(ends_.begin(), ends_.end(), [&](const std::string& end) { return module.ends_with(end); }) ||
           std::any_of(beginnings_.begin(), beginnings_.end(),
                       [&](const Regex& beginning) { return beginning.match_at(module, 0).has_value(); });
  }

 private:
  std::vector<std::string> ends_;
  std::vector<Regex> beginnings_;
};

// Linears that transformers was told to leave alone stay fp16 here as well.
void keep_skipped(Model& model, const WeightSource& source, const SkippedModules& skipped) {
  if (source.prequantized() == Prequantized::none) return;
  for (const WeightSlot& slot : model.weights()) {
    if (!slot.quantized || !source.find(slot.name)) continue;
    if (is_prequantized(source, slot.name) || !skipped.has(slot.name)) continue;
    *std::get<Matrix*>(slot.target) = F16Matrix{slot.rows, slot.cols};
  }
  Tape all = decode_shapes(model);
  for (const Op& op : encode_shapes(model, 1)) all.push_back(op);
  for (const Op& op : all) {
    const auto* gated = std::get_if<GatedUp>(&op);
    if (!gated || format_of(gated->gate->weight) == format_of(gated->up->weight)) continue;
    fail(
        ErrorKind::bad_model,
        "{}: of a gate_proj and its up_proj one is quantised and the other not, which is not supported; save the model "
        "again with both of them in llm_int8_skip_modules, or neither",
        source.where());
  }
}

}  // namespace

OpenedModel open_model(const ModelSource& source, Precision precision) {
  OpenedModel opened;
  if (source.random_weights) {
    opened.model = make_model(config_without_weights(source), precision);
    opened.weights = random_weights(*opened.model, source);
    opened.weight_form = "random";
    return opened;
  }
  std::unique_ptr<Checkpoint> checkpoint = open_checkpoint(source);
  opened.prequantized = checkpoint->prequantized();
  opened.weight_form = describe(opened.prequantized);
  opened.model = make_model(config_of(*checkpoint), precision, opened.prequantized);
  const SkippedModules skipped(*checkpoint);
  opened.weights = renamed(std::move(checkpoint), opened.model->other_prefixes());
  keep_skipped(*opened.model, *opened.weights, skipped);
  check_fits(opened.model->weights(), *opened.weights);
  return opened;
}

Prequantized stored_form(const ModelSource& source) {
  return source.random_weights ? Prequantized::none : open_checkpoint(source)->prequantized();
}

Precision stored_precision(const ModelSource& source) {
  switch (stored_form(source)) {
    case Prequantized::none: return Precision::fp16;
    case Prequantized::int8: return Precision::int8;
    case Prequantized::nf4_nested:
    case Prequantized::nf4_plain: return Precision::nf4;
  }
  return Precision::fp16;
}

std::vector<std::string> skipped_modules(Model& model, Precision precision) {
  std::vector<std::string> skipped;
  if (precision == Precision::fp16 || precision == Precision::bf16) return skipped;
  const std::vector<WeightSlot> slots = model.weights();
  for (const WeightSlot& slot : slots) {
    if (slot.quantized || (slot.role != Role::linear && slot.role != Role::output_head)) continue;
    if (!slot.stored_shape.empty()) continue;  // a convolution is none of those that bitsandbytes quantises
    // Of a tied pair the head's own name counts: the embedding is no linear.
    const bool holds_tied =
        std::any_of(slots.begin(), slots.end(), [&](const WeightSlot& other) { return other.tied_to == slot.name; });
    if (!holds_tied) skipped.push_back(slot.name.substr(0, slot.name.rfind('.')));
  }
  return skipped;
}

}  // namespace quantbench
