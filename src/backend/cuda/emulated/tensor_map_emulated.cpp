#include "backend/cuda/persistent/tensor_map.h"

#include "backend/cuda/tensor_products.h"

namespace quantbench::QB_CUDA {

// As copy_rows of warpgroup_emulated.h reads it.
TensorMap make_rows_map(const RowsShape& shape) {
  const size_t number = shape.half ? sizeof(uint16_t) : sizeof(uint8_t);
  TensorMap map{};
  map.words[0] = reinterpret_cast<uint64_t>(shape.data);
  map.words[1] = static_cast<uint64_t>(shape.rows);
  map.words[2] = static_cast<uint64_t>(shape.k) * number;
  map.words[3] = shape.stride;
  map.words[4] = static_cast<uint64_t>(shape.box_rows);
  map.words[5] = number;
  return map;
}

// As copy_box of hopper_emulated.h reads it.
TensorMap make_tensor_map(const MapShape& shape) {
  TensorMap map{};
  map.words[0] = reinterpret_cast<uint64_t>(shape.w);
  map.words[1] = static_cast<uint64_t>(shape.rows);
  map.words[2] = static_cast<uint64_t>(shape.chunks);
  map.words[3] = static_cast<uint64_t>(shape.slot_chunks);
  map.words[4] = shape.high_bytes;
  return map;
}

}  // namespace quantbench::QB_CUDA
