#include "bench/telemetry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "bench/energy.h"
#include "core/os.h"

namespace quantbench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Reasons, HaveTheNamesOfNvml) {
  EXPECT_THAT(names_of_reasons(0), IsEmpty());
  EXPECT_THAT(names_of_reasons(0x8 | 0x20 | 0x40 | 0x80),
              ElementsAre("hardware slowdown", "software thermal slowdown", "hardware thermal slowdown",
                          "hardware power brake"));
  EXPECT_THAT(names_of_reasons(0x4 | 0x1000), ElementsAre("power cap", "0x1000"));
}

TEST(Reasons, OfARunAreThoseOfAnySample) {
  RunTelemetry t;
  t.samples.resize(3);
  EXPECT_FALSE(t.reasons()) << "not told is not none";
  EXPECT_FALSE(t.throttled());
  t.samples[0].reading.reasons = 0x1;
  t.samples[2].reading.reasons = 0x4;
  EXPECT_EQ(t.reasons(), 0x5u);
  EXPECT_FALSE(t.throttled());
  for (const uint64_t reason : {0x8, 0x20, 0x40, 0x80}) {
    t.samples[1].reading.reasons = reason;
    EXPECT_TRUE(t.throttled()) << reason;
  }
}

TEST(OtherProcesses, AreThoseThatAreNotOurs) {
  const std::vector<uint32_t> own{10, 11};
  using List = std::vector<uint32_t>;
  EXPECT_EQ(other_processes(List{10, 11}, own), 0);
  EXPECT_EQ(other_processes(List{9, 10, 11, 12}, own), 2);
  EXPECT_EQ(other_processes(List{9, 10}, own), std::nullopt) << "one of ours is not there: other numbers";
  EXPECT_EQ(other_processes(List{}, own), std::nullopt);
  EXPECT_EQ(other_processes(std::nullopt, own), std::nullopt);
  EXPECT_EQ(other_processes(List{9}, {}), std::nullopt);
}

CardSample power(double seconds, std::optional<double> watts) {
  CardSample s;
  s.at_ns = static_cast<int64_t>(seconds * 1e9);
  s.reading.power_w = watts;
  return s;
}

TEST(IntegratedEnergy, IsTheAreaUnderThePower) {
  const std::vector<CardSample> ramp{power(0, 100), power(1, 300), power(3, 300)};
  EXPECT_DOUBLE_EQ(integrated_energy_j(ramp).value(), 200 + 600);
  const std::vector<CardSample> gap{power(0, 100), power(1, std::nullopt), power(3, 300)};
  EXPECT_FALSE(integrated_energy_j(gap));
  EXPECT_FALSE(integrated_energy_j(std::vector{power(0, 100)}));
}

// A card that counts how often it was asked.
struct Counted : Telemetry {
  explicit Counted(std::atomic<int>* reads) : reads_(reads) {}
  CardReading read() override {
    CardReading r;
    r.sm_mhz = ++*reads_;
    return r;
  }
  CardState state() override { return {}; }
  std::optional<std::vector<uint32_t>> processes() override { return std::vector<uint32_t>{1, 2}; }
  std::atomic<int>* reads_;
};

TEST(Monitor, SamplesTenToTwentyTimesASecondWhileARunRunsAndNeverElse) {
  std::atomic<int> reads{0};
  Monitor monitor({std::make_unique<Counted>(&reads), ""}, os::steady_now_ns);
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  EXPECT_EQ(reads, 0);
  const int64_t start_ns = os::steady_now_ns();
  monitor.begin();
  std::this_thread::sleep_for(std::chrono::milliseconds(450));
  const auto run = monitor.end(std::vector<uint32_t>{1});
  const double seconds = static_cast<double>(os::steady_now_ns() - start_ns) * 1e-9;
  ASSERT_TRUE(run);
  EXPECT_EQ(run->other_processes, 1);
  // One before and one after; on a busy machine the thread may come late, but never early.
  EXPECT_GE(run->samples.size(), 3u);
  EXPECT_LE(static_cast<double>(run->samples.size()), 2 + 20 * seconds);
  EXPECT_LE(run->samples.front().at_ns, run->samples.back().at_ns);
  const int after = reads;
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  EXPECT_EQ(reads, after);
  monitor.begin();
  monitor.cancel();
  const int cancelled = reads;
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  EXPECT_EQ(reads, cancelled) << "a run that failed";
}

TEST(Monitor, WithoutACardWatchesNothingAndKnowsWhy) {
  Monitor monitor({nullptr, "no library"}, os::steady_now_ns);
  EXPECT_FALSE(monitor.watches());
  EXPECT_EQ(monitor.missing(), "no library");
  monitor.begin();
  EXPECT_FALSE(monitor.end({}));
}

// Counters of a CPU as the kernel shows them.
class RaplTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(root_);
    domain("intel-rapl:0", "package-0", 1'000'000, 262'143'328'850);
    domain("intel-rapl:0/intel-rapl:0:0", "core", 7, 262'143'328'850);  // a part of the package's
    domain("intel-rapl:0/intel-rapl:0:1", "dram", 500'000, 65'712'999'613);
    domain("intel-rapl:1", "psys", 9, 262'143'328'850);
    domain("intel-rapl:2", "package-1", 262'143'000'000, 262'143'328'850);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void domain(const std::string& name, const std::string& what, int64_t uj, int64_t range) {
    std::filesystem::create_directories(root_ + "/" + name);
    std::ofstream(root_ + "/" + name + "/name") << what << "\n";
    std::ofstream(root_ + "/" + name + "/max_energy_range_uj") << range << "\n";
    count(name, uj);
  }
  void count(const std::string& name, int64_t uj) { std::ofstream(root_ + "/" + name + "/energy_uj") << uj << "\n"; }
  std::string root_ = testing::TempDir() + "qb_rapl";
};

TEST_F(RaplTest, AddsPackagesAndMemoryUpAndKnowsThatCountersRunOver) {
  Rapl rapl(root_);
  EXPECT_EQ(rapl.joules(), 0);
  count("intel-rapl:0", 4'000'000);                 // 3 J
  count("intel-rapl:0/intel-rapl:0:0", 2'000'000);  // counted by the package already
  count("intel-rapl:0/intel-rapl:0:1", 1'000'000);  // 0.5 J
  count("intel-rapl:1", 9'000'000);                 // what holds packages
  count("intel-rapl:2", 671'150);                   // 1 J: 328,850 µJ to the end of the range, and 671,150 more
  EXPECT_DOUBLE_EQ(rapl.joules().value(), 4.5);
}

TEST_F(RaplTest, SaysWhyThereIsNothing) {
  Rapl none(root_ + "/nothing");
  EXPECT_FALSE(none.joules());
  EXPECT_THAT(none.missing(), HasSubstr("no counters"));
  Rapl hidden(root_);
  std::filesystem::remove(root_ + "/intel-rapl:0/energy_uj");
  EXPECT_FALSE(hidden.joules());
  EXPECT_THAT(hidden.missing(), HasSubstr("intel-rapl:0/energy_uj cannot be read"));
}

TEST_F(RaplTest, GivesTheEnergyOfRunsOnAHost) {
  int64_t now_ns = 0;
  Monitor monitor({nullptr, "a CPU"}, [&] { return now_ns; });
  int64_t package_uj = 1'000'000;
  const auto pass = [&](double seconds) {  // at 50 W
    now_ns += static_cast<int64_t>(seconds * 1e9);
    count("intel-rapl:0", package_uj += static_cast<int64_t>(seconds * 50e6));
  };
  EnergyMeter meter(
      monitor, Rapl(root_), [&] { return now_ns; }, pass);
  EXPECT_TRUE(meter.measure_idle());
  EXPECT_FALSE(meter.measure_idle());
  EXPECT_EQ(now_ns, 7'000'000'000) << "once, though asked twice";
  meter.begin();
  pass(5);
  count("intel-rapl:0", package_uj += 100'000'000);
  const EnergyReport report = meter.end(3, 100);
  EXPECT_EQ(report.source, "RAPL");
  EXPECT_FALSE(report.estimated);
  EXPECT_DOUBLE_EQ(report.joules, 350);
  EXPECT_DOUBLE_EQ(report.idle_w.value(), 50);
  EXPECT_DOUBLE_EQ(report.joules_per_token(), 3.5);
  EXPECT_DOUBLE_EQ(report.net_joules_per_token().value(), 1);
}

TEST(Energy, OfACardThatCannotBeWatchedIsNotTheHosts) {
  int64_t now_ns = 0;
  Monitor monitor({nullptr, "NVML was not found"}, [&] { return now_ns; });
  EnergyMeter meter(
      monitor, std::nullopt, [&] { return now_ns; }, [&](double s) { now_ns += static_cast<int64_t>(s * 1e9); });
  EXPECT_TRUE(meter.measure_idle());
  EXPECT_EQ(meter.missing(), "NVML was not found");
  EXPECT_EQ(now_ns, 0);
  meter.begin();
  const EnergyReport report = meter.end(3, 100);
  EXPECT_FALSE(report.known());
  EXPECT_EQ(report.missing, "NVML was not found");
}

}  // namespace
}  // namespace quantbench
