// Weights as transformers + bitsandbytes save them: the tensors beside a quantised weight, and what of it is supported.
// Of a linear `….q_proj` with the weight tensor `….q_proj.weight`:
//   int8: weight i8 [n, k]; `….q_proj.SCB` f32 [n]; `….q_proj.weight_format` u8, 0
//   nf4:  weight u8 [(n·k + 1) / 2, 1]; weight.absmax u8 | f32; weight.quant_map f32 [16]; weight.nested_absmax f32;
//         weight.nested_quant_map f32 [256]; weight.quant_state.bitsandbytes__nf4: the bytes of a JSON object
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/weight_source.h"
#include "quant/int8.h"
#include "quant/nf4.h"

namespace quantbench {

// From config.json's quantization_config and the tensors' names, which must agree. Error bad_model naming whatever is
// not supported: another method, fp4, another block size, storage type or threshold.
Prequantized detect_prequantized(const nlohmann::json& config, const WeightSource& source);

// Whether this weight itself is quantised: the head and other skipped modules of a quantised checkpoint are not.
bool is_prequantized(const WeightSource& source, const std::string& weight);
// That the tensors which belong to a weight that is prequantised are there, with their types and sizes; their numbers
// are looked at when they are read. Error bad_model.
void check_parts(const WeightSource& source, const std::string& weight);
// [n, k] before quantisation, of a weight that is prequantised.
std::vector<int64_t> prequantized_shape(const WeightSource& source, const std::string& weight);

// Owns what HostInt8 views.
struct Int8Weights {
  int n = 0, k = 0;
  std::vector<int8_t> codes;
  std::vector<float> absmax;
  HostInt8 view() const { return {n, k, codes, absmax}; }
};

// Error bad_model if a tensor is missing, has another type or shape, or says something else than n × k. `into` is
// reused: no allocation once it is large enough.
void read_int8(const WeightSource& source, const std::string& weight, int n, int k, Int8Weights* into);
void read_nf4(const WeightSource& source, const std::string& weight, int n, int k, Nf4Weights* into);

}  // namespace quantbench
