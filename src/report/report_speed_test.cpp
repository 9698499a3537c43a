// How long a page of many records takes: ten thousand are to be there in 5 s on two cores.
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>

#include "report/page_data.h"
#include "report/read_records.h"
#include "report/test_measured_record.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

constexpr int kRecords = 400, kTries = 3;
// 5 s of two cores are 0.4 s of one for four hundred; a slow machine may take twice as long and a half. When every
// record was parsed by nlohmann's parser and looked at in one thread, they took 1.8 s.
constexpr double kMostCpuSeconds = 1;

bool is_instrumented() {
#if defined(__SANITIZE_ADDRESS__) || !defined(NDEBUG)
  return true;
#else
  return false;
#endif
}

// Of all threads, so that what else the machine does counts little.
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

TEST(ReportSpeed, FourHundredRecordsAreAPageInTheirPartOfTheTimeOfTenThousand) {
  if (is_instrumented()) GTEST_SKIP() << "a build that is not for speed";
  TestFolder folder;
  for (int i = 0; i < kRecords; ++i) folder.write(std::to_string(i) + ".json", to_text(measured(i)));
  double least = 1e9;
  for (int i = 0; i < kTries; ++i) {
    const double before = cpu_seconds();
    PageData page;
    for_each_record(std::vector{folder.path()}, Spans::steps,
                    [&](Record&& record, RecordView&& view, const std::string& path) -> std::function<void()> {
                      const auto cell = std::make_shared<PageCell>(page_cell(record, view, path, false));
                      return [&page, cell] { page.add(std::move(*cell)); };
                    });
    EXPECT_EQ(page.count(), kRecords);
    EXPECT_LT(page.json({}, {}, "now", "a program").size(), 1'000'000u);
    least = std::min(least, cpu_seconds() - before);
  }
  RecordProperty("cpu_ms", static_cast<int>(least * 1000));
  EXPECT_LT(least, kMostCpuSeconds);
}

}  // namespace
}  // namespace quantbench
