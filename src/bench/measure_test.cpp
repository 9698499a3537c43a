#include "bench/measure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <set>

#include "bench/fake_worker.h"
#include "bench/statistics.h"

namespace quantbench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Quiet : Progress {
  std::vector<std::string> lines, statuses;
  void line(const std::string& text) override { lines.push_back(text); }
  void status(const std::string& text) override { statuses.push_back(text); }
};

// Measures three precisions with fake workers that note who did what.
class Measure : public testing::Test {
 protected:
  struct Noted : FakeWorker {
    Noted(Measure* test, const Cell* cell) : test_(test), name_(cell ? name_of(cell->precision) : "probe") {
      ++test_->alive_;
      test_->most_alive_ = std::max(test_->most_alive_, test_->alive_);
      latency_ns = [this] { return test_->latency_(name_); };
      if (cell) use_[Use::weights] = test_->weights_;
      if (test_->gpu_free_) be_a_gpu(*test_->gpu_free_);
    }
    PlanReport plan(const Cell& cell) override {
      PlanReport report = FakeWorker::plan(cell);
      engine_ = cell.engine.engine;
      if (test_->has_two_engines_) {
        report.engines = engine_ == "auto" ? std::vector<std::string>{"graph", "persistent"} : std::vector{engine_};
      }
      return report;
    }
    ~Noted() override { --test_->alive_; }
    CellLoad load(const OnProgress& progress) override {
      test_->note("load " + name_);
      CellLoad report = FakeWorker::load(progress);
      report.tuning = test_->tuning_();
      if (!test_->has_two_engines_) return report;
      test_->note("on " + engine_);
      if (engine_ != "auto") {
        report.engine = {engine_, ChosenBy::request};
      } else {
        if (test_->test_fails_) fail(ErrorKind::device, "the GPU is lost");
        report.engine = {"persistent", ChosenBy::self_test, {{"graph", 2}, {"persistent", 1}}};
      }
      return report;
    }
    void fill_context(std::span<const int32_t> context) override {
      test_->note("fill " + name_);
      FakeWorker::fill_context(context);
    }
    GenerateReport generate(std::span<const int32_t> prompt, int n, std::span<const int32_t> stop) override {
      test_->note(name_);
      GenerateReport report = FakeWorker::generate(prompt, n, stop);
      test_->clock_ns_ += report.run.total_ns;
      return report;
    }
    ReadSample probe() override {
      test_->note("probe");
      if (test_->no_probe_) fail(ErrorKind::out_of_memory, "no room for the buffer");
      return {0, test_->read_rate_ += 1e9, "fake"};
    }
    Measure* test_;
    std::string name_, engine_;
  };

  void SetUp() override {
    for (Precision p : {Precision::fp16, Precision::int8, Precision::nf4}) {
      Cell cell;
      cell.model.name = "m";
      cell.precision = p;
      cell.test = {TestKind::generation, 4, 8};
      cell.prompt = {1, 2, 3, 4};
      cells_.push_back(cell);
    }
    hooks_.start = [this](const Cell* cell) { return std::make_unique<Noted>(this, cell); };
    hooks_.finished = [this](const Cell& cell, const CellData& data) {
      done_[std::string(name_of(cell.precision))] = data;
    };
    hooks_.now = [this] { return clock_ns_; };
    hooks_.available_memory = [this] { return available_; };
    hooks_.engines = &engines_;
    hooks_.progress = &quiet_;
  }
  void note(const std::string& what) { log_.push_back(what); }
  void run() {
    BandwidthProbe probe(hooks_);
    measure(cells_, options_, hooks_, probe);
  }

  std::vector<Cell> cells_;
  MeasureOptions options_;
  MeasureHooks hooks_;
  ChosenEngines engines_;
  Quiet quiet_;
  std::function<int64_t(const std::string&)> latency_ = [](const std::string&) { return int64_t{10'000'000}; };
  std::function<std::string()> tuning_ = [] { return "some"; };
  std::map<std::string, CellData> done_;
  std::vector<std::string> log_;
  std::optional<int64_t> available_ = int64_t{100} << 30;
  std::optional<size_t> gpu_free_;  // a GPU with so much free memory
  size_t weights_ = 2'000'000;
  int64_t clock_ns_ = 0;
  double read_rate_ = 0;
  bool no_probe_ = false, has_two_engines_ = false, test_fails_ = false;
  int alive_ = 0, most_alive_ = 0;
};

TEST_F(Measure, SteadyCellsTakeTheFewestRunsInCompleteBlocks) {
  run();
  ASSERT_EQ(done_.size(), 3u);
  std::map<int, std::set<std::string>> blocks;
  std::set<std::vector<std::string>> orders;
  for (const auto& [name, data] : done_) {
    EXPECT_EQ(data.outcome.status, Status::ok);
    EXPECT_TRUE(data.cold);
    EXPECT_EQ(data.warmup.size(), 4u) << "three runs, and one more to compare two medians";
    EXPECT_TRUE(data.warmup_settled);
    ASSERT_EQ(data.runs.size(), 10u);
    EXPECT_EQ(data.stop_reason, "interval within 1 %");
    EXPECT_TRUE(data.resident_together);
    for (const RunSample& run : data.runs) blocks[run.block].insert(name);
  }
  EXPECT_EQ(blocks.size(), 10u);
  for (const auto& [block, names] : blocks) EXPECT_EQ(names.size(), 3u) << "block " << block;
  EXPECT_EQ(most_alive_, 4) << "three cells and the probe";
  EXPECT_EQ(alive_, 0);
}

TEST_F(Measure, TheOrderIsShuffledAnewEachBlockAndRepeatsWithTheSeed) {
  const auto orders = [&] {
    std::map<int, std::map<int, std::string>> places;
    for (const auto& [name, data] : done_) {
      for (const RunSample& run : data.runs) places[run.block][run.place] = name;
    }
    return places;
  };
  run();
  const auto first = orders();
  std::set<std::string> starts;
  for (const auto& [block, places] : first) starts.insert(places.at(0));
  EXPECT_EQ(starts.size(), 3u) << "every precision comes first in some block";
  run();
  EXPECT_EQ(orders(), first);
  options_.seed = 43;
  run();
  EXPECT_NE(orders(), first);
}

TEST_F(Measure, HalvesOfACellAreProcessesOfTheirOwnInTheSameBlocks) {
  cells_.resize(1);
  cells_.push_back(cells_[0]);
  cells_[0].half = "A";
  cells_[1].half = "B";
  std::map<std::string, CellData> halves;
  hooks_.finished = [&](const Cell& cell, const CellData& data) { halves[cell.half] = data; };
  run();
  EXPECT_EQ(most_alive_, 3) << "two processes and the probe";
  EXPECT_EQ(std::count(log_.begin(), log_.end(), "load fp16"), 2);
  ASSERT_EQ(halves["A"].runs.size(), 10u);
  ASSERT_EQ(halves["B"].runs.size(), 10u);
  std::set<int> places_of_a;
  for (size_t i = 0; i < 10; ++i) {
    const RunSample &a = halves["A"].runs[i], &b = halves["B"].runs[i];
    EXPECT_EQ(a.block, b.block);
    EXPECT_EQ(a.place + b.place, 1) << "one after the other";
    places_of_a.insert(a.place);
  }
  EXPECT_EQ(places_of_a.size(), 2u) << "in an order drawn anew";
}

TEST_F(Measure, EveryRunHasItsNeighbouringBandwidth) {
  run();
  for (const auto& [name, data] : done_) {
    for (const RunSample& run : data.runs) {
      ASSERT_TRUE(run.read_before && run.read_after);
      EXPECT_EQ(*run.read_after - *run.read_before, 1e9) << "the sample before and the one after";
    }
  }
  // In the log: probe, then alternating cell and probe through the blocks.
  const auto last_load = std::find(log_.rbegin(), log_.rend(), "load 4bit").base();
  const std::vector<std::string> tail(last_load + 5, log_.end());
  ASSERT_EQ(tail.size(), 1u + 30 * 2);
  for (size_t i = 0; i < tail.size(); ++i) EXPECT_EQ(tail[i] == "probe", i % 2 == 0) << i;
}

TEST_F(Measure, NoisyCellsRunToTheLimitAndSayWhy) {
  int turn = 0;
  latency_ = [&turn](const std::string& name) {
    return name == "int8" ? int64_t{10'000'000} + int64_t{1'000'000} * (turn++ % 7) : int64_t{10'000'000};
  };
  run();
  EXPECT_EQ(done_["int8"].runs.size(), 30u);
  EXPECT_EQ(done_["int8"].stop_reason, "30 runs, the most");
  EXPECT_EQ(done_["fp16"].runs.size(), 30u) << "blocks stay complete";
  EXPECT_EQ(done_["fp16"].stop_reason, "interval within 1 %");
}

TEST_F(Measure, WarmUpEndsAtTheCapWhereItNeverSettles) {
  int64_t next = 100'000'000;
  latency_ = [&next](const std::string&) { return next = next * 9 / 10; };
  options_.runs = 2;
  run();
  EXPECT_EQ(done_["fp16"].warmup.size(), 10u);
  EXPECT_FALSE(done_["fp16"].warmup_settled);
  EXPECT_EQ(done_["fp16"].runs.size(), 2u);
  EXPECT_EQ(done_["fp16"].stop_reason, "2 runs, as asked");
}

TEST_F(Measure, TheTimeCapEndsACell) {
  latency_ = [](const std::string& name) { return name == "fp16" ? int64_t{1'000'000'000} : int64_t{1'000'000}; };
  options_.max_time_s = 9;  // cold, three warm-ups (a third of the time is up), five runs
  run();
  EXPECT_EQ(done_["fp16"].runs.size(), 5u);
  EXPECT_EQ(done_["fp16"].stop_reason, "time cap of 9 s");
  EXPECT_EQ(done_["int8"].runs.size(), 10u) << "the others are not held back";
}

TEST_F(Measure, ATimeCapThatWarmingUpUsesUpLeavesOneRun) {
  latency_ = [](const std::string&) { return int64_t{1'000'000'000}; };
  options_.max_time_s = 2;
  run();
  for (const auto& [name, data] : done_) {
    EXPECT_EQ(data.runs.size(), 1u) << name;
    EXPECT_EQ(data.stop_reason, "time cap of 2 s");
  }
}

TEST_F(Measure, WhatDoesNotFitTogetherIsLoadedAVisit) {
  weights_ = size_t{4} << 30;
  available_ = int64_t{10} << 30;
  options_.runs = 2;
  run();
  EXPECT_LE(most_alive_, 4);
  for (const auto& [name, data] : done_) {
    EXPECT_EQ(data.outcome.status, Status::ok);
    EXPECT_FALSE(data.resident_together);
    EXPECT_EQ(data.runs.size(), 2u);
    EXPECT_EQ(std::count(log_.begin(), log_.end(), "load " + name), 3) << "warm-up, then once a visit";
  }
}

TEST_F(Measure, ATuningThatALaterProcessDoesNotShareIsNoted) {
  cells_.resize(1);
  weights_ = size_t{4} << 30;
  available_ = int64_t{4300} << 20;  // room for the cell, but none to spare
  options_.runs = 2;
  run();
  EXPECT_FALSE(done_["fp16"].tuning_varied);
  tuning_ = [made = 0]() mutable { return std::to_string(++made); };
  run();
  EXPECT_TRUE(done_["fp16"].tuning_varied);
  EXPECT_EQ(done_["fp16"].load->tuning, "1") << "of the process that was measured first";
}

TEST_F(Measure, AContextIsFilledOnceAProcessBeforeItsFirstRun) {
  cells_.resize(1);
  cells_[0].test.depth = 3;
  cells_[0].context = {7, 8, 9};
  options_.runs = 1;
  const auto steps = [&] {
    std::vector<std::string> of_cell;
    for (const std::string& what : log_) {
      if (what != "probe" && (of_cell.empty() || of_cell.back() != what)) of_cell.push_back(what);
    }
    return of_cell;
  };
  run();
  EXPECT_THAT(steps(), ElementsAre("load fp16", "fill fp16", "fp16"));
  EXPECT_EQ(done_["fp16"].runs[0].report.run.context_tokens, 3);
  log_.clear();
  weights_ = size_t{4} << 30;
  available_ = int64_t{4500} << 20;  // room for the cell, but none to spare
  run();
  EXPECT_THAT(steps(), ElementsAre("load fp16", "fill fp16", "fp16", "load fp16", "fill fp16", "fp16"));
}

TEST_F(Measure, WhatDoesNotFitAtAllIsRefusedWithTheFigures) {
  weights_ = size_t{4} << 30;
  available_ = int64_t{3} << 30;
  run();
  EXPECT_EQ(done_["fp16"].outcome.status, Status::failed);
  EXPECT_EQ(done_["fp16"].outcome.kind, ErrorKind::out_of_memory);
  EXPECT_THAT(done_["fp16"].outcome.error, HasSubstr("needs 4.02 GiB"));
  EXPECT_THAT(done_["fp16"].outcome.error, HasSubstr("3.00 GiB are available"));
}

TEST_F(Measure, OnAGpuItIsTheGpusMemoryThatCounts) {
  available_ = int64_t{1} << 30;  // of the host
  weights_ = size_t{4} << 30;
  gpu_free_ = size_t{60} << 30;
  run();
  EXPECT_EQ(most_alive_, 4);
  for (const auto& [name, data] : done_) EXPECT_TRUE(data.resident_together) << name;
  available_ = int64_t{100} << 30;
  gpu_free_ = size_t{6} << 30;
  most_alive_ = 0;
  run();
  for (const auto& [name, data] : done_) EXPECT_FALSE(data.resident_together) << name;
  gpu_free_ = size_t{3} << 30;
  run();
  for (const auto& [name, data] : done_) {
    EXPECT_EQ(data.outcome.kind, ErrorKind::out_of_memory);
    EXPECT_THAT(data.outcome.error, HasSubstr("3.00 GiB of Fake GPU are free"));
  }
}

TEST_F(Measure, ACellRunsOnTheEngineThatWasChosenFirstWheneverItIsLoaded) {
  cells_.resize(1);
  has_two_engines_ = true;
  gpu_free_ = size_t{100} << 20;  // room for the cell, but none to spare: a process a visit
  options_.runs = 2;
  run();
  const auto count = [this](const char* what) { return std::count(log_.begin(), log_.end(), what); };
  EXPECT_EQ(done_["fp16"].load->engine.by, ChosenBy::self_test);
  EXPECT_EQ(done_["fp16"].load->engine.engine, "persistent");
  EXPECT_EQ(count("on auto"), 1);
  EXPECT_EQ(count("on persistent"), 2);
  run();  // another test of the model
  EXPECT_EQ(count("on auto"), 1);
  EXPECT_EQ(done_["fp16"].load->engine.by, ChosenBy::cache);
  EXPECT_EQ(done_["fp16"].load->engine.times.size(), 2u);
  cells_[0].test.batch = 2;  // whose engines are others
  run();
  EXPECT_EQ(count("on auto"), 2);
}

TEST_F(Measure, WhereTheSelfTestLosesTheGpuAFreshProcessTakesTheOtherEngine) {
  cells_.resize(1);
  has_two_engines_ = test_fails_ = true;
  options_.runs = 1;
  run();
  EXPECT_EQ(done_["fp16"].outcome.status, Status::ok);
  EXPECT_EQ(done_["fp16"].load->engine.engine, "graph");
  EXPECT_EQ(done_["fp16"].load->engine.by, ChosenBy::failure);
  EXPECT_EQ(done_["fp16"].load->engine.failure, "the GPU is lost");
  EXPECT_THAT(quiet_.lines, ElementsAre(HasSubstr("on the graph engine, since the other failed: the GPU is lost")));
}

TEST_F(Measure, AFailedCellKeepsItsSamplesAndTheOthersGoOn) {
  int runs = 0;
  latency_ = [&runs](const std::string& name) -> int64_t {
    if (name == "int8" && ++runs == 8) fail(ErrorKind::internal, "the worker process ended with signal 9");
    return 10'000'000;
  };
  run();
  EXPECT_EQ(done_["int8"].outcome.status, Status::failed);
  EXPECT_EQ(done_["int8"].runs.size(), 2u) << "cold, four warm-ups, two timed, then the end";
  EXPECT_EQ(done_["fp16"].runs.size(), 10u);
  EXPECT_EQ(done_["4bit"].runs.size(), 10u);
}

TEST_F(Measure, AnInterruptionReportsEveryUnfinishedCell) {
  int runs = 0;
  latency_ = [&runs](const std::string& name) -> int64_t {
    if (name == "4bit" && ++runs == 9) fail(ErrorKind::interrupted, "interrupted while generating");
    return 10'000'000;
  };
  EXPECT_THROW(run(), Error);
  ASSERT_EQ(done_.size(), 3u);
  for (const auto& [name, data] : done_) {
    EXPECT_EQ(data.outcome.status, Status::interrupted);
    EXPECT_GE(data.runs.size(), 3u) << "the samples so far are kept";
  }
  EXPECT_EQ(alive_, 0);
}

TEST_F(Measure, SaysWhichBlockItIsAndWhatIsLeft) {
  latency_ = [](const std::string&) { return int64_t{20'000'000'000}; };  // three cells: a minute a block
  options_.runs = 12;
  run();
  const auto is_there = [&](const std::string& text) {
    return std::any_of(quiet_.statuses.begin(), quiet_.statuses.end(),
                       [&](const std::string& status) { return status.starts_with(text); });
  };
  EXPECT_TRUE(is_there("block 1 of 12: m "));
  EXPECT_TRUE(is_there("block 2 of 12, 11 min left: m "));
  EXPECT_TRUE(is_there("block 12 of 12, 60 s left: m "));
  EXPECT_TRUE(is_there("block 12 of 12, 20 s left: m "));

  quiet_.statuses.clear();
  options_.runs = 0;
  options_.max_time_s = 1e6;
  run();
  EXPECT_TRUE(is_there("block 1 of about 10: m "));
  EXPECT_TRUE(is_there("block 3 of about 10, 8 min left: m "));
}

TEST_F(Measure, WithoutAProbeTheSweepGoesOn) {
  no_probe_ = true;
  run();
  EXPECT_EQ(done_["fp16"].runs.size(), 10u);
  EXPECT_FALSE(done_["fp16"].runs[0].read_before);
  EXPECT_THAT(quiet_.lines, ElementsAre(HasSubstr("no room for the buffer"))) << "said once";
}

TEST(WarmUp, ComparesTwoSuccessiveMediansOfThree) {
  EXPECT_FALSE(warmed_up(std::vector<double>{100, 100, 100}));
  EXPECT_TRUE(warmed_up(std::vector<double>{150, 100, 100, 100}));
  EXPECT_FALSE(warmed_up(std::vector<double>{150, 110, 100, 100}));
  EXPECT_TRUE(warmed_up(std::vector<double>{150, 101.9, 100, 100}));
}

TEST(HalfWidth, IsInfiniteBeforeThereIsAnInterval) {
  EXPECT_EQ(relative_half_width(std::vector<double>{1, 1, 1, 1, 1}), std::numeric_limits<double>::infinity());
  EXPECT_DOUBLE_EQ(relative_half_width(std::vector<double>{90, 98, 100, 100, 100, 100, 100, 100, 102, 110}), 0.02);
}

TEST_F(Measure, QualityIsMeasuredWhenTheProcessesOfTheTimedRunsHaveEnded) {
  int asked = 0, alive = -1;
  hooks_.quality = [&](std::span<const Cell> cells) {
    ++asked;
    alive = alive_;
    std::vector<QualityData> found(cells.size());
    for (size_t i = 0; i < cells.size(); ++i) found[i].reference = name_of(cells[i].precision);
    return found;
  };
  latency_ = [this](const std::string& name) -> int64_t {
    if (name == "int8" && log_.size() > 40) fail(ErrorKind::device, "lost");
    return 10'000'000;
  };
  run();
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(alive, 1) << "the probe's alone";
  EXPECT_EQ(done_.at("fp16").quality.value().reference, "fp16");
  EXPECT_EQ(done_.at("4bit").quality.value().reference, "4bit");
  EXPECT_TRUE(done_.at("4bit").memory);
  EXPECT_EQ(done_.at("int8").outcome.status, Status::failed);
  EXPECT_FALSE(done_.at("int8").quality) << "a cell that failed is not asked about";
}

TEST_F(Measure, StepsAreExplainedWhereThatIsAskedFor) {
  run();
  EXPECT_FALSE(done_.at("fp16").explain);
  done_.clear();
  options_.explain = true;
  run();
  for (const char* precision : {"fp16", "int8", "4bit"}) {
    EXPECT_EQ(done_.at(precision).explain.value().step_ns, 1e6);
    EXPECT_TRUE(done_.at(precision).memory);
  }
}

}  // namespace
}  // namespace quantbench
