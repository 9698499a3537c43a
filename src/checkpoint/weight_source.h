// Where a model's weights come from, by tensor name: a checkpoint on disk or the random generator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace quantbench {

struct TensorInfo {
  DType dtype = DType::f16;
  std::vector<int64_t> shape;
};

// How transformers + bitsandbytes saved the linears of this source, if it did.
enum class Prequantized : uint8_t { none, int8, nf4_nested, nf4_plain };

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual std::string where() const = 0;  // for messages: the folder, or "random weights (seed 42)"
  virtual Prequantized prequantized() const { return Prequantized::none; }
  virtual std::vector<std::string> names() const = 0;
  virtual std::optional<TensorInfo> find(const std::string& name) const = 0;

  // Rows [first, first + count) of a tensor seen as [rows, cols] (cols = product of all but the first dimension; a
  // vector is one row), converted to fp16 or bf16 with round to nearest even, or to fp32. NaN, infinity and values
  // that the type cannot hold (of fp16 beyond 65504) are an Error bad_model naming tensor and element, unless allowed
  // at construction. May be called from several threads.
  virtual void read_f16(const std::string& name, int64_t first, int64_t count, f16* out) const = 0;
  virtual void read_bf16(const std::string& name, int64_t first, int64_t count, bf16* out) const = 0;
  virtual void read_f32(const std::string& name, int64_t first, int64_t count, float* out) const = 0;
  // Bytes as stored, for quantised tensors.
  virtual void read_bytes(const std::string& name, int64_t offset, std::span<std::byte> out) const = 0;
};

}  // namespace quantbench
