// What the model families share: unloaded weights, RoPE tables, and the slots of common shapes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/model.h"

namespace quantbench {

// Bounds beyond which a config is absurd rather than large; products of two stay far below 2^63.
constexpr int kMostLayers = 4096, kMostHidden = 1 << 20, kMostHeads = 1 << 16, kMostVocab = 1 << 24,
              kMostPositions = 1 << 28;

// A weight of [n, k] whose bytes are still to come.
Matrix unloaded(const Storage& storage, int n, int k);
// The same of one that no precision quantises: an embedding, a head.
Matrix unloaded_unquantized(const Storage& storage, int n, int k);
inline Linear unloaded_linear(const Storage& storage, int n, int k, bool biased) {
  return {unloaded(storage, n, k), nullptr, biased};
}

// bos, eos, and the parameter count of the slots (tied tensors once); refuses counts that no machine could hold.
void complete_shape(const ConfigReader& reader, const std::vector<WeightSlot>& slots, Shape* shape);

// cos and sin of position · frequency, on the device.
class RopeTables {
 public:
  // first_angle: the position that the first slot of a cache is rotated by.
  explicit RopeTables(const RopeConfig& config, int first_angle = 0) : config_(config), first_angle_(first_angle) {
    rope_.dims = config.dims;
  }
  void make(Backend& backend, int positions);
  size_t bytes(int positions) const;
  const Rope* rope() const { return &rope_; }

 private:
  RopeConfig config_;
  int first_angle_;
  int positions_ = 0;
  std::unique_ptr<Buffer> buffer_;  // cos [positions, dims / 2], then sin
  Rope rope_;
};

// Collects slots, one line a tensor.
class Slots {
 public:
  void table(std::string name, Matrix* table) {
    out_.push_back({std::move(name), rows_of(*table), cols_of(*table), table, Role::embedding, false, {}});
  }
  // `prefix`.weight, and `prefix`.bias where the linear has one.
  void linear(const std::string& prefix, Linear* linear) { add(prefix, linear, Role::linear); }
  void head(const std::string& prefix, Linear* linear) { add(prefix, linear, Role::output_head); }
  // Kept as value · times + plus.
  void vector(std::string name, int count, const float** target, float times = 1, float plus = 0) {
    out_.push_back({std::move(name), 1, count, target, Role::vector, false, {}, {}, times, plus});
  }
  // A small matrix that is kept as plain floats.
  void floats(std::string name, int rows, int cols, const float** target) {
    out_.push_back({std::move(name), rows, cols, target, Role::vector, false, {}});
  }
  // A convolution whose patches do not overlap: a linear of [out, values of a patch], never quantised.
  void convolution(const std::string& prefix, Linear* l, std::vector<int64_t> stored_shape) {
    const size_t at = out_.size();
    add(prefix, l, Role::linear);
    out_[at].stored_shape = std::move(stored_shape);
  }
  // A tensor that may be in the file but must equal `tied_to`, which holds the memory.
  void tied(std::string name, std::string tied_to, int rows, int cols, Role role = Role::output_head) {
    out_.push_back({std::move(name), rows, cols, static_cast<Matrix*>(nullptr), role, false, std::move(tied_to)});
  }
  std::vector<WeightSlot> take() { return std::move(out_); }

 private:
  void add(const std::string& prefix, Linear* l, Role role) {
    const int n = rows_of(l->weight), k = cols_of(l->weight);
    const Format format = format_of(l->weight);
    const bool quantized = format == Format::int8 || format == Format::nf4;
    out_.push_back({prefix + ".weight", n, k, &l->weight, role, quantized, {}});
    if (l->biased) vector(prefix + ".bias", n, &l->bias);
  }
  std::vector<WeightSlot> out_;
};

// The families; registry.cpp lists them.
std::unique_ptr<Model> make_llama(const ModelConfig& config, const Storage& storage);
std::unique_ptr<Model> make_phi(const ModelConfig& config, const Storage& storage);
std::unique_ptr<Model> make_qwen2(const ModelConfig& config, const Storage& storage);
std::unique_ptr<Model> make_t5(const ModelConfig& config, const Storage& storage);
std::unique_ptr<Model> make_paligemma(const ModelConfig& config, const Storage& storage);

}  // namespace quantbench
