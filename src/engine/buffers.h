// The memory of a run: activations, rows and cache, taken once; and its size before anything is taken.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "model/model.h"

namespace quantbench {

class RunBuffers {
 public:
  RunBuffers(Backend& backend, const Shape& shape, const StateShape& run);

  // Two views of the same tensors with rows of their own: the prompt's, and one a sequence for the steps after it, so
  // that going from one to the other copies nothing.
  State prefill;  // rows.count is set per call
  State decode;   // rows.count == sequences

  // Rows of the encoder, with how many of their sequence each sees.
  void upload_encoder_rows(std::span<const int32_t> token, std::span<const int32_t> position,
                           std::span<const int32_t> sequence, std::span<const int32_t> length);
  void upload_patches(std::span<const float> values);  // of the rows above, where they are a picture's
  void upload_lengths(const int32_t* to, std::span<const int32_t> lengths) { put(to, lengths); }
  void upload_rows(const Rows& rows, std::span<const int32_t> token, std::span<const int32_t> position,
                   std::span<const int32_t> sequence);
  // The ids that end a sequence, of which the device is told the first kMostStops; and no sequence is done.
  void upload_stops(std::span<const int32_t> ids);
  static constexpr size_t kMostStops = 63;

 private:
  void put(const void* to, const void* from, size_t bytes);
  void put(const int32_t* to, std::span<const int32_t> from) { put(to, from.data(), from.size_bytes()); }

  Backend& backend_;
  std::unique_ptr<Buffer> activations_, kv_cache_;
};

// What loading and running will take, by use: the plan's weights and workspace, RoPE tables, activations and cache.
MemoryUse predict_memory(const Plan& plan, const Model& model, const StateShape& run);

// Error out_of_memory, with the parts, where `predicted` exceeds what the device still has.
void require_memory(const MemoryUse& predicted, const DeviceInfo& device);

}  // namespace quantbench
