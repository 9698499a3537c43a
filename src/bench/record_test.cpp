#include "bench/record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "bench/fake_worker.h"
#include "bench/record_builder.h"
#include "core/json.h"
#include "core/os.h"
#include "testing/test_json_schema.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;

struct Made {
  Cell cell;
  CellData data;
  SweepFacts sweep;
  CellFacts facts;
  Record record() const { return make_record(cell, data, sweep, facts); }
};

Made measured(int depth = 0, int batch = 1) {
  Made m;
  m.cell.model.name = "org/Some-Model 1B";
  m.cell.precision = Precision::int8;
  m.cell.test = {TestKind::generation, 3, 6, depth, batch};
  for (int i = 0; i < 3 * batch; ++i) m.cell.prompt.push_back(i + 1);
  m.cell.context.assign(static_cast<size_t>(depth) * static_cast<size_t>(batch), 9);
  FakeWorker worker;
  m.data.plan = worker.plan(m.cell);
  m.data.load = worker.load({});
  worker.fill_context(m.cell.context);
  m.data.memory = worker.memory();
  RunSample run;
  run.report = worker.generate(m.cell.prompt, 6, {});
  m.data.cold = run;
  m.data.warmup.assign(3, run);
  run.block = run.place = 0;
  run.read_before = run.read_after = 40e9;
  run.report.other_cpu = 0.01;
  m.data.runs.assign(10, run);
  m.data.stop_reason = "interval within 1 %";
  m.sweep.started_utc = os::utc_now();
  m.sweep.environment = read_environment();
  m.sweep.environment.last_level_cache_bytes = 1 << 20;
  m.sweep.build = {"0.1.0", "abc", "some compiler", "Release", "", true};
  m.facts.identity.files = {{"model.safetensors", 100, "00"}};
  m.facts.prompt_text = "three words here";
  m.facts.decode = [](const std::vector<int32_t>& ids) { return fmt::format("an answer of {} ids", ids.size()); };
  return m;
}

// With a quality of eight windows.
Made with_quality() {
  Made m = measured();
  QualityData quality;
  quality.text.name = "'a file'";
  quality.text.window = 512;
  quality.reference = "fp16";
  for (int i = 0; i < 8; ++i) {
    quality.scores.texts.push_back(
        {.tokens = 255, .nll = 600.0 + i, .kl = 3.0 + i, .reference_nll = 590, .same_top = 250 - i});
  }
  quality.scores.kl_p99 = 0.1;
  m.data.quality = quality;
  return m;
}

json schema_file() { return read_json_file(QB_SOURCE_DIR "/docs/record.schema.json"); }

TEST(Record, OfAMeasuredCellFitsTheSchema) {
  const json record = json::parse(to_text(measured().record()));
  EXPECT_THAT(JsonSchema(schema_file()).check(record), IsEmpty());
}

TEST(Record, WithQualityFitsTheSchema) {
  Made m = with_quality();
  JsonSchema schema(schema_file());
  json record = json::parse(to_text(m.record()));
  EXPECT_THAT(schema.check(record), IsEmpty());
  EXPECT_EQ(view_of(m.record()).quality.value().tokens, 8 * 255);
  EXPECT_FALSE(view_of(measured().record()).quality);
  record["quality"]["kl_mean"].erase("low");
  EXPECT_THAT(schema.check(record), testing::ElementsAre(HasSubstr("lacks \"low\"")));
  m.data.quality->text.kind = TextKind::own_answer;
  m.data.quality->answer = {1, 2};
  EXPECT_THAT(schema.check(json::parse(to_text(m.record()))), IsEmpty());
  m.data.quality = QualityData{.error = "no room", .kind = ErrorKind::out_of_memory};
  EXPECT_THAT(schema.check(json::parse(to_text(m.record()))), IsEmpty());
}

TEST(Record, OfACellWithAPictureIsReadBack) {
  Made m = measured();
  EXPECT_FALSE(view_of(m.record()).picture);
  m.data.load->picture = PictureReport{640, 427, 224, 3'100'000, 410'000, ""};
  EXPECT_THAT(JsonSchema(schema_file()).check(json::parse(to_text(m.record()))), IsEmpty());
  const PictureView picture = view_of(m.record()).picture.value();
  EXPECT_EQ(picture.width, 640);
  EXPECT_EQ(picture.height, 427);
  EXPECT_EQ(picture.size, 224);
  EXPECT_EQ(picture.decode_ns, 3.1e6);
  EXPECT_EQ(picture.resize_ns, 4.1e5);
  Record older = m.record();
  older["load"].erase("picture");
  EXPECT_FALSE(view_of(older).picture);
}

TEST(Record, ThatExplainsItsStepsFitsTheSchemaAndIsReadBack) {
  Made m = measured();
  FakeWorker worker;
  m.data.explain = worker.explain(m.cell.prompt, 6);
  EXPECT_THAT(JsonSchema(schema_file()).check(json::parse(to_text(m.record()))), IsEmpty());
  const ExplainView view = view_of(m.record()).explain.value();
  EXPECT_EQ(view.part_shares.size(), 3u);
  EXPECT_DOUBLE_EQ(view.outlier_share.value(), 0.001);
  m.data.explain = ExplainReport{.missing = "no room"};
  EXPECT_THAT(JsonSchema(schema_file()).check(json::parse(to_text(m.record()))), IsEmpty());
  EXPECT_EQ(view_of(m.record()).explain.value().missing, "no room");
  Record older = m.record();
  older.erase("explain");
  EXPECT_FALSE(view_of(older).explain);
}

TEST(Record, OfFailedCellsFitsTheSchemaAtEveryStage) {
  Made m = measured();
  m.data.outcome = {Status::failed, "the worker process ended with signal 9 (Killed)", ErrorKind::internal};
  m.data.runs.resize(2);
  JsonSchema schema(schema_file());
  EXPECT_THAT(schema.check(json::parse(to_text(m.record()))), IsEmpty());
  m.data.runs.clear();
  m.data.warmup.clear();
  m.data.cold.reset();
  m.data.memory.reset();
  EXPECT_THAT(schema.check(json::parse(to_text(m.record()))), IsEmpty());
  m.data.load.reset();
  m.data.plan.reset();
  m.cell.model.random_weights = true;
  m.facts = {};
  EXPECT_THAT(schema.check(json::parse(to_text(m.record()))), IsEmpty());
}

TEST(Record, OfABatchBehindAContextFitsTheSchemaAndCountsASequencesTokens) {
  const Record record = measured(5, 4).record();
  EXPECT_THAT(JsonSchema(schema_file()).check(json::parse(to_text(record))), IsEmpty());
  const Record& cell = record["cell"];
  EXPECT_EQ(cell["test"], "p3+n6 @ d5 b4");
  EXPECT_EQ(cell["prompt_tokens"], 3);
  EXPECT_EQ(cell["new_tokens"], 6);
  EXPECT_EQ(cell["depth"], 5);
  EXPECT_EQ(cell["batch"], 4);
  EXPECT_EQ(record["prompt"]["ids"].size(), 12u);
  EXPECT_EQ(record["prompt"]["context_sha256"], hash_of(std::vector<int32_t>(20, 9)));
  EXPECT_EQ(record["response"]["ids"].size(), 24u);
  EXPECT_EQ(record["response"]["text"], "an answer of 6 ids") << "the first sequence's";
  EXPECT_EQ(record["runs"][0]["new_tokens"], 6);
  EXPECT_EQ(record["outcome"]["stamp"], "VALID");
  // 2 MB of weights, and 1,000 bytes for each of 4 · (5 + 3 + 6 / 2) positions.
  EXPECT_EQ(record["cost"]["bytes_per_step"], 2'044'000.0);
  EXPECT_EQ(record["cost"]["bytes_per_token"], 511'000.0);
  const RecordView v = view_of(record);
  EXPECT_EQ(v.depth, 5);
  EXPECT_EQ(v.batch, 4);
  EXPECT_TRUE(measured().record()["prompt"]["context_sha256"].is_null());
}

TEST(Record, TheSchemaTestCanFail) {
  JsonSchema schema(schema_file());
  const json good = json::parse(to_text(measured().record()));
  json bad = good;
  bad["runs"][0].erase("total_ns");
  EXPECT_THAT(schema.check(bad), testing::ElementsAre(HasSubstr("lacks \"total_ns\"")));
  bad = good;
  bad["outcome"]["stamp"] = "GOOD";
  EXPECT_EQ(schema.check(bad).size(), 1u);
  bad = good;
  bad["cold"]["finite"] = "yes";
  EXPECT_EQ(schema.check(bad).size(), 1u);
  bad = good;
  bad["surprise"] = 1;
  EXPECT_THAT(schema.check(bad), testing::ElementsAre(HasSubstr("surprise")));
}

TEST(Record, TellsThePartsOfLoading) {
  const Record load = measured().record()["load"];
  EXPECT_EQ(load["time_ns"], 12'000'000);
  EXPECT_EQ(load["context_ns"], 3'000'000);
  EXPECT_EQ(load["weights_ns"], 8'000'000);
  EXPECT_EQ(load["session_ns"], 1'000'000);
}

// A cell that ran on a GPU of this name and UUID.
Made measured_on_a_gpu() {
  Made m = measured();
  FakeWorker worker;
  worker.be_a_gpu(size_t{70} << 30);
  m.data.plan = worker.plan(m.cell);
  m.data.load = worker.load({});
  m.data.memory = worker.memory();
  m.sweep.device = worker.device_;
  return m;
}

TEST(Record, TheLedgerAddsUpAtEveryMomentOnEveryDevice) {
  for (const Made& m : {measured(), measured_on_a_gpu()}) {
    const Record memory = m.record()["memory"][0];
    for (const std::string when : {"start", "load_peak", "run_peak", "end"}) {
      const Record& ledger = memory[when + "_ledger"];
      EXPECT_EQ(ledger.size(), static_cast<size_t>(kUses) + 2) << "each use, what was before, and what is left";
      int64_t sum = 0;
      for (const auto& [use, bytes] : ledger.items()) sum += bytes.get<int64_t>();
      EXPECT_EQ(sum, memory[when + "_bytes"].get<int64_t>()) << when;
    }
    // Not by what is left over alone: each part is the backend's own figure.
    EXPECT_EQ(memory["end_ledger"]["process"], 6'000'000);
    EXPECT_EQ(memory["end_ledger"]["weights"], 2'000'000);
    EXPECT_EQ(memory["end_ledger"]["kv_cache"], 500'000);
    EXPECT_EQ(memory["end_ledger"]["other"], 200'000);
  }
}

TEST(Record, MemoryIsReconciledWithEveryCountAndTheDifferenceIsShown) {
  JsonSchema schema(schema_file());
  Made m = measured_on_a_gpu();
  m.data.memory->driver_process_bytes = 9'100'000;
  const Record gpu = m.record()["memory"][0]["reconciliation"];
  EXPECT_EQ(gpu["accounted_bytes"], 8'500'000);
  EXPECT_EQ(gpu["counted_difference_bytes"], 200'000);
  EXPECT_EQ(gpu["driver_process_difference_bytes"], 600'000);
  EXPECT_EQ(gpu["driver_device_difference_bytes"], 11'500'000);
  EXPECT_EQ(gpu["taken_difference_bytes"], 12'500'000);
  m.data.memory->driver_process_bytes.reset();
  m.data.memory->driver_device_bytes = 8'000'000;
  const Record untold = m.record()["memory"][0]["reconciliation"];
  EXPECT_TRUE(untold["driver_process_difference_bytes"].is_null());
  EXPECT_EQ(untold["driver_device_difference_bytes"], -500'000) << "less than was booked is told as well";
  EXPECT_THAT(schema.check(json::parse(to_text(m.record()))), IsEmpty());
  const RecordView on_cpu = view_of(measured().record()), on_gpu = view_of(m.record());
  ASSERT_EQ(on_cpu.memory.size(), 1u);
  EXPECT_FALSE(on_cpu.memory[0].on_gpu);
  EXPECT_EQ(on_cpu.memory[0].counted_by, "resident pages");
  EXPECT_EQ(on_cpu.memory[0].accounted_bytes, 8'500'000);
  EXPECT_TRUE(on_gpu.memory[0].on_gpu);
  EXPECT_FALSE(on_gpu.memory[0].driver_process_bytes);
}

TEST(Record, NamesTheCardByNameUuidAndDriver) {
  const json record = json::parse(to_text(measured_on_a_gpu().record()));
  EXPECT_THAT(JsonSchema(schema_file()).check(record), IsEmpty());
  const json& device = record["devices"][0];
  EXPECT_EQ(device["id"], "cuda:0");
  EXPECT_EQ(device["name"], "Fake GPU");
  EXPECT_EQ(device["gpu"]["uuid"], "GPU-fake");
  EXPECT_EQ(device["gpu"]["driver"], "580.1");
  EXPECT_EQ(device["gpu"]["compute_capability"], "9.0");
  EXPECT_EQ(device["gpu"]["multiprocessors"], 132);
  EXPECT_EQ(device["memory_bytes"], int64_t{80} << 30);
  EXPECT_EQ(record["cell"]["engine"], "graph");
  EXPECT_EQ(record["cell"]["engine_choice"]["by"], "only one possible");
  EXPECT_EQ(record["memory"][0]["counted_by"], "driver");
  EXPECT_EQ(record["memory"][0]["host_peak_bytes"], 400'000'000);
  EXPECT_EQ(record["memory"][0]["driver_device_bytes"], 20'000'000);
  EXPECT_EQ(record["memory"][0]["taken_bytes"], 21'000'000);
}

TEST(Record, SaysWhetherCublasLtWasThereAndWhich) {
  Made m = measured_on_a_gpu();
  const auto part = [&] {
    const json record = json::parse(to_text(m.record()));
    EXPECT_THAT(JsonSchema(schema_file()).check(record), IsEmpty());
    return record["devices"][0]["gpu"]["cublaslt"];
  };
  EXPECT_TRUE(part().is_null()) << "not looked for";
  m.sweep.device->gpu->cublaslt = {.version = "13.0.2", .path = "/lib/libcublasLt.so.13"};
  EXPECT_EQ(part(), (json{{"version", "13.0.2"}, {"path", "/lib/libcublasLt.so.13"}, {"missing", nullptr}}));
  m.sweep.device->gpu->cublaslt = {.missing = "it was not found"};
  EXPECT_EQ(part(), (json{{"version", nullptr}, {"path", nullptr}, {"missing", "it was not found"}}));
}

TEST(Record, SaysHowTheEngineWasChosen) {
  JsonSchema schema(schema_file());
  Made m = measured_on_a_gpu();
  m.data.plan->engines = {"graph", "persistent"};
  m.data.load->engine = {"persistent", ChosenBy::self_test, {{"graph", 2e6}, {"persistent", 1.5e6}}};
  const json tested = json::parse(to_text(m.record()));
  EXPECT_THAT(schema.check(tested), IsEmpty());
  EXPECT_EQ(tested["cell"]["engine"], "persistent");
  EXPECT_EQ(tested["cell"]["engine_choice"]["by"], "self-test");
  EXPECT_EQ(tested["cell"]["engine_choice"]["step_ns"]["graph"], 2e6);
  m.data.load->engine = {"graph", ChosenBy::failure, {}, "it waited for seconds"};
  const json failed = json::parse(to_text(m.record()));
  EXPECT_THAT(schema.check(failed), IsEmpty());
  EXPECT_EQ(failed["cell"]["engine"], "graph");
  EXPECT_EQ(failed["cell"]["engine_choice"]["failure"], "it waited for seconds");
  EXPECT_TRUE(failed["cell"]["tuning"].is_null());
  m.data.load.reset();
  EXPECT_EQ(m.record()["cell"]["engine"], "auto") << "it was not chosen";
  EXPECT_THAT(schema.check(json::parse(to_text(m.record()))), IsEmpty());
}

TEST(Record, EngineAndTuningAreAPartOfWhatMakesCellsAlike) {
  Made m = measured_on_a_gpu();
  m.data.load->tuning = "ring 9x10240";
  EXPECT_THAT(JsonSchema(schema_file()).check(json::parse(to_text(m.record()))), IsEmpty());
  const RecordView v = view_of(m.record());
  EXPECT_EQ(v.device, "Fake GPU");
  EXPECT_EQ(v.engine, "graph");
  EXPECT_EQ(v.tuning, "ring 9x10240");
  Made other_day = m;
  other_day.sweep.started_utc = "2020-01-01T00:00:00Z";
  other_day.data.plan->device.name = "Another GPU";
  EXPECT_TRUE(are_alike(v, view_of(other_day.record())));
  const std::vector<std::function<void(Made&)>> changes{
      [](Made& o) { o.data.load->tuning = "ring 8x10240"; },
      [](Made& o) { o.data.load->engine.engine = "persistent"; },
      [](Made& o) { o.cell.precision = Precision::nf4; },
      [](Made& o) { o.cell.test.kind = TestKind::decode; },
      [](Made& o) { ++o.cell.test.prompt_tokens; },
      [](Made& o) { ++o.cell.test.new_tokens; },
      [](Made& o) { ++o.cell.test.depth; },
      [](Made& o) { ++o.cell.test.batch; },
      [](Made& o) { o.cell.stop_at = {1}; },
      [](Made& o) { o.cell.model.name = "another"; },
      [](Made& o) { o.cell.model.random_weights = true; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    Made other = m;
    changes[i](other);
    EXPECT_FALSE(are_alike(v, view_of(other.record()))) << i;
  }
  Made few = m, many = m;
  few.cell.model.random_weights = many.cell.model.random_weights = true;
  many.cell.model.outlier_channels = 16;
  EXPECT_FALSE(are_alike(view_of(few.record()), view_of(many.record())));
}

TEST(Record, NamesTheCardOfACellThatFailedBeforeItKnewOne) {
  Made m = measured_on_a_gpu();
  m.data = {};
  m.data.outcome = {Status::failed, "the model is refused", ErrorKind::bad_model};
  const json record = json::parse(to_text(m.record()));
  EXPECT_THAT(JsonSchema(schema_file()).check(record), IsEmpty());
  EXPECT_EQ(record["devices"][0]["gpu"]["uuid"], "GPU-fake");
  EXPECT_EQ(record["cell"]["engine"], "none");
}

TEST(Record, OfAGpuComparesWithTheGpusCache) {
  Made m = measured_on_a_gpu();
  m.sweep.environment.last_level_cache_bytes = 1;
  EXPECT_TRUE(view_of(m.record()).in_cache) << "2 MB in an L2 of 50";
  m.data.plan->device.gpu->cache_bytes = 1 << 20;
  m.sweep.environment.last_level_cache_bytes = 512 << 20;
  EXPECT_FALSE(view_of(m.record()).in_cache);
}

TEST(Record, HasNoShareOfAReadRateBelowWhatTheCardIsKnownFor) {
  Made m = measured_on_a_gpu();
  m.data.plan->device.gpu->cache_bytes = 1;
  EXPECT_TRUE(m.record()["cost"]["read_peak"].is_null()) << "of a card that is not listed";
  EXPECT_FALSE(m.record()["metrics"]["read_share"].is_null());
  m.data.plan->device.name = "NVIDIA H200";  // known for 4.58 TB/s, 99 % of which are 4.5342
  for (RunSample& run : m.data.runs) run.read_before = run.read_after = 4.53e12;
  const Record below = m.record();
  EXPECT_EQ(below["cost"]["read_peak"]["best_bytes_per_second"], 4.53e12);
  EXPECT_EQ(below["cost"]["read_peak"]["reached"], false);
  EXPECT_TRUE(below["metrics"]["read_share"].is_null());
  EXPECT_TRUE(below["explain"]["predictions"].is_null());
  EXPECT_EQ(view_of(below).best_and_known_read, std::pair(4.53e12, 4.58e12));
  EXPECT_THAT(JsonSchema(schema_file()).check(json::parse(to_text(below))), IsEmpty());
  m.data.runs[3].read_after = 4.54e12;
  const Record reached = m.record();
  EXPECT_EQ(reached["cost"]["read_peak"]["reached"], true);
  EXPECT_EQ(reached["metrics"]["read_share"]["runs"], 10) << "of what was read beside each run all the same";
  EXPECT_FALSE(view_of(reached).best_and_known_read);
}

TEST(Record, KeepsRawSamplesAndOutlierClasses) {
  Made m = measured();
  m.data.runs[4].report.run.total_ns *= 3;
  const Record record = m.record();
  ASSERT_EQ(record["runs"].size(), 10u);
  EXPECT_EQ(record["runs"][4]["outlier"], "severe");
  EXPECT_EQ(record["runs"][4]["total_ns"], 3 * record["runs"][3]["total_ns"].get<int64_t>());
  EXPECT_EQ(record["runs"][0]["spans"].size(), 6u);
  EXPECT_EQ(record["metrics"]["total_latency"]["samples"].size(), 10u);
}

TEST(Record, ViewHoldsWhatReportsPrint) {
  const Record record = Record::parse(to_text(measured().record()));  // as if from disk
  const RecordView v = view_of(record);
  EXPECT_EQ(v.model, "org/Some-Model 1B");
  EXPECT_EQ(v.precision, "int8");
  EXPECT_EQ(v.test, "p3+n6");
  EXPECT_EQ(v.stamp.kind, StampKind::valid);
  EXPECT_EQ(v.response_text, "an answer of 6 ids");
  EXPECT_EQ(v.response_ids.size(), 6u);
  EXPECT_FALSE(v.in_cache);
  ASSERT_TRUE(v.find("tokens_per_second"));
  EXPECT_EQ(v.find("tokens_per_second")->runs, 10);
  EXPECT_EQ(v.find("no such metric"), nullptr);
}

TEST(Record, OfACellThatEndedInItsWarmUpHasTheTextOfItsIds) {
  Made m = measured();
  m.data.runs.clear();
  m.data.outcome = {Status::interrupted, "by a signal, after 0 timed runs", ErrorKind::interrupted};
  EXPECT_EQ(view_of(m.record()).response_ids.size(), 6u);
  EXPECT_EQ(view_of(m.record()).response_text, "an answer of 6 ids");
  m.facts.decode = {};
  EXPECT_FALSE(view_of(m.record()).response_text) << "no tokenizer";
  m = measured();
  m.data.runs.clear();
  m.data.cold.reset();
  EXPECT_FALSE(view_of(m.record()).response_text) << "nothing was said";
}

TEST(Record, HasEveryMetricAndNullWhereThereIsNoFigure) {
  const Record record = measured().record();
  for (const MetricInfo& m : metric_infos()) EXPECT_TRUE(record["metrics"].contains(m.name)) << m.name;
  EXPECT_EQ(record["metrics"].size(), metric_infos().size());
  EXPECT_TRUE(record["metrics"]["host_overhead"].is_null()) << "no device told its times";
  EXPECT_FALSE(record["metrics"]["prefill_time"].is_null());
  EXPECT_EQ(view_of(record).find("host_overhead"), nullptr);
}

TEST(Record, SmallModelsAreMarkedAsLivingInTheCache) {
  Made m = measured();
  m.sweep.environment.last_level_cache_bytes = 32 << 20;
  EXPECT_TRUE(view_of(m.record()).in_cache);
}

TEST(Record, InvalidUtf8IsReplacedNotLost) {
  Made m = measured();
  m.cell.model.name = "bad \xff name";
  EXPECT_THAT(to_text(m.record()), HasSubstr("bad \xEF\xBF\xBD name"));
}

class RecordFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "quantbench_record_test_" + std::to_string(os::steady_now_ns());
  }
  void TearDown() override {
    if (!os::is_directory(folder_)) return;
    for (const std::string& name : os::list_directory(folder_)) os::system().unlink((folder_ + "/" + name).c_str());
  }
  std::string folder_;
};

TEST_F(RecordFile, IsNamedAfterItsCellAndNeverOverwritten) {
  const Record record = measured().record();
  EXPECT_EQ(write_record(record, folder_), folder_ + "/some-model_1b_int8_p3+n6.json");
  EXPECT_EQ(write_record(record, folder_), folder_ + "/some-model_1b_int8_p3+n6_2.json");
  EXPECT_EQ(write_record(measured(5, 4).record(), folder_), folder_ + "/some-model_1b_int8_p3+n6_d5_b4.json");
  Made m = measured_on_a_gpu();
  EXPECT_EQ(write_record(m.record(), folder_), folder_ + "/some-model_1b_int8_p3+n6_graph.json");
  EXPECT_EQ(write_record(m.record(), folder_), folder_ + "/some-model_1b_int8_p3+n6_graph_2.json");
  m.data.plan->engines = {"graph", "persistent"};
  m.data.load.reset();
  EXPECT_EQ(write_record(m.record(), folder_), folder_ + "/some-model_1b_int8_p3+n6_3.json") << "none was chosen";
  EXPECT_EQ(json::parse(os::read_file(folder_ + "/some-model_1b_int8_p3+n6.json", 1 << 20)),
            json::parse(to_text(record)));
}

TEST_F(RecordFile, OnAFullDiskLeavesNothingBehind) {
  struct FullDisk : os::System {
    ssize_t write(int, const void*, size_t) override {
      errno = ENOSPC;
      return -1;
    }
  } full;
  const os::ScopedSystem scope(full);
  try {
    write_record(measured().record(), folder_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::disk);
    EXPECT_THAT(error.what(), HasSubstr("No space left"));
  }
  EXPECT_THAT(os::list_directory(folder_), IsEmpty());
}

TEST_F(RecordFile, SaysWhichHalfOfAnAaRunItIs) {
  Made m = measured();
  EXPECT_TRUE(m.record()["cell"]["aa_half"].is_null());
  const RecordView whole = view_of(m.record());
  m.cell.half = "B";
  EXPECT_THAT(JsonSchema(schema_file()).check(json::parse(to_text(m.record()))), IsEmpty());
  const RecordView v = view_of(m.record());
  EXPECT_EQ(v.half, "B");
  EXPECT_EQ(v.shown_precision(), "int8 B");
  EXPECT_TRUE(are_alike(v, whole)) << "it is the same cell";
  EXPECT_EQ(m.cell.label(), "org/Some-Model 1B int8 B p3+n6");
  EXPECT_EQ(write_record(m.record(), folder_), folder_ + "/some-model_1b_int8_p3+n6_b.json");
}

TEST(RecordFileName, IsSafe) {
  EXPECT_EQ(file_name_part("meta-llama/Llama-3.2-1B"), "llama-3.2-1b");
  EXPECT_EQ(file_name_part("/a/b c/"), "b_c");
  EXPECT_EQ(file_name_part(".."), "model..");
  EXPECT_EQ(file_name_part(""), "model");
}

}  // namespace
}  // namespace quantbench
