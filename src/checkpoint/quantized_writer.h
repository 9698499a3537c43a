// Writes a checkpoint that transformers loads with bitsandbytes: config.json with a quantization_config, the linears in
// int8 or nf4 with the tensors beside them (prequantized.h), every other number in fp16.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/parallel.h"
#include "quant/matrix.h"

namespace quantbench {

struct QuantizeRequest {
  const Checkpoint& source;
  std::vector<std::string> linears;          // names of the weights to quantise; all else but `kept` becomes fp16
  std::vector<std::string> skipped_modules;  // linears that stay fp16, e.g. "lm_head": transformers must be told
  Format format = Format::nf4;               // int8 or nf4 (with double quantisation)
  std::string output;                        // a folder that is empty or not there yet
  int64_t shard_bytes = 5'000'000'000;       // of tensors in one file
  std::vector<std::string> kept = {};  // names of weights that stay as they are stored, e.g. T5's wo, used in fp32
};

struct QuantizeResult {
  int64_t weight_bytes = 0;        // of all tensors written
  std::vector<std::string> files;  // written, in the order of their names
};

// Of the bytes of fp16 numbers to go through.
using QuantizeProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

// Tensor by tensor: takes memory for the largest linear, not for the model. Files carry temporary names until all of
// them are written; config.json gets its name last, so a folder with one is whole. Error usage for an output folder
// that is not empty; bad_model for a source that is quantised already or lacks a linear; interrupted when a stop was
// requested; whatever reading and writing throws. After an Error nothing is left but the folder, empty.
QuantizeResult write_quantized(const QuantizeRequest& request, ThreadPool& pool, const QuantizeProgress& progress = {});

// The bytes of `….quant_state.bitsandbytes__nf4`, as Python's json.dumps writes them.
std::string nf4_quant_state(int n, int k, float offset);

}  // namespace quantbench
