#include "backend/cuda/persistent/tensor_map.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstring>

#include "backend/cuda/check.h"
#include "backend/cuda/tensor_products.h"
#include "core/error.h"

namespace quantbench::QB_CUDA {
namespace {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
static_assert(alignof(TensorMap) == alignof(CUtensorMap));

// Of the driver, which is opened at run time: nothing here links to it.
using Encode = decltype(&cuTensorMapEncodeTiled);
Encode tensor_map_encoder() {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found{};
  constexpr unsigned kSince = 12000;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, kSince, cudaEnableDefault, &found),
        "cudaGetDriverEntryPointByVersion");
  if (!entry) fail(ErrorKind::device, "the driver has no cuTensorMapEncodeTiled; update it, or use --engine graph");
  return reinterpret_cast<Encode>(entry);
}

TensorMap as_map(const CUtensorMap& map) {
  TensorMap out;
  static_assert(sizeof out.words == sizeof map);
  std::memcpy(&out, &map, sizeof map);
  return out;
}

}  // namespace

TensorMap make_rows_map(const RowsShape& shape) {
  static const Encode encode = tensor_map_encoder();
  CUtensorMap map;
  constexpr cuuint32_t kLine = 128;
  const std::array<cuuint64_t, 2> size{static_cast<cuuint64_t>(shape.k), static_cast<cuuint64_t>(shape.rows)};
  const std::array<cuuint64_t, 1> stride{shape.stride};
  const std::array<cuuint32_t, 2> box{shape.half ? kLine / 2 : kLine, static_cast<cuuint32_t>(shape.box_rows)},
      step{1, 1};
  const CUresult status = encode(&map, shape.half ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2,
                                 const_cast<void*>(shape.data), size.data(), stride.data(), box.data(), step.data(),
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    fail(ErrorKind::device, "cuTensorMapEncodeTiled answered {} for {} rows of {} numbers", static_cast<int>(status),
         shape.rows, shape.k);
  }
  return as_map(map);
}

TensorMap make_tensor_map(const MapShape& shape) {
  static const Encode encode = tensor_map_encoder();
  CUtensorMap map;
  const cuuint32_t line = kChunkBytes / (shape.half ? 2 : 1);
  const auto rows = static_cast<cuuint64_t>(shape.rows), chunks = static_cast<cuuint64_t>(shape.chunks);
  const std::array<cuuint64_t, 4> size{line, rows, chunks, 2};
  const std::array<cuuint64_t, 3> stride{chunks * kChunkBytes, kChunkBytes, shape.high_bytes};
  const std::array<cuuint32_t, 4> box{line, kUnitRows / 2, static_cast<cuuint32_t>(shape.slot_chunks), 2},
      step{1, 1, 1, 1};
  const CUresult status = encode(&map, shape.half ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 4,
                                 const_cast<void*>(shape.w), size.data(), stride.data(), box.data(), step.data(),
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    fail(ErrorKind::device, "cuTensorMapEncodeTiled answered {} for {} rows of {} chunks", static_cast<int>(status),
         shape.rows, shape.chunks);
  }
  return as_map(map);
}

}  // namespace quantbench::QB_CUDA
