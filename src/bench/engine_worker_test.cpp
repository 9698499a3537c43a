#include "bench/engine_worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "backend/test_backends.h"
#include "bench/metrics.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

Cell tiny_cell(Precision precision) {
  Cell cell;
  cell.model.name = "tiny";
  cell.model.folder = QB_SOURCE_DIR "/testdata/models/llama-gqa";
  cell.precision = precision;
  cell.test = {TestKind::generation, 3, 4};
  cell.engine.device = "whatever the test says";
  cell.prompt = {5, 6, 7};
  return cell;
}

TEST(MemoryNow, TakesTheDriversFigureWhereItIsTold) {
  DeviceUse use{.context_bytes = 500, .held_bytes = 100, .peak_bytes = 140};
  EXPECT_EQ(memory_now(use).bytes, 600);
  EXPECT_EQ(memory_now(use).peak_bytes, 640);
  use.process_bytes = 630;
  EXPECT_EQ(memory_now(use).bytes, 630);
  EXPECT_EQ(memory_now(use).peak_bytes, 670);
}

TEST(EngineWorker, TellsWhatTheDeviceIsAndKeepsItForTheProbe) {
  int made = 0;
  EngineWorker worker({"auto", 1}, [&](std::string_view name, const BackendOptions& options) {
    ++made;
    EXPECT_EQ(name, "auto");
    EXPECT_TRUE(options.several_processes);
    return ChosenDevice{make_backend("reference", {}), "cuda:0: it is full"};
  });
  const DeviceReport report = worker.device();
  EXPECT_EQ(report.device.id, "reference");
  EXPECT_EQ(report.passed_over, "cuda:0: it is full");
  EXPECT_THROW(worker.probe(), Error) << "the reference claims no speed";
  EXPECT_EQ(made, 1);
}

TEST(EngineWorker, LoadTimeBeginsWithTheDeviceAndLeavesWaitingOut) {
  constexpr auto kLong = std::chrono::milliseconds(200);
  const int64_t long_ns = std::chrono::nanoseconds(kLong).count(), start_ns = os::steady_now_ns();
  EngineWorker worker({"auto", 1}, [&](std::string_view, const BackendOptions&) {
    std::this_thread::sleep_for(kLong);  // as a GPU's context takes
    return ChosenDevice{make_backend("reference", {}), ""};
  });
  worker.plan(tiny_cell(Precision::fp16));
  std::this_thread::sleep_for(kLong);  // while other cells are planned
  const CellLoad load = worker.load({});
  const int64_t whole_ns = os::steady_now_ns() - start_ns;
  EXPECT_GE(load.context_ns, long_ns);
  EXPECT_GT(load.weights_ns, 0);
  EXPECT_GT(load.session_ns, 0);
  EXPECT_EQ(load.load_ns(), load.context_ns + load.weights_ns + load.session_ns);
  EXPECT_LE(load.load_ns(), whole_ns - long_ns);
}

TEST(EngineWorker, ABatchBehindAContextTakesWhatWasPredictedAndReadsItsWeightsOnce) {
  const auto load = [](EngineWorker& worker, const Cell& cell) {
    const PlanReport plan = worker.plan(cell);
    return std::pair{plan, worker.load({})};
  };
  const auto make = [] {
    return EngineWorker({"auto", 1}, [](std::string_view, const BackendOptions&) {
      return ChosenDevice{make_backend("reference", {}), ""};
    });
  };
  for (const Precision precision : {Precision::fp16, Precision::int8, Precision::nf4}) {
    EngineWorker one = make(), many = make();
    const Cell single = tiny_cell(precision);
    Cell cell = single;
    cell.test.depth = 6;
    cell.test.batch = 5;
    cell.prompt = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
    for (int i = 0; i < 30; ++i) cell.context.push_back(40 + i);
    const CellLoad single_load = load(one, single).second;
    const auto [plan, loaded] = load(many, cell);
    EXPECT_EQ(loaded.kv_position_bytes, single_load.kv_position_bytes);
    const size_t embedding_row = static_cast<size_t>(plan.shape.hidden) * sizeof(f16);
    EXPECT_EQ(loaded.token_weight_bytes, single_load.token_weight_bytes + 4 * embedding_row);
    many.fill_context(cell.context);
    const GenerateReport report = many.generate(cell.prompt, cell.test.new_tokens, {});
    EXPECT_EQ(report.run.sequences, 5);
    EXPECT_EQ(report.run.context_tokens, 6);
    EXPECT_EQ(report.run.new_tokens(), cell.test.new_tokens);
    EXPECT_EQ(many.memory().end_use.bytes, plan.predicted.bytes);
    const size_t cache = 5 * (6 + 3 + 4) * loaded.kv_position_bytes, rounded_up = plan.predicted[Use::kv_cache];
    EXPECT_GE(rounded_up, cache);
    EXPECT_LT(rounded_up, cache + 2 * 256 * static_cast<size_t>(plan.shape.layers));
  }
}

#if defined(QB_HAS_CUDA_EMULATOR)
TEST(EngineWorker, LooksForTheLibraryOfPromptsWhereItChoosesTheDeviceAndNotInACell) {
  EngineWorker worker({"auto", 1}, [](std::string_view, const BackendOptions&) {
    return ChosenDevice{make_test_backend(kEmulatedCuda), ""};
  });
  const DeviceReport report = worker.device();
  ASSERT_TRUE(report.device.gpu && report.device.gpu->cublaslt);
  EXPECT_EQ(report.device.gpu->cublaslt->path, "plain loops");
  ::setenv("QUANTBENCH_CUBLASLT", "off", 1);
  EXPECT_EQ(worker.device().device.gpu->cublaslt->missing, "QUANTBENCH_CUBLASLT is off; unset it");
  ::unsetenv("QUANTBENCH_CUBLASLT");
  EXPECT_FALSE(worker.plan(tiny_cell(Precision::fp16)).device.gpu->cublaslt);
}

TEST(EngineWorker, TheLedgerOfAGpuAddsUpAndIsWholeBeforeTheFirstToken) {
  for (const Precision precision : {Precision::fp16, Precision::int8, Precision::nf4}) {
    EngineWorker worker({"auto", 1}, [](std::string_view, const BackendOptions&) {
      return ChosenDevice{make_test_backend(kEmulatedCuda), ""};
    });
    Cell cell = tiny_cell(precision);
    cell.test.depth = cell.test.batch = 2;
    cell.prompt = {5, 6, 7, 8, 9, 10};
    const PlanReport plan = worker.plan(cell);
    ASSERT_TRUE(plan.device.gpu);
    EXPECT_EQ(plan.device.gpu->uuid, "GPU-emulated");
    EXPECT_THAT(plan.engines, testing::ElementsAre("graph"));
    worker.load({});
    const MemoryReport before = worker.memory();
    worker.fill_context(std::vector<int32_t>{1, 2, 3, 4});
    worker.generate(cell.prompt, cell.test.new_tokens, {});
    const MemoryReport after = worker.memory();

    EXPECT_EQ(after.count, MemoryCount::allocations);
    EXPECT_EQ(after.start_bytes, 0) << "the emulator has no context";
    EXPECT_EQ(after.end_use.bytes, plan.predicted.bytes);
    EXPECT_GE(after.other_bytes(), 0) << "what blocks have left over";
    EXPECT_TRUE(after.host_peak_bytes);
    EXPECT_EQ(after.taken_bytes, after.end_bytes) << "there is no other process";
    // All of it taken before the first token.
    EXPECT_EQ(after.end_bytes, before.end_bytes);
    EXPECT_EQ(after.run_peak_bytes, before.run_peak_bytes);
    EXPECT_EQ(after.end_use.bytes, before.end_use.bytes);
  }
}

TEST(EngineWorker, OfAGpuTellsEveryStepAndWhatTheHostAdds) {
  EngineWorker worker({"auto", 1}, [](std::string_view, const BackendOptions&) {
    return ChosenDevice{make_test_backend(kEmulatedCuda), ""};
  });
  const Cell cell = tiny_cell(Precision::fp16);
  worker.plan(cell);
  worker.load({});
  CellData data;
  data.runs.resize(1);
  data.runs[0].report = worker.generate(cell.prompt, cell.test.new_tokens, {});
  const std::vector<Summary> all = summarize(data);
  const auto figure = [&](std::string_view name) {
    const auto found = std::find_if(all.begin(), all.end(), [&](const Summary& s) { return s.name == name; });
    return found == all.end() ? -1 : found->median;
  };
  EXPECT_EQ(decode_steps_ns(data.runs[0].report.run).size(), 3u) << "of four tokens, which the host sees as one";
  EXPECT_GT(figure("inter_token_median"), 0);
  EXPECT_GT(figure("host_overhead"), 0);
  EXPECT_EQ(figure("device_time") + figure("host_overhead"), figure("total_latency"));
  EXPECT_EQ(figure("device_time"), figure("prefill_time") + figure("decode_time"));
  EXPECT_EQ(figure("inter_token_host_median"), -1);
}

TEST(EngineWorker, OfAGpuTheHostLooksAtEveryTokenWhereItIsAskedTo) {
  Cell cell = tiny_cell(Precision::fp16);
  std::vector<std::vector<int32_t>> tokens;
  std::vector<size_t> host_steps;
  for (const bool looks : {false, true}) {
    EngineWorker worker({"auto", 1}, [](std::string_view, const BackendOptions&) {
      return ChosenDevice{make_test_backend(kEmulatedCuda), ""};
    });
    cell.host_tokens = looks;
    worker.plan(protocol::cell_from(protocol::to_json(cell)));
    worker.load({});
    const quantbench::Run run = worker.generate(cell.prompt, cell.test.new_tokens, {}).run;
    tokens.push_back(run.tokens);
    host_steps.push_back(decode_steps_ns(run, Clock::host).size());
    EXPECT_EQ(decode_steps_ns(run, Clock::device).size(), 3u);
  }
  EXPECT_EQ(tokens[0], tokens[1]);
  EXPECT_THAT(host_steps, testing::ElementsAre(0, 3));
}

TEST(EngineWorker, TheLedgerHoldsWhateverEngineIsTakenAndAnotherProcessTakesTheSame) {
  const TestFolder folder;
  const EngineCache cache(folder / "engines.json");
  Cell cell = tiny_cell(Precision::fp16);
  cell.model.folder = QB_SOURCE_DIR "/models/bundled";
  std::string chosen;
  for (const ChosenBy by : {ChosenBy::self_test, ChosenBy::cache}) {
    EngineWorker worker(
        {"auto", 1},
        [](std::string_view, const BackendOptions&) {
          return ChosenDevice{cuda_emulated::make_backend({.gpu = cuda_emulated::kEmulatedHopper}), ""};
        },
        cache);
    const PlanReport plan = worker.plan(cell);
    const CellLoad load = worker.load({});
    EXPECT_EQ(load.engine.by, by) << load.engine.failure;
    EXPECT_EQ(load.engine.times.size(), 2u);
    EXPECT_THAT(load.tuning, testing::HasSubstr(load.engine.engine == "graph" ? "calls; prompts: " : "ring "));
    const MemoryReport before = worker.memory();
    worker.generate(cell.prompt, cell.test.new_tokens, {});
    const MemoryReport after = worker.memory();
    EXPECT_EQ(after.run_peak_bytes, after.end_bytes) << "the test is in no peak";
    EXPECT_EQ(after.end_bytes, before.end_bytes);
    EXPECT_EQ(after.end_use.bytes, before.end_use.bytes);
    EXPECT_LE(after.load_peak_bytes, after.end_bytes);
    if (by == ChosenBy::self_test) {
      chosen = load.engine.engine;
      EXPECT_THAT(plan.engines, testing::ElementsAre("graph", "persistent"));
      EXPECT_LE(after.end_use.total(), plan.predicted.total());
    } else {
      EXPECT_EQ(load.engine.engine, chosen);
      EXPECT_THAT(plan.engines, testing::ElementsAre(chosen));
      EXPECT_EQ(after.end_use.bytes, plan.predicted.bytes);
    }
  }
}
#endif

}  // namespace
}  // namespace quantbench
