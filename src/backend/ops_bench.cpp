// Times every op × format of the case table at its full size, after the same case has agreed with the reference at test
// size. Weights take turns in copies that together exceed three times the last-level cache, so that what is timed is
// memory, not cache. Beside the time: bytes and flops a second, and the share of the read bandwidth measured around it.
// QUANTBENCH_ISA chooses the kernels. "attention" is qkv and attend together (ops_cases.h says why).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <iostream>

#include "backend/cost_ops.h"
#include "backend/ops_fixture.h"
#include "core/error.h"
#include "core/os.h"

namespace quantbench {
namespace {

constexpr size_t kRotatedBytes = size_t{128} << 20;  // over three times the 32 MB of cache that a server core can use
constexpr size_t kProbeBytes = size_t{1} << 30;
constexpr int kMostCopies = 64;
constexpr uint64_t kSeed = 1;

// One for all cases: it holds 1 GB.
struct Bench {
  std::unique_ptr<Backend> backend = make_backend("auto", {});
  std::unique_ptr<ReadProbe> probe = backend->read_probe(kProbeBytes);
};

bool agrees(const OpCase& c) {
  const auto reference = make_backend("reference", {}), backend = make_backend("auto", {});
  const CaseSizes sizes = test_sizes(c);
  const CaseData data(c, sizes, kSeed, reference->host_pool());
  CaseRun expected(data, *reference), run(data, *backend);
  expected.run();
  run.run();
  size_t first = 0;
  return count_wrong(run.outputs(), expected.outputs(), tolerance_of(c, sizes), &first) == 0;
}

void time_case(benchmark::State& state, const OpCase& c, Bench& bench) {
  if (!agrees(c)) {
    state.SkipWithError("differs from the reference");
    return;
  }
  const auto backend = make_backend("auto", {});  // of its own, so that its weights go away
  const CaseData data(c, full_sizes(c), kSeed, backend->host_pool());
  size_t bytes = 0;
  {
    const CaseRun one(data, *backend);
    bytes = cost_of(one.tape(), c.rows / data.sequences).total().bytes();
  }
  const int copies = std::clamp(static_cast<int>(kRotatedBytes / std::max<size_t>(bytes, 1)) + 1, 1, kMostCopies);
  CaseRun run(data, *backend, copies);
  const Cost cost = cost_of(run.tape(), (c.rows / data.sequences + 1) / 2).total();
  for (int i = 0; i < copies; ++i) run.run(i);
  const double before = bench.probe ? bench.probe->measure() : 0;
  int turn = 0;
  const int64_t start_ns = os::steady_now_ns();
  for ([[maybe_unused]] auto _ : state) run.run(turn++ % copies);
  const double seconds = static_cast<double>(os::steady_now_ns() - start_ns) / 1e9 / std::max(turn, 1);
  const double after = bench.probe ? bench.probe->measure() : 0;
  state.counters["GB/s"] = static_cast<double>(cost.bytes()) / seconds / 1e9;
  if (before > 0) state.counters["%read"] = 200 * static_cast<double>(cost.bytes()) / seconds / (before + after);
  if (cost.flops > 0) state.counters["Gflop/s"] = cost.flops / seconds / 1e9;
}

int run_benches(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  Bench bench;
  std::cerr << bench.backend->device().name << ", " << bench.backend->device().features << ", "
            << bench.backend->device().threads << " threads\n";
  for (const OpCase& c : op_cases()) {
    benchmark::RegisterBenchmark(c.name().c_str(), [c, &bench](benchmark::State& state) { time_case(state, c, bench); })
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
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
