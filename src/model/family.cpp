#include "model/family.h"

#include <cmath>
#include <cstdint>

#include "core/error.h"

namespace quantbench {

Matrix unloaded(const Storage& storage, int n, int k) {
  constexpr int kMostInt8Inputs = INT32_MAX / (128 * 127);  // beyond, an int32 sum of products of codes could overflow
  switch (storage.precision) {
    case Precision::fp16:
    case Precision::bf16: break;
    case Precision::int8:
      if (k > kMostInt8Inputs) {
        fail(ErrorKind::bad_model, "a linear has {} inputs, int8 can sum {} at most; choose another precision", k,
             kMostInt8Inputs);
      }
      return Int8Matrix{n, k};
    case Precision::nf4: {
      Nf4Matrix m{n, k};
      m.double_quantized = storage.nf4_double_quantized;
      return m;
    }
  }
  return unloaded_unquantized(storage, n, k);
}

Matrix unloaded_unquantized(const Storage& storage, int n, int k) {
  if (storage.precision == Precision::bf16) return Bf16Matrix{n, k};
  return F16Matrix{n, k};
}

void complete_shape(const ConfigReader& reader, const std::vector<WeightSlot>& slots, Shape* shape) {
  // Ten times the largest model ever published; a config beyond it is a mistake or an attack.
  constexpr int64_t kMostParameters = 20'000'000'000'000;
  unsigned __int128 parameters = 0;
  for (const WeightSlot& slot : slots) {
    if (slot.tied_to.empty())
      parameters += static_cast<unsigned __int128>(slot.rows) * static_cast<unsigned>(slot.cols);
  }
  if (parameters > kMostParameters) {
    reader.fail_text(fmt::format(
        "its sizes make {:.3g} parameters, expected at most {:.3g}; take the config.json that came with the weights",
        static_cast<double>(parameters), static_cast<double>(kMostParameters)));
  }
  shape->parameters = static_cast<int64_t>(parameters);
  shape->bos = special_ids(reader.source(), "bos_token_id", shape->vocab);
  shape->eos = special_ids(reader.source(), "eos_token_id", shape->vocab);
  if (shape->bos.size() > 1) reader.fail_key("bos_token_id", "one token id");
}

size_t RopeTables::bytes(int positions) const {
  return static_cast<size_t>(positions) * static_cast<size_t>(config_.dims) * sizeof(float);
}

void RopeTables::make(Backend& backend, int positions) {
  if (positions <= positions_) return;
  const std::vector<float> frequencies = rope_frequencies(config_);
  const size_t half = frequencies.size(), count = half * static_cast<size_t>(positions);
  std::vector<float> values(2 * count);
  const auto magnitude = static_cast<float>(config_.magnitude);
  for (size_t p = 0; p < static_cast<size_t>(positions); ++p) {
    for (size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p + static_cast<size_t>(first_angle_)) *
                          frequencies[i];  // rounded to fp32, as transformers does
      values[p * half + i] = static_cast<float>(std::cos(double{angle})) * magnitude;
      values[count + p * half + i] = static_cast<float>(std::sin(double{angle})) * magnitude;
    }
  }
  buffer_.reset();
  buffer_ = backend.allocate(Use::tables, bytes(positions));
  backend.upload(*buffer_, 0, values.data(), bytes(positions));
  rope_.cos = static_cast<const float*>(buffer_->data());
  rope_.sin = rope_.cos + count;
  positions_ = positions;
}

}  // namespace quantbench
