// config.json and generation_config.json: reading them strictly, and the published configurations that are built in.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "backend/ops.h"

namespace quantbench {

class Checkpoint;

struct ModelConfig {
  nlohmann::json config;      // config.json
  nlohmann::json generation;  // generation_config.json, or null
  std::string where;          // for messages: the path of config.json, or "built-in configuration of …"
  bool lacks_head = false;    // there are weights beside it, and no lm_head.weight among them
};

ModelConfig config_of(const Checkpoint& checkpoint);

// As published on the Hub, for --random-weights. Error usage, listing those known, for another id.
ModelConfig published_config(std::string_view id);
std::vector<std::string> published_ids();

// One value a call, checked. A key that is missing or absurd is an Error bad_model that names file, key, what was
// found and the expected range: an architecture's number is never filled in silently.
class ConfigReader {
 public:
  explicit ConfigReader(const ModelConfig& config);

  int integer(std::string_view key, int low, int high) const;
  // `fallback` where the key is absent or null; for keys whose absence has a meaning of its own.
  int integer_or(std::string_view key, int low, int high, int fallback) const;
  double number(std::string_view key, double low, double high) const;
  double number_or(std::string_view key, double low, double high, double fallback) const;
  bool boolean(std::string_view key) const;
  bool boolean_or(std::string_view key, bool fallback) const;
  Act activation(std::string_view key) const;
  std::string text(std::string_view key) const;

  // Refuses a feature that would change the result and is not built: key present and neither null nor false.
  void refuse(std::string_view key, std::string_view feature) const;
  // Of a value that is missing or wrong, and of one that may well be right but is not built.
  [[noreturn]] void fail_key(std::string_view key, std::string_view expected) const;
  [[noreturn]] void fail_unsupported(std::string_view key, std::string_view supported) const;
  [[noreturn]] void fail_text(std::string_view problem) const;

  const ModelConfig& source() const { return source_; }
  // The object that describes rotary embedding, or null: rope_scaling if it is there and not empty, else
  // rope_parameters (transformers 5.17, RotaryEmbeddingConfigMixin). rope_theta and partial_rotary_factor count there
  // before they count at the top: PhiConfig writes its default of 0.5 to the top, whatever the object says.
  const nlohmann::json* rope() const { return rope_; }
  std::string_view rope_name() const { return rope_name_; }

 private:
  const nlohmann::json* find(std::string_view key) const;  // null where absent or null
  const nlohmann::json& need(std::string_view key, std::string_view expected) const;
  const ModelConfig& source_;
  const nlohmann::json* rope_ = nullptr;
  std::string_view rope_name_;
};

// RoPE frequencies of a head: how far pair i turns a position. Scaling as transformers 5.17 has it
// (modeling_rope_utils.py): plain as published; linear divides all by `factor`; llama3 and yarn divide the slow ones,
// keep the fast ones and blend those between, by wavelength or by the pair's number. "dynamic" is plain up to
// max_position_embeddings, and no model is run beyond.
enum class RopeScaling : uint8_t { none, linear, llama3, yarn };
struct RopeConfig {
  int dims = 0;  // of a head that are rotated; even
  double theta = 0;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 1, original_positions = 0;  // llama3
  double first_blended = 0, last_blended = 0;                                // yarn: pairs, maybe between two
  double magnitude = 1;                                                      // of cos and sin; yarn's attention factor
};
// `fraction`: the part of the head that is rotated. Refuses other kinds of scaling, by name.
RopeConfig read_rope(const ConfigReader& reader, int head_dim, double fraction);
// [dims / 2], in fp32 as transformers computes them.
std::vector<float> rope_frequencies(const RopeConfig& rope);

// Ids of bos or eos: an int, a list, null or absent; generation_config.json wins over config.json, and both are
// checked.
std::vector<int32_t> special_ids(const ModelConfig& config, std::string_view key, int vocab);

}  // namespace quantbench
