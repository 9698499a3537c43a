#include "bench/metrics.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace quantbench {
namespace {

// 4 prompt tokens, 5 new ones: 100 ms of prefill, then 20 ms a step.
RunSample a_run() {
  RunSample s;
  Run& run = s.report.run;
  run.prompt_tokens = 4;
  run.tokens = {1, 2, 3, 4, 5};
  run.spans = {{Phase::prefill, Clock::host, 0, 100'000'000}};
  for (int64_t i = 0; i < 4; ++i) {
    run.spans.push_back({Phase::decode, Clock::host, 100'000'000 + i * 20'000'000, 120'000'000 + i * 20'000'000});
  }
  run.total_ns = 180'000'000;
  s.read_before = 30e9;
  s.read_after = 50e9;
  return s;
}

CellData some_data(int runs) {
  CellData data;
  data.load.emplace();
  data.load->context_ns = 1;
  data.load->weights_ns = 4;
  data.load->session_ns = 2;
  data.load->token_weight_bytes = 400'000'000;
  data.load->kv_position_bytes = 1'000'000;
  data.load->resident[Use::weights] = 300;
  data.load->resident[Use::scales] = 20;
  data.load->resident[Use::unquantized] = 100;
  data.load->resident[Use::tables] = 9;
  data.memory = MemoryReport{MemoryCount::resident, 10, 600, 500, 450, true, data.load->resident};
  data.runs.assign(static_cast<size_t>(runs), a_run());
  return data;
}

const Summary* find(const std::vector<Summary>& all, std::string_view name) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const Summary& s) { return s.name == name; });
  return found == all.end() ? nullptr : &*found;
}

TEST(Metrics, FollowFromTheSpansOfARun) {
  const auto all = summarize(some_data(10));
  EXPECT_DOUBLE_EQ(find(all, "total_latency")->median, 180e6);
  EXPECT_DOUBLE_EQ(find(all, "latency_per_token")->median, 36e6);
  EXPECT_DOUBLE_EQ(find(all, "time_to_first_token")->median, 100e6);
  EXPECT_DOUBLE_EQ(find(all, "inter_token_median")->median, 20e6);
  EXPECT_DOUBLE_EQ(find(all, "prefill_tokens_per_second")->median, 40);
  EXPECT_DOUBLE_EQ(find(all, "decode_tokens_per_second")->median, 50);
  EXPECT_NEAR(find(all, "tokens_per_second")->median, 5 / 0.18, 1e-9);
  EXPECT_EQ(find(all, "inter_token_p95"), nullptr) << "4 steps are too few for a p95";
}

TEST(Metrics, KnowNoSingleStepWhereOneSpanStandsForAll) {
  CellData data = some_data(10);
  for (RunSample& sample : data.runs) {
    auto& spans = sample.report.run.spans;
    spans = {spans.front(), {Phase::decode, Clock::host, spans.front().end_ns, spans.back().end_ns}};
  }
  const auto all = summarize(data);
  EXPECT_EQ(find(all, "inter_token_median"), nullptr);
  EXPECT_DOUBLE_EQ(find(all, "decode_tokens_per_second")->median, 50);
}

// The device's own times beside the host's: 90 ms of prefill, 18 ms a step, from the start of the run on.
CellData with_device_times(int runs) {
  CellData data = some_data(runs);
  for (RunSample& sample : data.runs) {
    auto& spans = sample.report.run.spans;
    spans = {spans.front(), {Phase::decode, Clock::host, spans.front().end_ns, spans.back().end_ns}};
    spans.push_back({Phase::prefill, Clock::device, 5'000'000, 95'000'000});
    for (int64_t i = 0; i < 4; ++i) {
      spans.push_back({Phase::decode, Clock::device, 101'000'000 + i * 20'000'000, 119'000'000 + i * 20'000'000});
    }
  }
  return data;
}

TEST(Metrics, HaveEveryPhaseAndWithoutADevicesClockNoOverhead) {
  CellData data = some_data(10);
  for (RunSample& s : data.runs)
    s.report.run.spans.insert(s.report.run.spans.begin(), {Phase::vision, Clock::host, 0, 0});
  const auto all = summarize(data);
  EXPECT_DOUBLE_EQ(find(all, "vision_time")->median, 0);
  EXPECT_DOUBLE_EQ(find(all, "prefill_time")->median, 100e6);
  EXPECT_DOUBLE_EQ(find(all, "decode_time")->median, 80e6);
  EXPECT_EQ(find(all, "encode_time"), nullptr);
  EXPECT_EQ(find(all, "device_time"), nullptr);
  EXPECT_EQ(find(all, "host_overhead"), nullptr);
}

TEST(Metrics, PhasesAreTheDevicesWhereItTellsThemAndTheRestIsTheHosts) {
  const auto all = summarize(with_device_times(10));
  EXPECT_DOUBLE_EQ(find(all, "prefill_time")->median, 90e6);
  EXPECT_DOUBLE_EQ(find(all, "decode_time")->median, 4 * 18e6);
  EXPECT_DOUBLE_EQ(find(all, "device_time")->median, 162e6);
  EXPECT_DOUBLE_EQ(find(all, "host_overhead")->median, 18e6);
  EXPECT_DOUBLE_EQ(find(all, "inter_token_median")->median, 18e6) << "steps that the host does not see";
  // What a user waits for is the host's.
  EXPECT_DOUBLE_EQ(find(all, "time_to_first_token")->median, 100e6);
  EXPECT_DOUBLE_EQ(find(all, "decode_tokens_per_second")->median, 50);
}

TEST(Metrics, AnOverheadNeedsEveryPhaseOfTheDevice) {
  CellData data = with_device_times(10);
  for (RunSample& s : data.runs) s.report.run.spans.erase(s.report.run.spans.begin() + 2);  // its prefill
  const auto all = summarize(data);
  EXPECT_EQ(find(all, "host_overhead"), nullptr);
  EXPECT_DOUBLE_EQ(find(all, "prefill_time")->median, 100e6);
}

TEST(Metrics, PoolTheStepsOfAllRunsForPercentiles) {
  const auto all = summarize(some_data(10));  // 40 steps
  EXPECT_DOUBLE_EQ(find(all, "inter_token_pooled_p90")->median, 20e6);
  EXPECT_EQ(find(all, "inter_token_pooled_p95"), nullptr);
}

TEST(Metrics, ShareOfReadPeakIsWeightsAndMeanContextOverTheNeighbouringRate) {
  const auto all = summarize(some_data(10));
  // Steps 1 … 4 attend to 5 … 8 positions: 6.5 on average.
  EXPECT_DOUBLE_EQ(find(all, "bytes_per_token")->median, 406.5e6);
  // 406.5 MB in 20 ms is 20.325 GB/s, of (30 + 50) / 2.
  EXPECT_NEAR(find(all, "read_share")->median, 20.325 / 40, 1e-12);
}

// The same times, but of three sequences behind ten tokens each.
TEST(Metrics, OfABatchCountAllSequencesInRatesAndStepsInLatencies) {
  CellData data = some_data(10);
  for (RunSample& s : data.runs) {
    s.report.run.sequences = 3;
    s.report.run.context_tokens = 10;
    s.report.run.tokens.assign(15, 1);
  }
  const auto all = summarize(data);
  EXPECT_DOUBLE_EQ(find(all, "total_latency")->median, 180e6);
  EXPECT_DOUBLE_EQ(find(all, "latency_per_token")->median, 36e6);
  EXPECT_DOUBLE_EQ(find(all, "inter_token_median")->median, 20e6);
  EXPECT_DOUBLE_EQ(find(all, "prefill_tokens_per_second")->median, 3 * 40) << "the context is not timed";
  EXPECT_DOUBLE_EQ(find(all, "decode_tokens_per_second")->median, 3 * 50);
  EXPECT_NEAR(find(all, "tokens_per_second")->median, 15 / 0.18, 1e-9);
  // Weights once; three caches of 10 + 6.5 positions.
  EXPECT_DOUBLE_EQ(*bytes_per_step(data.runs[0], data), 449.5e6);
  EXPECT_DOUBLE_EQ(find(all, "bytes_per_token")->median, 449.5e6 / 3);
  EXPECT_NEAR(find(all, "read_share")->median, 449.5e6 / 20e-3 / 40e9, 1e-12);
}

TEST(Metrics, ShareNeedsBothNeighbours) {
  CellData data = some_data(10);
  data.runs[3].read_after.reset();
  EXPECT_EQ(find(summarize(data), "read_share"), nullptr);
}

TEST(Metrics, ASingleTokenHasNoDecodeFigures) {
  CellData data = some_data(6);
  for (RunSample& s : data.runs) {
    s.report.run.tokens = {1};
    s.report.run.spans.resize(1);
  }
  const auto all = summarize(data);
  EXPECT_EQ(find(all, "decode_tokens_per_second"), nullptr);
  EXPECT_EQ(find(all, "bytes_per_token"), nullptr);
  EXPECT_NE(find(all, "prefill_tokens_per_second"), nullptr);
}

TEST(Metrics, IntervalsNeedSixRuns) {
  EXPECT_FALSE(find(summarize(some_data(5)), "total_latency")->low);
  const Summary* s = nullptr;
  const auto all = summarize(some_data(6));
  s = find(all, "total_latency");
  ASSERT_TRUE(s->low);
  EXPECT_NEAR(s->coverage, 0.96875, 1e-9);
}

TEST(Metrics, OfACellComeFromItsReports) {
  const auto all = summarize(some_data(0));
  EXPECT_EQ(find(all, "total_latency"), nullptr);
  EXPECT_EQ(find(all, "weight_bytes")->median, 420);
  EXPECT_EQ(find(all, "memory_peak")->median, 600);
  EXPECT_EQ(find(all, "memory_start")->median, 10);
  EXPECT_EQ(find(all, "memory_end")->median, 450);
  EXPECT_EQ(find(all, "load_time")->median, 7);
}

TEST(MemoryReport, TheLedgerAddsUpToTheProcess) {
  const MemoryReport m = *some_data(0).memory;
  EXPECT_EQ(m.start_bytes + static_cast<int64_t>(m.end_use.total()) + m.other_bytes(), m.end_bytes);
}

}  // namespace
}  // namespace quantbench
