// A model folder as transformers writes it: config.json, generation_config.json and safetensors, in one file or in
// shards with an index. Opening reads and checks every header, so what is wrong with a folder is known, and said,
// before a weight is read.
#pragma once

#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/safetensors.h"
#include "checkpoint/weight_source.h"

namespace quantbench {

struct CheckpointOptions {
  bool allow_symlinks = false;   // links that leave the folder (inside a Hub cache: its blobs) are followed
  bool allow_nonfinite = false;  // NaN, infinity and values beyond 65504 (which become infinity) are let through
};

// The path of `name` (a plain file name) in a model folder, or nothing if there is no such file. Links are resolved:
// one that leaves the folder is an Error unless it leads from a snapshot of a Hub cache into the same model's blobs,
// or allow_symlinks. Every file of a model is to be found through this.
std::optional<std::string> find_model_file(const std::string& folder, const std::string& name, bool allow_symlinks);

class Checkpoint : public WeightSource {
 public:
  // Error bad_model for whatever is missing, damaged, contradictory or not supported.
  static std::unique_ptr<Checkpoint> open(const std::string& folder, const CheckpointOptions& options = {});

  const nlohmann::json& config() const { return config_; }
  const nlohmann::json& generation_config() const { return generation_config_; }  // null if there is none
  const std::string& folder() const { return folder_; }
  const CheckpointOptions& options() const { return options_; }
  int64_t file_bytes() const { return file_bytes_; }  // of all safetensors files
  struct NamedFile {
    std::string name;  // in the folder; in a Hub cache that is a link to the file itself
    const SafetensorsFile* file;
  };
  std::vector<NamedFile> files() const;  // those that the tensors are in
  // Whether a read has met a value that only allow_nonfinite let through.
  bool met_nonfinite() const { return met_nonfinite_.load(std::memory_order_relaxed); }

  std::string where() const override { return folder_; }
  Prequantized prequantized() const override { return prequantized_; }
  std::vector<std::string> names() const override;
  std::optional<TensorInfo> find(const std::string& name) const override;
  void read_f16(const std::string& name, int64_t first, int64_t count, f16* out) const override;
  void read_bf16(const std::string& name, int64_t first, int64_t count, bf16* out) const override;
  void read_f32(const std::string& name, int64_t first, int64_t count, float* out) const override;
  void read_bytes(const std::string& name, int64_t offset, std::span<std::byte> out) const override;

 private:
  struct Entry {
    const SafetensorsFile* file;
    const SafetensorsTensor* tensor;
  };
  Checkpoint(std::string folder, const CheckpointOptions& options);
  void open_weights();
  void open_shards(const nlohmann::json& index, const std::string& index_path);
  const Entry& entry(const std::string& name) const;
  template <typename Out>
  void read(const std::string& name, int64_t first, int64_t count, Out* out) const;
  template <typename In>
  void check_magnitude(const Entry& at, const std::string& name, std::span<const In> values, int64_t first_element,
                       uint32_t magnitude, uint32_t largest_allowed) const;

  std::string folder_;
  CheckpointOptions options_;
  nlohmann::json config_, generation_config_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<std::string> file_names_;  // of files_
  std::unordered_map<std::string, Entry> tensors_;
  int64_t file_bytes_ = 0;
  Prequantized prequantized_ = Prequantized::none;
  mutable std::atomic<bool> met_nonfinite_{false};
};

// What a model expects of a source; a vector has rows == 1.
struct ExpectedTensor {
  std::string name;
  int64_t rows = 0, cols = 0;
  std::vector<int64_t> stored_shape = {};  // where that is not [rows, cols], or [cols] of one row
};
// Error bad_model that lists every tensor which is missing or has another shape. Of a tensor that bitsandbytes
// quantised the shape before quantisation counts.
void check_tensors(const WeightSource& source, std::span<const ExpectedTensor> expected);

}  // namespace quantbench
