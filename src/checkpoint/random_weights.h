// Weights without a file: every element is a function of seed, tensor name and index in whole numbers, so a seed gives
// the same fp16 bits in every precision, on every backend and machine, from any element on.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/weight_source.h"

namespace quantbench {

enum class RandomKind : uint8_t {
  linear,     // mean 0, standard deviation 1 / √(what its inputs' squares add up to)
  embedding,  // mean 0, standard deviation 1 / √cols
  norm,       // mean 1, standard deviation 0.1; carries the planted outlier channels
  bias,       // mean 0, standard deviation 0.02
};

struct RandomTensor {
  std::string name;
  int rows = 0, cols = 0;  // a vector has rows == 1
  RandomKind kind = RandomKind::linear;
  double sigma = 0;                        // standard deviation; 0: the kind's
  float plus = 0;                          // of a norm or bias: what its user adds to it; the mean here is less by that
  std::vector<int64_t> stored_shape = {};  // where that is not [rows, cols]
};

// A planted channel's norm weight. Normalised activations have variance 1, so 85 % of a planted channel's values reach
// |x| ≥ 6 (LLM.int8's threshold), and the largest are far below fp16's 65504.
constexpr float kOutlierNormWeight = 32.0f;

class RandomWeights : public WeightSource {
 public:
  // `outlier_channels`: that many channels, the same ones in every norm of a width, have the norm weight above; linears
  // are scaled down for what that adds to their inputs. Error usage if there are not more channels than that.
  RandomWeights(uint64_t seed, const std::vector<RandomTensor>& tensors, int outlier_channels = 0);

  std::string where() const override;
  std::vector<std::string> names() const override;
  std::optional<TensorInfo> find(const std::string& name) const override;  // all F16
  void read_f16(const std::string& name, int64_t first, int64_t count, f16* out) const override;
  void read_bf16(const std::string& name, int64_t first, int64_t count, bf16* out) const override;
  void read_f32(const std::string& name, int64_t first, int64_t count, float* out) const override;
  void read_bytes(const std::string& name, int64_t offset, std::span<std::byte> out) const override;

 private:
  struct Entry {
    RandomTensor tensor;
    uint64_t key = 0;
    float mean = 0, scale = 0;
    std::vector<int> outliers;  // ascending; norms only
  };
  const Entry& entry(const std::string& name) const;

  uint64_t seed_;
  int outlier_channels_;
  std::unordered_map<std::string, Entry> entries_;
};

// The generator itself. Elements [first, first + count) of the stream `key`: mean + scale · z, where z is the sum of
// four random bytes less its mean: nearly normal, of standard deviation kRandomSigma and within ±510.
constexpr float kRandomSigma = 147.80054f;  // √(4 · (256² − 1) / 12)
using RandomFill = void(uint64_t key, uint64_t first, size_t count, float mean, float scale, f16* out);
RandomFill* portable_random_fill();
RandomFill* avx2_random_fill();  // nullptr where the CPU or the build has no AVX2; the same bits

}  // namespace quantbench
