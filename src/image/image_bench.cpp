// How long a picture takes: decoding its bytes to upright RGB, resizing that to 224 × 224, and SigLIP's values by
// patches. The last argument of a resize is the number of threads.
//
//   image_bench FILE… [--benchmark_…]      by default models/sample.jpg, from the root of this tree
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "image/decode.h"
#include "image/pixels.h"
#include "image/resize.h"

namespace quantbench {
namespace {

constexpr int kSize = 224, kPatch = 14;
constexpr int64_t kMostBytes = 1 << 28;

DecodedImage decode(const std::string& content, const std::string& path) {
  return decode_image(std::as_bytes(std::span(content)), path);
}

void count_pixels(benchmark::State& state, const Rgb8& picture) {
  state.counters["Mpixel/s"] = benchmark::Counter(static_cast<double>(picture.width()) * picture.height() / 1e6,
                                                  benchmark::Counter::kIsIterationInvariantRate);
}

void bench_decode(benchmark::State& state, const std::string& path) {
  const std::string content = os::read_file(path, kMostBytes);
  const DecodedImage image = decode(content, path);
  for ([[maybe_unused]] auto _ : state) benchmark::DoNotOptimize(decode(content, path).picture.row(0));
  count_pixels(state, image.picture);
}

void bench_resize(benchmark::State& state, const std::string& path) {
  const DecodedImage image = decode(os::read_file(path, kMostBytes), path);
  ThreadPool pool(static_cast<int>(state.range(0)));
  for ([[maybe_unused]] auto _ : state)
    benchmark::DoNotOptimize(resize_bicubic(image.picture, kSize, kSize, pool).row(0));
  count_pixels(state, image.picture);
}

void bench_patches(benchmark::State& state) {
  const Rgb8 picture(kSize, kSize);
  std::vector<float> values(picture.bytes());
  for ([[maybe_unused]] auto _ : state) {
    siglip_patches(picture, kPatch, values);
    benchmark::ClobberMemory();
  }
}

}  // namespace
}  // namespace quantbench

int main(int count, char** arguments) {
  using namespace quantbench;
  benchmark::Initialize(&count, arguments);
  std::vector<std::string> paths(arguments + 1, arguments + count);
  if (paths.empty()) paths.emplace_back("models/sample.jpg");
  for (const std::string& path : paths) {
    benchmark::RegisterBenchmark(("decode/" + path).c_str(), bench_decode, path)->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(("resize/" + path).c_str(), bench_resize, path)
        ->Arg(1)
        ->Arg(2)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::RegisterBenchmark("patches", bench_patches)->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
}
