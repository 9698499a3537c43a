// Times every op × format of the case table at its full size, after the same case has agreed with the reference at test
// size. Weights take turns in copies that together exceed several times the last-level cache, so that what is timed is
// memory, not cache. Beside the time: bytes and flops a second, and the share of the read bandwidth measured around it.
//   ops_bench [--device=cpu|cuda] [Google Benchmark's options]; QUANTBENCH_ISA chooses the CPU's kernels.
// "attention" is qkv and attend together (ops_cases.h says why).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <iostream>
#include <string>

#include "backend/cost_ops.h"
#include "backend/host_memory.h"
#include "backend/ops_fixture.h"
#include "core/error.h"
#include "core/os.h"

namespace quantbench {
namespace {

constexpr size_t kRotatedBytes = size_t{128} << 20;  // over three times the 32 MB of cache that a server core can use
constexpr size_t kCachesOfGpu = 8;                   // so that starting a turn costs little beside it, too
constexpr size_t kProbeBytes = size_t{1} << 30;
constexpr int kMostCopies = 256;
constexpr size_t kMostHeldBytes = size_t{4} << 30;
constexpr double kLeastSeconds = 1e-2;  // of what is timed at once
constexpr int kIterations = 10;         // of that
constexpr uint64_t kSeed = 1;

// One for all cases: its probe holds 1 GB.
struct Bench {
  std::string name;
  std::unique_ptr<Backend> backend = make_backend(name, {});
  std::unique_ptr<ReadProbe> probe = backend->read_probe(kProbeBytes);

  size_t rotated_bytes() const {
    const auto& gpu = backend->device().gpu;
    return gpu ? std::max(kRotatedBytes, kCachesOfGpu * gpu->cache_bytes) : kRotatedBytes;
  }
};

bool agrees(const OpCase& c, const Sampling& sampling, const Bench& bench) {
  const auto reference = make_backend("reference", {}), backend = make_backend(bench.name, {});
  const CaseSizes sizes = test_sizes(c);
  const CaseData data(c, sizes, kSeed, reference->host_pool());
  CaseRun expected(data, *reference, 1, sampling), run(data, *backend, 1, sampling);
  expected.run();
  run.run();
  const Activations activations = backend->device().gpu ? Activations::fp16 : Activations::fp32;
  size_t first = 0;
  return count_wrong(run.outputs(), expected.outputs(), tolerance_of(c, sizes, activations), &first) == 0;
}

void time_case(benchmark::State& state, const OpCase& c, const Sampling& sampling, Bench& bench) {
  if (!agrees(c, sampling, bench)) {
    state.SkipWithError("differs from the reference");
    return;
  }
  const auto backend = make_backend(bench.name, {});  // of its own, so that its weights go away
  const CaseData data(c, full_sizes(c), kSeed, backend->host_pool());
  size_t bytes = 0, held = 0;
  {
    const CaseRun one(data, *backend);
    bytes = cost_of(one.tape(), c.rows / data.sequences).total().bytes();
    held = weight_bytes(one.tape()).total();
  }
  // Of an embedding's table a step reads next to nothing.
  const size_t wanted =
      std::min(bench.rotated_bytes() / std::max<size_t>(bytes, 1), kMostHeldBytes / std::max<size_t>(held, 1));
  const int copies = std::clamp(static_cast<int>(wanted) + 1, 1, kMostCopies);
  CaseRun run(data, *backend, copies, sampling);
  const Cost cost = cost_of(run.tape(), (c.rows / data.sequences + 1) / 2).total();
  const auto seconds_of = [&](int turns) {
    const int64_t start_ns = os::steady_now_ns();
    run.run_turns(turns);
    return static_cast<double>(os::steady_now_ns() - start_ns) / 1e9;
  };
  run.run_turns(1);
  const int turns = static_cast<int>(kLeastSeconds / seconds_of(1)) + 1;
  const double before = bench.probe ? bench.probe->measure() : 0;
  double total = 0;
  int64_t times = 0;
  for ([[maybe_unused]] auto _ : state) {
    const double seconds = seconds_of(turns);
    state.SetIterationTime(seconds / (turns * copies));
    total += seconds;
    times += int64_t{turns} * copies;
  }
  const double seconds = total / static_cast<double>(std::max<int64_t>(times, 1));
  const double after = bench.probe ? bench.probe->measure() : 0;
  state.counters["GB/s"] = static_cast<double>(cost.bytes()) / seconds / 1e9;
  if (before > 0) state.counters["%read"] = 200 * static_cast<double>(cost.bytes()) / seconds / (before + after);
  if (cost.flops > 0) state.counters["Gflop/s"] = cost.flops / seconds / 1e9;
}

int run_benches(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  constexpr const char* kDevice = "--device=";
  std::string device = "auto";
  if (argc > 1 && std::string_view(argv[1]).starts_with(kDevice)) {
    device = argv[1] + std::strlen(kDevice);
    argv[1] = argv[0];
    ++argv, --argc;
  }
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  Bench bench{device};
  std::cerr << described(bench.backend->device()) << '\n';
  const auto add = [&](const std::string& name, const OpCase& c, const Sampling& sampling) {
    benchmark::RegisterBenchmark(name.c_str(),
                                 [=, &bench](benchmark::State& state) { time_case(state, c, sampling, bench); })
        ->UseManualTime()
        ->Iterations(kIterations)
        ->Unit(benchmark::kMicrosecond);
  };
  for (const OpCase& c : op_cases()) {
    add(c.name(), c, {});
    if (c.kind != OpKind::next_token) continue;
    add(c.name() + "/sampled", c, {1, kSeed});
    add(c.name() + "/top_k", c, {1, kSeed, 40});
    add(c.name() + "/top_p", c, {1, kSeed, 0, 0.9});
    add(c.name() + "/top_k+top_p", c, {1, kSeed, 40, 0.9});
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace quantbench

int main(int argc, char** argv) {
  try {
    return quantbench::run_benches(argc, argv);
  } catch (const quantbench::Error& error) {
    std::cerr << error.what() << '\n';
    return quantbench::exit_code(error.kind());
  }
}
