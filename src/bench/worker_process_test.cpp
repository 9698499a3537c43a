#include "bench/worker_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/fake_worker.h"
#include "core/os.h"

namespace quantbench {
namespace {

using testing::HasSubstr;

Cell a_cell() {
  Cell cell;
  cell.model.name = "org/model \"quoted\" ü";
  cell.model.folder = "/some/folder";
  cell.model.weight_seed = 0xffffffffffffffff;
  cell.precision = Precision::nf4;
  cell.test = {TestKind::generation, 3, 5};
  cell.prompt = {1, 2, 3};
  return cell;
}
Cell a_batch() {
  Cell cell = a_cell();
  cell.test.depth = 2;
  cell.test.batch = 4;
  cell.prompt.assign(12, 1);
  cell.context.assign(8, 2);
  return cell;
}

Error failure_of(const std::string& mode, double timeout_s = 60) {
  WorkerProcess worker({QB_FAKE_WORKER, {mode}, timeout_s});
  try {
    worker.plan(a_cell());
    worker.load({});
    for (int i = 0; i < 3; ++i) worker.generate(a_cell().prompt, 5, {});
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorKind::usage, "nothing failed");
}

TEST(Protocol, CarriesACellUnchanged) {
  const Cell cell = a_batch();
  const Cell back = protocol::cell_from(protocol::json::parse(protocol::to_json(cell).dump()));
  EXPECT_EQ(back.model.name, cell.model.name);
  EXPECT_EQ(back.model.weight_seed, cell.model.weight_seed);
  EXPECT_EQ(back.precision, cell.precision);
  EXPECT_EQ(back.test.name(), "p3+n5 @ d2 b4");
}

TEST(WorkerProcess, FillsTheContextBeforeRunsOfEverySequence) {
  WorkerProcess worker({QB_FAKE_WORKER, {"healthy"}, 60});
  worker.plan(a_batch());
  worker.load({});
  worker.fill_context(a_batch().context);
  const quantbench::Run run = worker.generate(a_batch().prompt, 5, {}).run;
  EXPECT_EQ(run.sequences, 4);
  EXPECT_EQ(run.context_tokens, 2);
  EXPECT_EQ(run.prompt_tokens, 3);
  EXPECT_EQ(run.new_tokens(), 5);
  EXPECT_EQ(run.tokens.size(), 20u);
}

TEST(Protocol, CarriesADeviceAndItsMemoryUnchanged) {
  FakeWorker gpu;
  gpu.be_a_gpu(123);
  gpu.device_.gpu->cublaslt = {.version = "13.0.2", .path = "/lib/x.so", .missing = "or why"};
  const DeviceReport report{gpu.device_, "cuda:0: full"};
  const DeviceReport back = protocol::device_from(protocol::json::parse(protocol::to_json(report).dump()));
  EXPECT_EQ(back.passed_over, "cuda:0: full");
  EXPECT_EQ(back.device.id, "cuda:0");
  EXPECT_EQ(back.device.available_bytes, 123u);
  ASSERT_TRUE(back.device.gpu);
  ASSERT_TRUE(back.device.gpu->cublaslt);
  EXPECT_EQ(back.device.gpu->cublaslt->version, "13.0.2");
  EXPECT_EQ(back.device.gpu->cublaslt->path, "/lib/x.so");
  EXPECT_EQ(back.device.gpu->cublaslt->missing, "or why");
  EXPECT_EQ(protocol::to_json(back), protocol::to_json(report));
  EXPECT_FALSE(protocol::device_from(protocol::to_json(DeviceReport{})).device.gpu);

  EXPECT_THAT(protocol::plan_from(protocol::to_json(gpu.plan({}))).engines, testing::ElementsAre("graph"));
  CellLoad load = gpu.load({});
  load.engine = {"graph", ChosenBy::failure, {{"graph", 1.5}}, "why"};
  load.tuning = "some";
  EXPECT_EQ(protocol::load_from(protocol::to_json(load)).tuning, "some");
  EXPECT_EQ(protocol::to_json(protocol::load_from(protocol::to_json(load))), protocol::to_json(load));
  MemoryReport memory = gpu.memory();
  memory.count = MemoryCount::driver;
  memory.host_peak_bytes = 1;
  memory.driver_process_bytes.reset();
  memory.driver_device_bytes = 2;
  memory.taken_bytes = 3;
  const MemoryReport memory_back = protocol::memory_from(protocol::to_json(memory));
  EXPECT_EQ(memory_back.count, MemoryCount::driver);
  EXPECT_EQ(memory_back.host_peak_bytes, 1);
  EXPECT_EQ(memory_back.driver_process_bytes, std::nullopt);
  EXPECT_EQ(memory_back.driver_device_bytes, 2);
  EXPECT_EQ(memory_back.taken_bytes, 3);
}

TEST(WorkerProcess, AnswersEveryRequest) {
  WorkerProcess worker({QB_FAKE_WORKER, {"healthy"}});
  EXPECT_EQ(worker.device().device.name, "Fake CPU");
  EXPECT_EQ(worker.plan(a_cell()).shape.architecture, "FakeForCausalLM");
  double seen = 0;
  const CellLoad load = worker.load([&](double done) { seen = done; });
  EXPECT_EQ(seen, 0.5);
  EXPECT_EQ(load.resident[Use::weights], 2'000'000u);
  const quantbench::Run run = worker.generate(a_cell().prompt, 5, {}).run;
  EXPECT_THAT(run.tokens, testing::ElementsAre(100, 101, 102, 103, 104));
  EXPECT_EQ(run.spans.size(), 5u);
  EXPECT_EQ(run.total_ns, 50'000'000);
  EXPECT_EQ(run.spans.back().end_ns, run.total_ns);
  EXPECT_EQ(worker.memory().other_bytes(), 200'000);
  EXPECT_EQ(worker.probe().bytes_per_second, 40e9);
}

TEST(WorkerProcess, IsKnownByItsNumber) {
  WorkerProcess worker({QB_FAKE_WORKER, {"healthy"}, 60});
  worker.device();  // it has started
  EXPECT_EQ(os::read_small_file(fmt::format("/proc/{}/comm", worker.process().value())), "fake_worker");
}

TEST(WorkerProcess, DeathBySignalSaysWhichAndWhen) {
  const Error error = failure_of("killed");
  EXPECT_EQ(error.kind(), ErrorKind::internal);
  EXPECT_THAT(error.what(), HasSubstr("the worker process ended with signal 9"));
  EXPECT_THAT(error.what(), HasSubstr("while generating"));
}

TEST(WorkerProcess, DeathByExitSaysTheCode) { EXPECT_THAT(failure_of("exits").what(), HasSubstr("exit code 3")); }

TEST(WorkerProcess, AStuckWorkerIsEnded) {
  const Error error = failure_of("hangs", 1.0);
  EXPECT_EQ(error.kind(), ErrorKind::internal);
  EXPECT_THAT(error.what(), HasSubstr("no answer for 1 s while generating"));
}

TEST(WorkerProcess, ItsErrorsKeepTheirKind) {
  const Error error = failure_of("error");
  EXPECT_EQ(error.kind(), ErrorKind::device);
  EXPECT_STREQ(error.what(), "the device is lost");
}

TEST(WorkerProcess, UnforeseenFaultsAndGarbageAreErrorsToo) {
  EXPECT_STREQ(failure_of("throws").what(), "an unforeseen fault");
  EXPECT_THAT(failure_of("garbage").what(), HasSubstr("answer of the worker"));
}

}  // namespace
}  // namespace quantbench
