#include "backend/cuda/persistent/persistent_program.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <vector>

#include "backend/cuda/check.h"
#include "backend/cuda/persistent/persistent_plan.h"
#include "core/error.h"

namespace quantbench::cuda {
namespace {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) == alignof(CUtensorMap));

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

TensorMap make_map(Encode encode, const MapShape& shape) {
  CUtensorMap map;
  const cuuint32_t line = kChunkBytes / (shape.half ? 2 : 1);
  const auto rows = static_cast<cuuint64_t>(shape.rows), chunks = static_cast<cuuint64_t>(shape.chunks);
  const std::array<cuuint64_t, 3> size{line, rows, chunks};
  const std::array<cuuint64_t, 2> stride{chunks * kChunkBytes, kChunkBytes};
  const std::array<cuuint32_t, 3> box{line, kUnitRows / 2, static_cast<cuuint32_t>(shape.slot_chunks)}, step{1, 1, 1};
  const CUresult status = encode(&map, shape.half ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 3,
                                 const_cast<void*>(shape.w), size.data(), stride.data(), box.data(), step.data(),
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    fail(ErrorKind::device, "cuTensorMapEncodeTiled answered {} for {} rows of {} chunks", static_cast<int>(status),
         shape.rows, shape.chunks);
  }
  TensorMap out;
  static_assert(sizeof out.words == sizeof map);
  std::memcpy(&out, &map, sizeof map);
  return out;
}

struct Cut {
  size_t steps, maps, exchange, bytes;
};
Cut cut(const PersistentPlan& plan) {
  Cut at{};
  const auto take = [&at](size_t bytes) {
    constexpr size_t kAlign = 256;
    const size_t here = at.bytes;
    at.bytes += (bytes + kAlign - 1) / kAlign * kAlign;
    return here;
  };
  at.steps = take(plan.steps.size() * sizeof(Step));
  at.maps = take(plan.maps.size() * sizeof(TensorMap));
  at.exchange = take(plan.exchange_words * sizeof(Tagged));
  return at;
}

class PersistentProgram final : public Program {
 public:
  PersistentProgram(Runtime& runtime, const Tape& tape, const Tables& tables, std::byte* memory, uint32_t* stuck)
      : runtime_(runtime) {
    const int processors = runtime.multiprocessors();
    const Cut at = cut(make_persistent_plan(tape, processors, runtime.shared_bytes(), nullptr));
    const PersistentPlan plan =
        make_persistent_plan(tape, processors, runtime.shared_bytes(), reinterpret_cast<Tagged*>(memory + at.exchange));
    std::vector<TensorMap> maps;
    const Encode encode = tensor_map_encoder();
    for (const MapShape& shape : plan.maps) maps.push_back(make_map(encode, shape));
    runtime.zero(memory, at.bytes);  // no launch is number 0
    runtime.to_device(memory + at.steps, plan.steps.data(), plan.steps.size() * sizeof(Step));
    runtime.to_device(memory + at.maps, maps.data(), maps.size() * sizeof(TensorMap));
    args_ = plan.args;
    args_.steps = reinterpret_cast<const Step*>(memory + at.steps);
    args_.maps = reinterpret_cast<const TensorMap*>(memory + at.maps);
    args_.code_pairs = tables.code_pairs;
    args_.nested_code = tables.nested_code;
    format_ = plan.format;
    head_dim_ = plan.head_dim;
    shared_bytes_ = plan.shared_bytes;
    args_.stuck = stuck;
  }
  void run() override {
    ++args_.epoch;
    launch_persistent(args_, format_, head_dim_, shared_bytes_, runtime_.multiprocessors(), runtime_.stream());
  }
  std::string_view engine() const override { return "persistent"; }

 private:
  Runtime& runtime_;
  PersistentArgs args_;
  WeightFormat format_ = WeightFormat::f16;
  int head_dim_ = 0;
  size_t shared_bytes_ = 0;
};

}  // namespace

size_t persistent_program_bytes(const Tape& tape, int multiprocessors, size_t shared_bytes) {
  if (!persistent_obstacle(tape, shared_bytes).empty()) return 0;
  return cut(make_persistent_plan(tape, multiprocessors, shared_bytes, nullptr)).bytes;
}

std::unique_ptr<Program> make_persistent_program(Runtime& runtime, const Tape& tape, const Tables& tables,
                                                 std::byte* memory, uint32_t* stuck) {
  return std::make_unique<PersistentProgram>(runtime, tape, tables, memory, stuck);
}

}  // namespace quantbench::cuda
