// Faults that a device really has, in a sweep of three precisions: the process of one of them writes where no memory
// is, or finds no memory left. What comes of it must be a record, and the other two must be measured. Runs on a GPU
// where QB_REQUIRE_GPU asks for one (tools/gpu_check.sh), since for a moment it takes all of its memory; else on the
// CPU, where the first is a crash and the second a limit. The program is its own worker process: device_faults_test
// worker FAULT DEVICE.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdio>
#include <map>

#include "bench/engine_worker.h"
#include "bench/measure.h"
#include "bench/record_builder.h"
#include "bench/worker_process.h"
#include "core/os.h"
#include "testing/test_json_schema.h"

namespace quantbench {
namespace {

constexpr Precision kFaulty = Precision::int8;
constexpr int kFaultyRun = 3;  // of its process: behind the cold run and one that warms up

// Measures as any worker does, until it is the faulty cell's turn; nothing tells the engine of the fault.
class FaultyWorker final : public EngineWorker {
 public:
  FaultyWorker(std::string fault, const std::string& device)
      : EngineWorker({device, 1},
                     [this](std::string_view name, const BackendOptions& options) {
                       ChosenDevice chosen = choose_device(name, options);
                       backend_ = chosen.backend.get();
                       return chosen;
                     }),
        fault_(std::move(fault)) {}

  PlanReport plan(const Cell& cell) override {
    is_faulty_ = cell.precision == kFaulty;
    return EngineWorker::plan(cell);
  }
  CellLoad load(const OnProgress& progress) override {
    if (is_faulty_ && fault_ == "memory") take_all_memory();
    return EngineWorker::load(progress);
  }
  GenerateReport generate(std::span<const int32_t> prompt, int new_tokens, std::span<const int32_t> stop_at) override {
    if (is_faulty_ && fault_ == "write" && ++runs_ == kFaultyRun) write_out_of_bounds();
    return EngineWorker::generate(prompt, new_tokens, stop_at);
  }

 private:
  // By a kernel of the backend, which is not waited for: what is done next finds out.
  void write_out_of_bounds() {
    constexpr size_t kFar = size_t{1} << 40;
    taken_.push_back(backend_->allocate(Use::workspace, 256));
    void* const data = taken_.back()->data();
    auto* const beyond = reinterpret_cast<uint64_t*>(reinterpret_cast<uintptr_t>(data) + kFar);
    backend_->hash(beyond, static_cast<const uint32_t*>(data), 4);
  }
  void take_all_memory() {
    if (!backend_->device().gpu) {
      constexpr size_t kPage = 4096, kLeft = size_t{4} << 20;
      const size_t pages = std::stoul(os::read_small_file("/proc/self/statm").value());
      const rlimit most{pages * kPage + kLeft, pages * kPage + kLeft};
      if (::setrlimit(RLIMIT_AS, &most) != 0) fail(ErrorKind::internal, "setrlimit failed");
      return;
    }
    constexpr size_t kLeast = size_t{1} << 20;
    for (size_t bytes = size_t{1} << 40; bytes >= kLeast;) {
      try {
        taken_.push_back(backend_->allocate(Use::workspace, bytes));
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::out_of_memory) throw;
        bytes /= 2;
      }
    }
  }

  std::string fault_;
  Backend* backend_ = nullptr;
  std::vector<std::unique_ptr<Buffer>> taken_;
  bool is_faulty_ = false;
  int runs_ = 0;
};

struct Printed : Progress {
  void line(const std::string& text) override { std::fputs((text + "\n").c_str(), stderr); }
  void status(const std::string&) override {}
};

struct Swept {
  DeviceInfo device;
  std::map<Precision, CellData> data;
  std::map<Precision, Record> records;
};

// A sweep of the bundled model whose int8 has this fault.
Swept sweep_with(const std::string& fault) {
  Swept swept;
  std::string device = os::environment("QB_REQUIRE_GPU") ? "cuda" : "cpu";
  MeasureOptions options;
  options.runs = 1;
  Printed printed;
  ChosenEngines engines;
  SweepFacts facts{os::utc_now(), read_environment(), build_info(), options, {}};
  MeasureHooks hooks;
  hooks.start = [&](const Cell*) {
    return std::make_unique<WorkerProcess>(WorkerCommand{os::executable_path(), {"worker", fault, device}, 120});
  };
  hooks.finished = [&](const Cell& cell, const CellData& data) {
    swept.data[cell.precision] = data;
    swept.records[cell.precision] = make_record(cell, data, facts, {});
  };
  hooks.now = os::steady_now_ns;
  hooks.available_memory = [] { return std::optional<int64_t>(); };
  hooks.engines = &engines;
  hooks.progress = &printed;
  BandwidthProbe probe(hooks);
  facts.device = swept.device = probe.device().device;
  device = swept.device.id;
  std::vector<Cell> cells;
  for (const Precision precision : {Precision::fp16, kFaulty, Precision::nf4}) {
    Cell cell;
    cell.model.name = "bundled";
    cell.model.folder = QB_SOURCE_DIR "/models/bundled";
    cell.precision = precision;
    cell.test = {TestKind::generation, 4, 8};
    cell.engine.device = device;
    cell.prompt = {5, 6, 7, 8};
    cells.push_back(cell);
  }
  measure(cells, options, hooks, probe);
  return swept;
}

void expect_that_only_int8_failed(const Swept& swept) {
  EXPECT_EQ(swept.device.gpu.has_value(), os::environment("QB_REQUIRE_GPU").has_value());
  std::fputs(("on " + described(swept.device) + "\n").c_str(), stderr);
  const nlohmann::json schema = read_json_file(QB_SOURCE_DIR "/docs/record.schema.json");
  ASSERT_EQ(swept.records.size(), 3u);
  for (const auto& [precision, record] : swept.records) {
    EXPECT_THAT(JsonSchema(schema).check(nlohmann::json::parse(to_text(record))), testing::IsEmpty());
    const bool failed = precision == kFaulty;
    EXPECT_EQ(record["outcome"]["status"], failed ? "failed" : "ok") << to_text(record["outcome"]);
    EXPECT_EQ(record["outcome"]["stamp"], failed ? "INVALID" : "FLAGGED") << "one run is few";
    if (!failed) {
      EXPECT_EQ(record["runs"].size(), 1u);
    }
  }
}

TEST(DeviceFaults, AWriteOutOfBoundsIsARecordAndTheSweepGoesOn) {
  const Swept swept = sweep_with("write");
  expect_that_only_int8_failed(swept);
  const CellData& failed = swept.data.at(kFaulty);
  EXPECT_TRUE(failed.cold) << "what was measured before is kept";
  EXPECT_EQ(failed.warmup.size(), 1u);
  if (swept.device.gpu) {
    EXPECT_EQ(failed.outcome.kind, ErrorKind::device);
    EXPECT_THAT(failed.outcome.error, testing::HasSubstr("cudaErrorIllegalAddress"));
  } else {
    EXPECT_THAT(failed.outcome.error, testing::HasSubstr("the worker process ended with"));
  }
}

#if !defined(__SANITIZE_ADDRESS__)  // which takes terabytes of address space for itself
TEST(DeviceFaults, MemoryThatRunsOutIsARecordAndTheSweepGoesOn) {
  const Swept swept = sweep_with("memory");
  expect_that_only_int8_failed(swept);
  const CellData& failed = swept.data.at(kFaulty);
  EXPECT_EQ(failed.outcome.kind, ErrorKind::out_of_memory) << failed.outcome.error;
  EXPECT_TRUE(failed.plan) << "which did not foresee it";
  EXPECT_FALSE(failed.cold);
  if (swept.device.gpu) {
    EXPECT_THAT(failed.outcome.error, testing::HasSubstr("no room for"));
  }
}
#endif

}  // namespace
}  // namespace quantbench

int main(int argc, char** argv) {
  if (argc == 4 && std::string_view(argv[1]) == "worker") {
    quantbench::os::end_with_parent();
    quantbench::FaultyWorker worker(argv[2], argv[3]);
    return quantbench::serve(worker);
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
