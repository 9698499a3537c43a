// How fast weights come: read and checked from page cache, made at random, quantised. Bytes are those of the fp16 (or
// stored) numbers that go in. The last argument is the number of threads.
#include <benchmark/benchmark.h>

#include <memory>

#include "checkpoint/checkpoint.h"
#include "checkpoint/convert.h"
#include "checkpoint/random_weights.h"
#include "quant/int8.h"
#include "quant/kernels.h"
#include "quant/nf4.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

constexpr int kRows = 8192, kCols = 4096;  // 64 MiB of fp16: beyond any cache
constexpr size_t kElements = size_t{kRows} * kCols;

const std::vector<f16>& random_halves() {
  static const std::vector<f16> values = [] {
    std::vector<f16> v(kElements);
    RandomWeights(1, {{"w", kRows, kCols, RandomKind::linear}}).read_f16("w", 0, kRows, v.data());
    return v;
  }();
  return values;
}

// A model folder with one tensor "w" of this type.
struct Model {
  TestFolder folder;
  std::unique_ptr<Checkpoint> checkpoint;
  explicit Model(DType dtype) {
    folder.write("config.json", "{}");
    SafetensorsWriter writer(folder / "model.safetensors", {{"w", {dtype, {kRows, kCols}}}});
    std::vector<float> wide(kElements);
    portable_convert_kernels().f16_to_f32(random_halves().data(), kElements, wide.data());
    std::vector<bf16> brain(kElements);
    for (size_t i = 0; i < kElements; ++i) brain[i] = to_bf16(wide[i]);
    if (dtype == DType::f32) writer.write(std::as_bytes(std::span(wide)));
    if (dtype == DType::bf16) writer.write(std::as_bytes(std::span(brain)));
    if (dtype == DType::f16) writer.write(std::as_bytes(std::span(random_halves())));
    writer.commit();
    checkpoint = Checkpoint::open(folder.path());
  }
};

void count(benchmark::State& state, size_t bytes) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(bytes));
}

// Reads `source`'s "w" as fp16 on state.range(0) threads.
void read_by_rows(benchmark::State& state, const WeightSource& source, size_t bytes) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  std::vector<f16> out(kElements);
  for ([[maybe_unused]] auto _ : state) {
    pool.for_chunks(kRows, 64, [&](size_t begin, size_t end, int) {
      source.read_f16("w", static_cast<int64_t>(begin), static_cast<int64_t>(end - begin), out.data() + begin * kCols);
    });
    benchmark::ClobberMemory();
  }
  count(state, bytes);
}

void BM_Read(benchmark::State& state, DType dtype) {
  const Model model(dtype);
  read_by_rows(state, *model.checkpoint, kElements * size_of(dtype));
}
BENCHMARK_CAPTURE(BM_Read, f16, DType::f16)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK_CAPTURE(BM_Read, bf16, DType::bf16)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK_CAPTURE(BM_Read, f32, DType::f32)->Arg(1)->Arg(2)->UseRealTime();

void BM_Random(benchmark::State& state) {
  const RandomWeights weights(1, {{"w", kRows, kCols, RandomKind::linear}});
  read_by_rows(state, weights, kElements * sizeof(f16));
}
BENCHMARK(BM_Random)->Arg(1)->Arg(2)->UseRealTime();

void BM_RandomFill(benchmark::State& state, RandomFill* fill) {
  if (!fill) return state.SkipWithError("this CPU has no AVX2");
  std::vector<f16> out(1 << 16);
  for ([[maybe_unused]] auto _ : state) {
    fill(1, 0, out.size(), 0.0f, 1e-4f, out.data());
    benchmark::ClobberMemory();
  }
  count(state, out.size() * sizeof(f16));
}
BENCHMARK_CAPTURE(BM_RandomFill, portable, portable_random_fill());
BENCHMARK_CAPTURE(BM_RandomFill, avx2, avx2_random_fill());

void BM_QuantizeInt8(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  std::vector<int8_t> codes(kElements);
  std::vector<float> absmax(kRows);
  for ([[maybe_unused]] auto _ : state) quantize_int8(random_halves(), kRows, kCols, codes, absmax, pool);
  count(state, kElements * sizeof(f16));
}
BENCHMARK(BM_QuantizeInt8)->Arg(1)->Arg(2)->UseRealTime();

void BM_QuantizeNf4(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  Nf4Weights weights;
  for ([[maybe_unused]] auto _ : state) quantize_nf4(random_halves(), kRows, kCols, &weights, pool);
  count(state, kElements * sizeof(f16));
}
BENCHMARK(BM_QuantizeNf4)->Arg(1)->Arg(2)->UseRealTime();

void BM_Nf4Blocks(benchmark::State& state, const QuantKernels* kernels) {
  if (!kernels) return state.SkipWithError("this CPU has no AVX2");
  constexpr size_t kCount = 1 << 16;
  std::vector<uint8_t> codes(kCount / 2);
  std::vector<float> absmax(kCount / kNf4Block);
  for ([[maybe_unused]] auto _ : state) {
    kernels->nf4_blocks(random_halves().data(), kCount, absmax.data(), codes.data());
    benchmark::ClobberMemory();
  }
  count(state, kCount * sizeof(f16));
}
BENCHMARK_CAPTURE(BM_Nf4Blocks, portable, &portable_quant_kernels());
BENCHMARK_CAPTURE(BM_Nf4Blocks, avx2, avx2_quant_kernels());

void BM_Int8Codes(benchmark::State& state, const QuantKernels* kernels) {
  if (!kernels) return state.SkipWithError("this CPU has no AVX2");
  constexpr size_t kCount = 1 << 16;
  std::vector<int8_t> codes(kCount);
  for ([[maybe_unused]] auto _ : state) {
    kernels->int8_codes(random_halves().data(), kCount, 1000.0f, codes.data());
    benchmark::ClobberMemory();
  }
  count(state, kCount * sizeof(f16));
}
BENCHMARK_CAPTURE(BM_Int8Codes, portable, &portable_quant_kernels());
BENCHMARK_CAPTURE(BM_Int8Codes, avx2, avx2_quant_kernels());

}  // namespace
}  // namespace quantbench

BENCHMARK_MAIN();
