#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "core/json.h"

namespace quantbench {
namespace {

using nlohmann::json;

// A value as it stands in the file, cut where it would fill the screen.
std::string shown(const json& value) {
  constexpr size_t kMostShown = 80;
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > kMostShown) text = text.substr(0, kMostShown) + "…";
  return text;
}

// Whole numbers only: 2048.5, 1e30 and "2048" are not.
std::optional<int64_t> whole(const json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
    return std::nullopt;
  }
  return value.get<int64_t>();
}

const json* entry(const json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

ModelConfig config_of(const Checkpoint& checkpoint) {
  return {checkpoint.config(), checkpoint.generation_config(), checkpoint.folder() + "/config.json",
          !checkpoint.find("lm_head.weight")};
}

ConfigReader::ConfigReader(const ModelConfig& config) : source_(config) {
  for (const std::string_view name : {"rope_scaling", "rope_parameters"}) {
    const json* object = entry(config.config, name);
    if (rope_ || !object || (object->is_object() && object->empty())) continue;
    rope_ = object;
    rope_name_ = name;
  }
}

const json* ConfigReader::find(std::string_view key) const {
  const bool of_rope = key == "rope_theta" || key == "partial_rotary_factor";
  if (of_rope && rope_) {
    if (const json* value = entry(*rope_, key)) return value;
  }
  return entry(source_.config, key);
}

void ConfigReader::fail_text(std::string_view problem) const {
  fail(ErrorKind::bad_model, "{}: {}", source_.where, problem);
}

void ConfigReader::fail_key(std::string_view key, std::string_view expected) const {
  const json* value = find(key);
  fail(ErrorKind::bad_model, "{}: '{}' {}, expected {}; take the config.json that came with the weights", source_.where,
       key, value ? "is " + shown(*value) : "is missing", expected);
}

void ConfigReader::fail_unsupported(std::string_view key, std::string_view supported) const {
  const json* value = find(key);
  fail(ErrorKind::bad_model, "{}: '{}' is {}, which is not supported, only {} is; choose another model", source_.where,
       key, value ? shown(*value) : "missing", supported);
}

const json& ConfigReader::need(std::string_view key, std::string_view expected) const {
  const json* value = find(key);
  if (!value) fail_key(key, expected);
  return *value;
}

int ConfigReader::integer(std::string_view key, int low, int high) const {
  const std::string expected = fmt::format("a whole number from {} to {}", low, high);
  const auto value = whole(need(key, expected));
  if (!value || *value < low || *value > high) fail_key(key, expected);
  return static_cast<int>(*value);
}

int ConfigReader::integer_or(std::string_view key, int low, int high, int fallback) const {
  return find(key) ? integer(key, low, high) : fallback;
}

double ConfigReader::number(std::string_view key, double low, double high) const {
  const std::string expected = fmt::format("a number from {} to {}", low, high);
  const json& value = need(key, expected);
  if (!value.is_number()) fail_key(key, expected);
  const auto number = value.get<double>();
  if (!(number >= low && number <= high)) fail_key(key, expected);
  return number;
}

double ConfigReader::number_or(std::string_view key, double low, double high, double fallback) const {
  return find(key) ? number(key, low, high) : fallback;
}

bool ConfigReader::boolean(std::string_view key) const {
  const json& value = need(key, "true or false");
  if (!value.is_boolean()) fail_key(key, "true or false");
  return value.get<bool>();
}

bool ConfigReader::boolean_or(std::string_view key, bool fallback) const { return find(key) ? boolean(key) : fallback; }

std::string ConfigReader::text(std::string_view key) const {
  const json& value = need(key, "a text");
  if (!value.is_string()) fail_key(key, "a text");
  return value.get<std::string>();
}

Act ConfigReader::activation(std::string_view key) const {
  const std::string name = text(key);
  if (name == "silu" || name == "swish") return Act::silu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Act::gelu_tanh;
  if (name == "relu") return Act::relu;
  fail_unsupported(key, "silu, gelu_new, gelu_pytorch_tanh or relu");
}

void ConfigReader::refuse(std::string_view key, std::string_view feature) const {
  const json* value = find(key);
  if (!value || (value->is_boolean() && !value->get<bool>())) return;
  fail(ErrorKind::bad_model,
       "{}: '{}' is {}: {} is not supported, and leaving it out would give wrong text; choose a model without "
       "it",
       source_.where, key, shown(*value), feature);
}

namespace {

constexpr double kMostFactor = 1e6, kMostPositionsOfRope = 1e9;

// The length that a model was trained with: beside the object it counts before inside it, and one saved without it was
// scaled from the length that config.json names (transformers 5.17, standardize_rope_params).
double original_positions(const ConfigReader& values, const ConfigReader& whole) {
  constexpr const char* kKey = "original_max_position_embeddings";
  for (const ConfigReader* reader : {&whole, &values}) {
    if (entry(reader->source().config, kKey)) return reader->number(kKey, 1, kMostPositionsOfRope);
  }
  return whole.number("max_position_embeddings", 1, kMostPositionsOfRope);
}

void read_llama3(const ConfigReader& values, const ConfigReader& whole, RopeConfig* rope) {
  rope->factor = values.number("factor", 1, kMostFactor);
  rope->low_freq_factor = values.number("low_freq_factor", 0, kMostFactor);
  rope->high_freq_factor = values.number("high_freq_factor", 0, kMostFactor);
  rope->original_positions = original_positions(values, whole);
  if (rope->high_freq_factor <= rope->low_freq_factor) {
    values.fail_key("high_freq_factor", fmt::format("a number above low_freq_factor, {}", rope->low_freq_factor));
  }
}

// Everything has a default, those of the betas the paper's (arXiv 2309.00071); 0 asks for it as well.
void read_yarn(const ConfigReader& values, const ConfigReader& whole, RopeConfig* rope) {
  const double original = original_positions(values, whole);
  rope->factor = entry(values.source().config, "factor")
                     ? values.number("factor", 1, kMostFactor)
                     : whole.number("max_position_embeddings", original, kMostPositionsOfRope) / original;
  const auto beta = [&](const char* key, double usual) {
    const double told = values.number_or(key, 0, kMostFactor, usual);
    return told == 0 ? usual : told;
  };
  const double beta_fast = beta("beta_fast", 32), beta_slow = beta("beta_slow", 1);
  if (beta_fast < beta_slow) values.fail_key("beta_fast", fmt::format("a number from beta_slow, {}, on", beta_slow));
  // The pair that turns so often within the original length.
  const auto pair_of = [&](double turns) {
    return rope->dims * std::log(original / (turns * 2 * M_PI)) / (2 * std::log(rope->theta));
  };
  double low = pair_of(beta_fast), high = pair_of(beta_slow);
  if (values.boolean_or("truncate", true)) low = std::floor(low), high = std::ceil(high);
  rope->first_blended = std::max(low, 0.0);
  rope->last_blended = std::min(high, rope->dims - 1.0);
  if (rope->first_blended == rope->last_blended) rope->last_blended += 0.001;

  const auto scale = [&](double by) { return rope->factor <= 1 ? 1.0 : 0.1 * by * std::log(rope->factor) + 1; };
  const double mscale = values.number_or("mscale", 0, kMostFactor, 0),
               mscale_all = values.number_or("mscale_all_dim", 0, kMostFactor, 0);
  const double usual = mscale != 0 && mscale_all != 0 ? scale(mscale) / scale(mscale_all) : scale(1);
  rope->magnitude = values.number_or("attention_factor", 0, kMostFactor, usual);
}

}  // namespace

RopeConfig read_rope(const ConfigReader& reader, int head_dim, double fraction) {
  constexpr double kMostTheta = 1e12, kUsualTheta = 10000;  // the latter meant by files from before the key existed
  RopeConfig rope;
  rope.theta = reader.number_or("rope_theta", 1, kMostTheta, kUsualTheta);
  rope.dims = static_cast<int>(head_dim * fraction);  // transformers truncates likewise
  if (rope.dims < 2 || rope.dims % 2 != 0 || rope.dims > head_dim) {
    reader.fail_text(
        fmt::format("rotary embedding would turn {} of a head's {} dimensions, expected an even number "
                    "from 2 to {}; see partial_rotary_factor and head_dim",
                    rope.dims, head_dim, head_dim));
  }
  const json* scaling = reader.rope();
  const std::string_view name = reader.rope_name();
  if (!scaling) return rope;
  if (!scaling->is_object()) reader.fail_key(name, "an object");

  for (const json& value : *scaling) {
    if (value.is_object()) reader.fail_unsupported(name, "one set of parameters for all layers");
  }
  const ModelConfig inner{*scaling, nullptr, fmt::format("{}, '{}'", reader.source().where, name)};
  const ConfigReader values(inner);
  // A model may be saved with one set of parameters a layer type; none of the families here has layer types.
  const bool named = entry(*scaling, "rope_type") != nullptr;
  // Without a type it is transformers' default; a factor without one is a mistake.
  if (!named && !entry(*scaling, "type") && !entry(*scaling, "factor")) return rope;
  const std::string type = values.text(named ? "rope_type" : "type");
  if (type == "default") return rope;
  if (type == "dynamic") {
    values.number("factor", 1, kMostFactor);  // counts beyond max_position_embeddings only
  } else if (type == "linear") {
    rope.scaling = RopeScaling::linear;
    rope.factor = values.number("factor", 1, kMostFactor);
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::llama3;
    read_llama3(values, reader, &rope);
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::yarn;
    if (rope.theta == 1) reader.fail_key("rope_theta", "a number above 1");
    read_yarn(values, reader, &rope);
  } else {
    values.fail_unsupported(named ? "rope_type" : "type", "default, linear, dynamic, llama3 or yarn");
  }
  return rope;
}

std::vector<float> rope_frequencies(const RopeConfig& rope) {
  std::vector<float> out(static_cast<size_t>(rope.dims) / 2);
  const auto factor = static_cast<float>(rope.factor), original = static_cast<float>(rope.original_positions);
  const auto low = static_cast<float>(rope.low_freq_factor), high = static_cast<float>(rope.high_freq_factor);
  const auto llama3 = [&](float f) {
    const float wavelength = static_cast<float>(2 * M_PI) / f;
    if (wavelength > original / low) return f / factor;
    if (wavelength < original / high) return f;
    const float smooth = (original / wavelength - low) / (high - low);
    return (1 - smooth) * f / factor + smooth * f;
  };
  const auto yarn = [&](float power, size_t pair) {
    const auto first = static_cast<float>(rope.first_blended);
    const auto width = static_cast<float>(rope.last_blended - rope.first_blended);
    const float kept = 1 - std::clamp((static_cast<float>(pair) - first) / width, 0.0f, 1.0f);
    return 1 / (factor * power) * (1 - kept) + 1 / power * kept;
  };
  for (size_t i = 0; i < out.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.dims);
    const auto power = static_cast<float>(std::pow(rope.theta, double{exponent}));
    switch (rope.scaling) {
      case RopeScaling::none: out[i] = 1 / power; break;
      case RopeScaling::linear: out[i] = 1 / power / factor; break;
      case RopeScaling::llama3: out[i] = llama3(1 / power); break;
      case RopeScaling::yarn: out[i] = yarn(power, i); break;
    }
  }
  return out;
}

std::vector<int32_t> special_ids(const ModelConfig& config, std::string_view key, int vocab) {
  // Of one file; nothing where it does not say.
  const auto ids_of = [&](const json& file, const std::string& where) -> std::optional<std::vector<int32_t>> {
    const json* value = entry(file, key);
    if (!value) return std::nullopt;
    std::vector<int32_t> ids;
    for (const json& one : value->is_array() ? *value : json::array({*value})) {
      const auto id = whole(one);
      if (!id || *id < 0 || *id >= vocab) {
        fail(ErrorKind::bad_model,
             "{}: '{}' is {}, expected token ids below vocab_size, {}; take the file that came with the weights", where,
             key, shown(*value), vocab);
      }
      ids.push_back(static_cast<int32_t>(*id));
    }
    return ids;
  };
  const auto told = ids_of(config.config, config.where);
  const auto of_generation = ids_of(config.generation, "generation_config.json beside " + config.where);
  return of_generation ? *of_generation : told.value_or(std::vector<int32_t>{});
}

}  // namespace quantbench
