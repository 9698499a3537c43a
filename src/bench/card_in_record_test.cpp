// From what a card tells (a trace, read through the library that stands in for NVML), or a run does, to the record:
// the whole way through measure(). Every reason that a stamp can have is provoked here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>

#include "backend/cuda/nvml_telemetry.h"
#include "bench/fake_worker.h"
#include "bench/measure.h"
#include "bench/record_builder.h"
#include "core/json.h"
#include "core/os.h"
#include "testing/test_json_schema.h"

namespace quantbench {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

struct Quiet : Progress {
  void line(const std::string&) override {}
  void status(const std::string&) override {}
};

// One cell on a card. A run takes 10 ms of a clock of the test's, so that the cold run and four warm-ups end at 0.05 s;
// nothing else takes time.
class CardInRecord : public testing::Test {
 protected:
  struct Worker : FakeWorker {
    Worker(CardInRecord* test, const Cell* cell) : test_(test), pid_(cell ? 1001 : 1000) {
      be_a_gpu(test->free_bytes_);
      latency_ns = [this] { return test_->latency_ns_(test_->runs_); };
    }
    CellLoad load(const OnProgress& progress) override {
      CellLoad report = FakeWorker::load(progress);
      report.tuning = fmt::format("tuning {}", test_->tuning_changes_ ? ++test_->loads_ : 0);
      if (test_->second_copy_) report.resident[Use::weights] *= 2;
      return report;
    }
    GenerateReport generate(std::span<const int32_t> prompt, int n, std::span<const int32_t> stop) override {
      GenerateReport report = FakeWorker::generate(prompt, n, stop);
      if (test_->change_) test_->change_(test_->runs_, &report);
      ++test_->runs_;
      test_->pass(report.run.total_ns);
      return report;
    }
    std::optional<uint32_t> process() const override { return pid_; }
    CardInRecord* test_;
    uint32_t pid_;
  };

  void SetUp() override {
    cell_.model.name = "m";
    cell_.test = {TestKind::generation, 4, 8};
    cell_.prompt = {1, 2, 3, 4};
    sweep_.build = {"0.1.0", "abc", "some compiler", "Release", "", true};
    sweep_.environment.last_level_cache_bytes = 1;
    sweep_.environment.logical_cpus = sweep_.environment.physical_cores = 1;
    pass(0);
  }
  void TearDown() override {
    ::unsetenv("QB_FAKE_NVML_TRACE");
    os::Library::open(QB_FAKE_NVML)->find<int()>("nvmlInit_v2")();  // forgets the trace
  }

  void pass(int64_t ns) {
    clock_ns_ += ns;
    library_->find<void(double)>("qb_fake_nvml_now")(static_cast<double>(clock_ns_) * 1e-9);
  }
  // trace: a file of testdata/telemetry; empty: there is no library.
  Record measured(const std::string& trace = "steady") {
    ::setenv("QB_FAKE_NVML_TRACE", (QB_SOURCE_DIR "/testdata/telemetry/" + trace + ".trace").c_str(), 1);
    OpenedTelemetry opened =
        cuda::open_nvml_telemetry("GPU-one", trace.empty() ? "libno-such-thing.so.1" : QB_FAKE_NVML);
    EXPECT_EQ(opened.telemetry == nullptr, trace.empty()) << opened.missing;
    sweep_.telemetry_missing = opened.missing;
    const auto now = [this] { return clock_ns_.load(); };
    Monitor monitor(std::move(opened), now);
    EnergyMeter meter(monitor, std::nullopt, now, [this](double s) { pass(static_cast<int64_t>(s * 1e9)); });
    Quiet quiet;
    ChosenEngines engines;
    Record record;
    MeasureHooks hooks;
    hooks.start = [this](const Cell* cell) { return std::make_unique<Worker>(this, cell); };
    hooks.finished = [&](const Cell& cell, const CellData& data) {
      sweep_.options = options_;
      record = make_record(cell, data, sweep_, {});
    };
    hooks.now = now;
    hooks.available_memory = [] { return int64_t{100} << 30; };
    hooks.engines = &engines;
    hooks.monitor = &monitor;
    if (options_.energy) hooks.meter = &meter;
    hooks.progress = &quiet;
    BandwidthProbe probe(hooks);
    try {
      measure(std::span(&cell_, 1), options_, hooks, probe);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::interrupted);
    }
    const nlohmann::json schema = read_json_file(QB_SOURCE_DIR "/docs/record.schema.json");
    EXPECT_THAT(JsonSchema(schema).check(nlohmann::json::parse(to_text(record))), IsEmpty());
    return record;
  }
  static std::string stamp(const Record& r) { return r.at("outcome").at("stamp"); }
  static std::vector<std::string> reasons(const Record& r) { return r.at("outcome").at("reasons"); }
  // The cell has this stamp for this reason alone.
  static void expect(const Record& r, const char* kind, const std::string& begin) {
    EXPECT_EQ(stamp(r), kind);
    EXPECT_THAT(reasons(r), ElementsAre(StartsWith(begin)));
  }

  Cell cell_;
  MeasureOptions options_;
  SweepFacts sweep_;
  std::function<int64_t(int)> latency_ns_ = [](int) { return int64_t{10'000'000}; };  // of the run of this number
  std::function<void(int, GenerateReport*)> change_;
  std::optional<os::Library> library_ = os::Library::open(QB_FAKE_NVML);
  std::atomic<int64_t> clock_ns_{0};
  size_t free_bytes_ = size_t{60} << 30;
  bool second_copy_ = false, tuning_changes_ = false;
  int runs_ = 0, loads_ = 0;
};

constexpr int kFirstTimed = 5;  // the number of the first timed run

TEST_F(CardInRecord, ASteadyCardIsValidAndWatchedInTimedRunsAlone) {
  const Record r = measured();
  EXPECT_EQ(stamp(r), "VALID") << to_text(r["outcome"]);
  const Record& t = r["telemetry"];
  EXPECT_EQ(t["source"], "NVML");
  EXPECT_TRUE(t["missing"].is_null());
  EXPECT_EQ(t["sm_mhz"]["median"], 1980.0);
  EXPECT_EQ(t["power_watts"]["max"], 310.0);
  EXPECT_THAT(t["reasons"], IsEmpty());
  EXPECT_EQ(t["throttled_runs"], 0);
  EXPECT_EQ(t["other_processes"], 0);
  EXPECT_EQ(t["ecc_uncorrected"], 0);
  EXPECT_EQ(t["mig_mode"], false);
  EXPECT_TRUE(r["cold"]["telemetry"].is_null());
  EXPECT_TRUE(r["warmup"][0]["telemetry"].is_null());
  const Record& run = r["runs"][0]["telemetry"];
  EXPECT_EQ(run["throttled"], false);
  ASSERT_GE(run["samples"].size(), 2u) << "just before and just after";
  EXPECT_THAT(run["samples"][0], ElementsAre(0, 1980, 2619, 45, 310.0, 0));
  EXPECT_EQ(run["samples"].back()[0], 10'000'000);
  EXPECT_TRUE(r["energy"].is_null()) << "not asked for";
}

// The trace has each of the four reasons for 10 ms from 0.075 s on, each across the end of a run.
TEST_F(CardInRecord, ThrottledRunsAreRepeatedKeptAndSaid) {
  const Record r = measured("throttling");
  expect(r, "FLAGGED",
         "throttled runs were repeated: 5 (hardware slowdown, software thermal slowdown, hardware thermal slowdown, "
         "hardware power brake)");
  ASSERT_EQ(r["repeated_runs"].size(), 5u);
  for (const Record& run : r["repeated_runs"]) {
    EXPECT_EQ(run["telemetry"]["throttled"], true);
    EXPECT_EQ(run["block"], 2) << "in the place of the run that counts";
  }
  EXPECT_THAT(r["repeated_runs"][0]["telemetry"]["reasons"], ElementsAre("hardware slowdown"));
  ASSERT_EQ(r["runs"].size(), 10u);
  for (const Record& run : r["runs"]) EXPECT_EQ(run["telemetry"]["throttled"], false);
  EXPECT_EQ(r["runs"][2]["at_ns"], 120'000'000) << "after five repeats";
  EXPECT_EQ(r["telemetry"]["repeated_runs"], 5);
  EXPECT_EQ(r["telemetry"]["throttled_runs"], 0);
  EXPECT_EQ(r["metrics"]["total_latency"]["samples"].size(), 10u);
}

TEST_F(CardInRecord, ACardThatStaysHotMakesTheCellInvalidAndNotEndless) {
  const Record r = measured("hot");
  EXPECT_EQ(stamp(r), "INVALID");
  EXPECT_THAT(reasons(r), ElementsAre("throttled: 10 of 10 runs (hardware thermal slowdown)",
                                      StartsWith("throttled runs were repeated: 10")));
  EXPECT_EQ(r["repeated_runs"].size(), static_cast<size_t>(kMaxRepeats));
  EXPECT_EQ(r["runs"].size(), 10u);
}

TEST_F(CardInRecord, RepeatsEndWithTheTimeOfTheCell) {
  options_.max_time_s = 0.075;  // of which 0.04 s are gone before the first timed run: warm-up ends early then
  const Record r = measured("hot");
  EXPECT_THAT(reasons(r), Contains(StartsWith("throttled: 1 of 1 runs")));
  EXPECT_EQ(r["repeated_runs"].size(), 3u);
}

TEST_F(CardInRecord, ThePowerCapIsAState) {
  const Record r = measured("power_cap");
  EXPECT_EQ(stamp(r), "VALID") << to_text(r["outcome"]);
  EXPECT_THAT(r["telemetry"]["reasons"], ElementsAre("power cap"));
  EXPECT_EQ(r["telemetry"]["power_capped_runs"], 10);
}

TEST_F(CardInRecord, AnotherProcessOnTheGpuIsFlagged) {
  const Record r = measured("foreign");  // it is there from 0.075 to 0.095 s
  expect(r, "FLAGGED", "other processes on the GPU: up to 1, in 3 of 10 runs");
  EXPECT_EQ(r["telemetry"]["other_processes"], 1);
  EXPECT_EQ(r["runs"][0]["telemetry"]["other_processes"], 0);
  EXPECT_EQ(r["runs"][2]["telemetry"]["other_processes"], 1);
}

TEST_F(CardInRecord, WhereProcessesHaveOtherNumbersOthersAreUnknown) {
  const Record r = measured("container");
  EXPECT_EQ(stamp(r), "VALID");
  EXPECT_TRUE(r["telemetry"]["other_processes"].is_null());
}

TEST_F(CardInRecord, EccErrorsDuringTheRunsAreInvalidAndThoseBeforeThemFlagged) {
  expect(measured("ecc"), "INVALID", "ECC errors: 1 that were not corrected, during the runs");
  runs_ = 0;  // the clock is beyond the error, which the counter still holds
  expect(measured("ecc"), "FLAGGED", "ECC errors: 4 that were not corrected since the driver was loaded");
}

TEST_F(CardInRecord, WhatIsNotSupportedIsNull) {
  const Record r = measured("unsupported");
  EXPECT_EQ(stamp(r), "VALID");
  EXPECT_EQ(r["telemetry"]["source"], "NVML");
  for (const char* name : {"sm_mhz", "memory_mhz", "temperature_celsius", "power_watts", "reasons", "power_capped_runs",
                           "throttled_runs", "ecc_uncorrected", "mig_mode", "other_processes"}) {
    EXPECT_TRUE(r["telemetry"].at(name).is_null()) << name;
  }
  const Record& run = r["runs"][0]["telemetry"];
  EXPECT_TRUE(run["throttled"].is_null());
  EXPECT_THAT(run["samples"][0], ElementsAre(0, nullptr, nullptr, nullptr, nullptr, nullptr));
}

TEST_F(CardInRecord, WithoutTheLibraryAllElseIsMeasured) {
  const Record r = measured("");
  EXPECT_EQ(stamp(r), "VALID");
  EXPECT_EQ(r["runs"].size(), 10u);
  EXPECT_TRUE(r["runs"][0]["telemetry"].is_null());
  EXPECT_TRUE(r["telemetry"]["source"].is_null());
  EXPECT_THAT(r["telemetry"]["missing"].get<std::string>(), HasSubstr("libno-such-thing.so.1"));
}

// Idle at 100 W from 2 to 7 s, then 300 W: 500 runs of 8 tokens in 5 s.
TEST_F(CardInRecord, EnergyIsThatOfFiveSecondsOfRunsWithAndWithoutTheIdleDevice) {
  options_.energy = true;
  const Record r = measured("energy");
  EXPECT_EQ(stamp(r), "VALID") << to_text(r["outcome"]);
  const Record& e = r["energy"];
  EXPECT_EQ(e["source"], "NVML energy counter");
  EXPECT_EQ(e["estimated"], false);
  EXPECT_EQ(e["runs"], 500);
  EXPECT_EQ(e["tokens"], 4000);
  EXPECT_DOUBLE_EQ(e["joules"], 1500);
  EXPECT_DOUBLE_EQ(e["idle_watts"], 100);
  EXPECT_DOUBLE_EQ(r["metrics"]["joules_per_token"]["median"], 0.375);
  EXPECT_DOUBLE_EQ(r["metrics"]["net_joules_per_token"]["median"], 0.25);
  EXPECT_EQ(r["metrics"]["joules_per_token"]["unit"], "J");
  EXPECT_EQ(r["runs"].size(), 10u) << "those for energy are not among them";
}

TEST_F(CardInRecord, EnergyOfAPromptIsPerTokenOfIt) {
  options_.energy = true;
  cell_.test = {TestKind::prefill, 4, 1};
  EXPECT_EQ(measured("energy")["energy"]["tokens"], 2000) << "500 prompts of 4";
}

TEST_F(CardInRecord, WithoutTheCounterEnergyIsEstimatedFromPower) {
  options_.energy = true;
  const Record r = measured("power_only");
  EXPECT_EQ(r["energy"]["source"], "NVML power samples");
  EXPECT_EQ(r["energy"]["estimated"], true);
  // Not exactly: a sample in between would cut the area in two.
  EXPECT_NEAR(r["metrics"]["joules_per_token"]["median"], 0.375, 1e-9);
  EXPECT_NEAR(r["metrics"]["net_joules_per_token"]["median"], 0.25, 1e-9);
  EXPECT_TRUE(view_of(r).energy_estimated);
}

TEST_F(CardInRecord, WithoutEitherThereIsNoEnergyAndTheReason) {
  options_.energy = true;
  for (const char* trace : {"unsupported", ""}) {
    const int64_t start_ns = clock_ns_;
    const Record r = measured(trace);
    EXPECT_EQ(stamp(r), "VALID");
    EXPECT_TRUE(r["energy"]["source"].is_null() && r["energy"]["joules"].is_null());
    EXPECT_FALSE(r["energy"]["missing"].get<std::string>().empty());
    EXPECT_EQ(r["energy"]["runs"], 0);
    EXPECT_EQ(r["cold"]["at_ns"], start_ns) << "and no time is spent on it";
    EXPECT_TRUE(r["metrics"].at("joules_per_token").is_null());
  }
}

TEST_F(CardInRecord, EnergyIsMeasuredInAFreshProcessWhereOthersDoNotFit) {
  options_.energy = true;
  free_bytes_ = size_t{100} << 20;
  const Record r = measured("energy");
  EXPECT_EQ(r["protocol"]["resident_together"], false);
  EXPECT_EQ(r["energy"]["runs"], 500);
}

// The other reasons of a stamp.

TEST_F(CardInRecord, TokenCountsThatDiffer) {
  change_ = [](int run, GenerateReport* report) {
    if (run == kFirstTimed + 3) report->run.tokens.pop_back();
  };
  const Record r = measured();
  EXPECT_EQ(stamp(r), "INVALID");
  EXPECT_THAT(reasons(r), ElementsAre(StartsWith("token counts differ"), StartsWith("token ids differ")))
      << "a missing id is a different one";
}

TEST_F(CardInRecord, TokenIdsThatDiffer) {
  change_ = [](int run, GenerateReport* report) { report->run.tokens[2] += run == 2 ? 1 : 0; };
  expect(measured(), "INVALID", "token ids differ");
}

TEST_F(CardInRecord, LogitsThatAreNotFinite) {
  change_ = [](int run, GenerateReport* report) { report->run.finite = run != kFirstTimed + 9; };
  const Record r = measured();
  expect(r, "INVALID", "non-finite logits");
  EXPECT_EQ(r["runs"][9]["finite"], false);
}

TEST_F(CardInRecord, WeightsThatAreThereTwice) {
  second_copy_ = true;
  expect(measured(), "INVALID", "weights take 4000000 bytes, the format predicts 2000000");
}

TEST_F(CardInRecord, AnIntervalTargetThatIsMissed) {
  latency_ns_ = [](int run) { return 10'000'000 + 1'000'000 * int64_t{run % 7}; };
  expect(measured(), "FLAGGED", "interval target missed");
}

TEST_F(CardInRecord, FewerRunsThanTen) {
  options_.runs = 9;
  expect(measured(), "FLAGGED", "9 runs, fewer than 10");
}

TEST_F(CardInRecord, ADebugBuild) {
  sweep_.build.optimized = false;
  expect(measured(), "FLAGGED", "debug build");
}

TEST_F(CardInRecord, OtherProcessesOnTheCpu) {
  change_ = [](int, GenerateReport* report) { report->other_cpu = 0.4; };
  expect(measured(), "FLAGGED", "other processes used 40 % of the CPU");
}

TEST_F(CardInRecord, ProcessesThatChoseAnotherTuning) {
  free_bytes_ = size_t{100} << 20;  // a process a visit
  tuning_changes_ = true;
  expect(measured(), "FLAGGED", "its processes did not choose the same tuning");
}

TEST_F(CardInRecord, GenerationsThatMayStop) {
  cell_.stop_at = {104};
  expect(measured(), "FLAGGED", "not comparable");
}

TEST_F(CardInRecord, WeightsThatNeedNotBeFinite) {
  cell_.model.allow_nonfinite = true;
  expect(measured(), "FLAGGED", "--allow-nonfinite");
}

TEST_F(CardInRecord, CellsThatFailOrAreInterrupted) {
  for (const ErrorKind kind : {ErrorKind::device, ErrorKind::interrupted}) {
    runs_ = 0;
    change_ = [kind](int run, GenerateReport*) {
      if (run == kFirstTimed) fail(kind, "so it is");
    };
    expect(measured(), "INVALID", kind == ErrorKind::device ? "failed" : "interrupted");
  }
}

}  // namespace
}  // namespace quantbench
