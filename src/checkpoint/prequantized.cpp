#include "checkpoint/prequantized.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/json.h"

namespace quantbench {
namespace {

using nlohmann::json;

constexpr std::string_view kStatePrefix = ".quant_state.bitsandbytes__";
constexpr const char* kNf4State = ".quant_state.bitsandbytes__nf4";
constexpr int64_t kMaxStateBytes = 65536;

// "….q_proj.weight" → "….q_proj"
std::string module_of(const std::string& weight) {
  constexpr std::string_view kWeight = ".weight";
  return weight.ends_with(kWeight) ? weight.substr(0, weight.size() - kWeight.size()) : weight;
}

template <typename... Args>
[[noreturn]] void refuse(const std::string& where, fmt::format_string<Args...> text, Args&&... args) {
  fail(ErrorKind::bad_model, "{}: {}", where, fmt::format(text, std::forward<Args>(args)...));
}

// The quantisation config's value of `key`, or `otherwise` where it is absent or null.
json value_or(const json& quantization, const char* key, const json& otherwise) {
  const auto found = quantization.find(key);
  return found == quantization.end() || found->is_null() ? otherwise : *found;
}

TensorInfo require_tensor(const WeightSource& source, const std::string& name, DType dtype, size_t count) {
  const auto info = source.find(name);
  if (!info) {
    refuse(source.where(), "tensor '{}' is missing, which belongs to a quantised weight; get the model again", name);
  }
  if (info->dtype != dtype || element_count(*info) != static_cast<int64_t>(count)) {
    refuse(source.where(), "tensor '{}' is {} {}, expected {} with {} elements", name, name_of(info->dtype),
           shape_text(info->shape), name_of(dtype), count);
  }
  return *info;
}

// Reads all of a tensor that must have this type and number of elements.
template <typename T>
void read_tensor(const WeightSource& source, const std::string& name, DType dtype, size_t count, std::vector<T>* into) {
  const TensorInfo info = require_tensor(source, name, dtype, count);
  into->resize(count);
  if constexpr (std::is_same_v<T, float>) {
    const int64_t rows = info.shape.size() < 2 ? 1 : info.shape[0];
    source.read_f32(name, 0, rows, into->data());  // with its check for NaN and infinity
  } else {
    source.read_bytes(name, 0, std::as_writable_bytes(std::span(*into)));
  }
}

// As read_tensor, for scales: the largest magnitude of a block or row.
void read_absmax(const WeightSource& source, const std::string& name, size_t count, std::vector<float>* into) {
  read_tensor(source, name, DType::f32, count, into);
  const auto negative = std::find_if(into->begin(), into->end(), [](float value) { return value < 0; });
  if (negative == into->end()) return;
  refuse(source.where(),
         "tensor '{}' has {} at index {}, expected magnitudes, from 0; the file is damaged: get it again", name,
         *negative, negative - into->begin());
}

struct QuantState {
  int64_t n = 0, k = 0;
  bool is_nested = false;
  float offset = 0;
};

QuantState read_state(const WeightSource& source, const std::string& weight) {
  const std::string name = weight + kNf4State;
  const auto info = source.find(name);
  if (!info || info->dtype != DType::u8 || element_count(*info) > kMaxStateBytes) {
    refuse(source.where(), "tensor '{}' is {}, expected U8 with at most {} elements", name,
           info ? fmt::format("{} {}", name_of(info->dtype), shape_text(info->shape)) : "missing", kMaxStateBytes);
  }
  std::string text(static_cast<size_t>(element_count(*info)), '\0');
  source.read_bytes(name, 0, std::as_writable_bytes(std::span(text)));
  const std::string where = source.where() + ": " + name;
  const json state = parse_json(text, where, {.depth = 4, .bytes = kMaxStateBytes});
  if (!state.is_object()) refuse(where, "expected a JSON object, found {}", text);

  const auto expect = [&](const char* key, const json& expected) {
    const json found = value_or(state, key, json());
    if (found != expected)
      refuse(where, "{} is {}, expected {}; this variant is not supported", key, found.dump(), expected.dump());
  };
  expect("quant_type", "nf4");
  expect("blocksize", kNf4Block);
  const json dtype = value_or(state, "dtype", json());
  if (dtype != "float16" && dtype != "bfloat16" && dtype != "float32") {
    refuse(where, "dtype is {}, expected float16, bfloat16 or float32; the file is damaged: get it again",
           dtype.dump());
  }
  QuantState result;
  const json shape = value_or(state, "shape", json());
  if (!shape.is_array() || shape.size() != 2 || !shape[0].is_number_unsigned() || !shape[1].is_number_unsigned() ||
      shape[0].get<uint64_t>() > std::numeric_limits<int>::max() ||
      shape[1].get<uint64_t>() > std::numeric_limits<int>::max()) {
    refuse(where, "shape is {}, expected two numbers [n, k]", shape.dump());
  }
  result.n = shape[0].get<int64_t>();
  result.k = shape[1].get<int64_t>();
  result.is_nested = state.contains("nested_offset") || state.contains("nested_blocksize");
  if (result.is_nested) {
    expect("nested_blocksize", kNf4NestedBlock);
    expect("nested_dtype", "float32");
    const json offset = value_or(state, "nested_offset", json());
    if (!offset.is_number()) refuse(where, "nested_offset is {}, expected a number", offset.dump());
    const auto value = offset.get<double>();
    if (!(value >= 0 && value <= double{kMaxF16})) {  // a mean of absolute values of fp16 numbers; NaN is not either
      refuse(where, "nested_offset is {}, expected from 0 to {}", offset.dump(), kMaxF16);
    }
    result.offset = static_cast<float>(value);
  }
  return result;
}

void expect_shape(const WeightSource& source, const std::string& weight, int64_t n, int64_t k,
                  const std::vector<int64_t>& found) {
  if (found == std::vector<int64_t>{n, k}) return;
  refuse(source.where(),
         "tensor '{}' is {} before quantisation, expected [{}, {}]; weights and config.json must be of "
         "the same model",
         weight, shape_text(found), n, k);
}

// What config.json claims, after refusing what is not supported.
Prequantized claimed(const json& quantization, const std::string& where) {
  if (!quantization.is_object()) refuse(where, "quantization_config is not an object");
  const bool int8 = value_or(quantization, "load_in_8bit", false) == true;
  const bool nf4 = value_or(quantization, "load_in_4bit", false) == true;
  const json method = value_or(quantization, "quant_method", int8 || nf4 ? "bitsandbytes" : "none");
  if (method != "bitsandbytes") {
    refuse(where,
           "the checkpoint is quantised with {}, which is not supported; expected an unquantised checkpoint or "
           "one that transformers saved with bitsandbytes",
           method.dump());
  }
  if (int8 == nf4) {
    refuse(where, "quantization_config must have exactly one of load_in_8bit and load_in_4bit true, found {} and {}",
           int8, nf4);
  }
  const auto expect = [&](const char* key, const json& otherwise, const json& expected) {
    const json found = value_or(quantization, key, otherwise);
    if (found != expected) {
      refuse(where,
             "quantization_config.{} is {}, which is not supported; expected {}: quantise the original "
             "checkpoint instead",
             key, found.dump(), expected.dump());
    }
  };
  if (int8) {
    expect("llm_int8_threshold", 6.0, 6.0);
    expect("llm_int8_has_fp16_weight", false, false);
    return Prequantized::int8;
  }
  expect("bnb_4bit_quant_type", "fp4", "nf4");  // transformers takes fp4 where nothing is said
  expect("bnb_4bit_quant_storage", "uint8", "uint8");
  return value_or(quantization, "bnb_4bit_use_double_quant", false) == true ? Prequantized::nf4_nested
                                                                            : Prequantized::nf4_plain;
}

}  // namespace

Prequantized detect_prequantized(const json& config, const WeightSource& source) {
  const std::string where = source.where() + "/config.json";
  const auto entry = config.find("quantization_config");
  const bool is_claimed = entry != config.end() && !entry->is_null();
  std::vector<std::string> int8, nf4;
  for (const std::string& name : source.names()) {
    if (name.ends_with(".SCB")) int8.push_back(name.substr(0, name.size() - 4) + ".weight");
    const size_t state = name.find(kStatePrefix);
    if (state == std::string::npos) continue;
    if (!name.ends_with(kNf4State)) {
      refuse(source.where(), "'{}' says {}, which is not supported; expected nf4", name,
             name.substr(state + kStatePrefix.size()));
    }
    nf4.push_back(name.substr(0, state));
  }
  if (!is_claimed) {
    if (int8.empty() && nf4.empty()) return Prequantized::none;
    refuse(where, "there is no quantization_config, but '{}' and others are quantised; get config.json again",
           int8.empty() ? nf4.front() : int8.front());
  }
  const Prequantized claim = claimed(*entry, where);
  const bool agrees = claim == Prequantized::int8 ? !int8.empty() && nf4.empty() : int8.empty() && !nf4.empty();
  if (!agrees) {
    refuse(where,
           "quantization_config says {}, but {} weights are int8 and {} are nf4; weights and config.json must be "
           "of the same model",
           claim == Prequantized::int8 ? "load_in_8bit" : "load_in_4bit", int8.size(), nf4.size());
  }
  for (const std::string& weight : nf4) {
    const QuantState state = read_state(source, weight);
    if (state.is_nested != (claim == Prequantized::nf4_nested)) {
      refuse(where,
             "bnb_4bit_use_double_quant is {}, but the absmax values of '{}' are {}; weights and config.json must "
             "be of the same model",
             claim == Prequantized::nf4_nested, weight, state.is_nested ? "nested" : "plain");
    }
  }
  return claim;
}

bool is_prequantized(const WeightSource& source, const std::string& weight) {
  switch (source.prequantized()) {
    case Prequantized::none: return false;
    case Prequantized::int8: return source.find(module_of(weight) + ".SCB").has_value();
    case Prequantized::nf4_nested:
    case Prequantized::nf4_plain: return source.find(weight + kNf4State).has_value();
  }
  return false;
}

std::vector<int64_t> prequantized_shape(const WeightSource& source, const std::string& weight) {
  if (source.prequantized() == Prequantized::int8) {
    const auto info = source.find(weight);
    if (!info) refuse(source.where(), "tensor '{}' is missing, though its SCB is there; get the model again", weight);
    return info->shape;
  }
  const QuantState state = read_state(source, weight);
  return {state.n, state.k};
}

void check_parts(const WeightSource& source, const std::string& weight) {
  const std::vector<int64_t> shape = prequantized_shape(source, weight);
  if (shape.size() != 2)
    refuse(source.where(), "tensor '{}' is {}, expected two dimensions", weight, shape_text(shape));
  const auto n = static_cast<size_t>(shape[0]), k = static_cast<size_t>(shape[1]);
  if (source.prequantized() == Prequantized::int8) {
    const std::string module = module_of(weight);
    require_tensor(source, module + ".SCB", DType::f32, n);
    if (!source.find(module + ".weight_format")) return;
    std::vector<uint8_t> value;
    read_tensor(source, module + ".weight_format", DType::u8, 1, &value);
    if (value[0] == 0) return;
    refuse(source.where(), "tensor '{}.weight_format' is {}, expected 0 (row-major); this variant is not supported",
           module, value[0]);
  }
  const size_t count = n * k, blocks = ceil_div(count, kNf4Block);
  const bool is_nested = source.prequantized() == Prequantized::nf4_nested;
  require_tensor(source, weight, DType::u8, ceil_div(count, 2));
  require_tensor(source, weight + ".quant_map", DType::f32, kNf4Code.size());
  require_tensor(source, weight + ".absmax", is_nested ? DType::u8 : DType::f32, blocks);
  if (!is_nested) return;
  require_tensor(source, weight + ".nested_absmax", DType::f32, ceil_div(blocks, kNf4NestedBlock));
  require_tensor(source, weight + ".nested_quant_map", DType::f32, nested_code().size());
}

void read_int8(const WeightSource& source, const std::string& weight, int n, int k, Int8Weights* into) {
  expect_shape(source, weight, n, k, prequantized_shape(source, weight));
  check_parts(source, weight);
  const std::string module = module_of(weight);
  into->n = n;
  into->k = k;
  read_tensor(source, weight, DType::i8, static_cast<size_t>(n) * static_cast<size_t>(k), &into->codes);
  read_absmax(source, module + ".SCB", static_cast<size_t>(n), &into->absmax);
}

void read_nf4(const WeightSource& source, const std::string& weight, int n, int k, Nf4Weights* into) {
  const QuantState state = read_state(source, weight);
  expect_shape(source, weight, n, k, {state.n, state.k});
  const size_t count = static_cast<size_t>(n) * static_cast<size_t>(k), blocks = ceil_div(count, kNf4Block);
  into->n = n;
  into->k = k;
  into->offset = state.offset;
  into->absmax.clear();
  into->absmax8.clear();
  into->nested_absmax.clear();
  read_tensor(source, weight, DType::u8, ceil_div(count, 2), &into->codes);

  std::vector<float> code;
  const auto expect_code = [&](const std::string& name, std::span<const float> expected) {
    read_tensor(source, name, DType::f32, expected.size(), &code);
    const auto [found, wanted] = std::mismatch(code.begin(), code.end(), expected.begin());
    if (found != code.end()) {
      refuse(source.where(),
             "tensor '{}' has {} at index {}, expected {}; another code than bitsandbytes' is not "
             "supported",
             name, *found, found - code.begin(), *wanted);
    }
  };
  expect_code(weight + ".quant_map", kNf4Code);
  if (state.is_nested) {
    expect_code(weight + ".nested_quant_map", nested_code());
    read_tensor(source, weight + ".absmax", DType::u8, blocks, &into->absmax8);
    read_absmax(source, weight + ".nested_absmax", ceil_div(blocks, kNf4NestedBlock), &into->nested_absmax);
  } else {
    read_absmax(source, weight + ".absmax", blocks, &into->absmax);
  }
}

}  // namespace quantbench
