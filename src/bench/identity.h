// What makes two records be of the same model: cheap to compute, whatever the size of the weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/cell.h"

namespace quantbench {

struct WeightFile {
  std::string name;
  int64_t bytes = 0;
  std::string header_sha256;  // of the safetensors header: names, types, shapes and places of all tensors
};
struct ModelIdentity {
  std::string config_sha256;
  std::vector<WeightFile> files;  // sorted by name; none with random weights of a built-in configuration
};

// From the files that the weights are read from. Without a folder it is empty; random weights have no files.
ModelIdentity identify_model(const ModelSource& source);

std::string sha256_hex(std::string_view bytes);
// Of token ids: their little-endian int32 bytes.
std::string hash_of(const std::vector<int32_t>& tokens);

}  // namespace quantbench
