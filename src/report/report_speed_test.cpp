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
// 5 s of two cores are 0.4 s of one for four hundred; a slow machine may take twice as long and a half.
constexpr double kMostCpuSeconds = 1;

bool is_instrumented() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(NDEBUG)
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
  std::vector<std::string> texts;
  for (int i = 0; i < kRecords; ++i) {
    texts.push_back(to_text(measured(i)));
    folder.write(std::to_string(i) + ".json", texts.back());
  }
  double page_seconds = 1e9, parser_seconds = 1e9;
  for (int i = 0; i < kTries; ++i) {
    double before = cpu_seconds();
    PageData page;
    for_each_record(std::vector{folder.path()}, Spans::steps,
                    [&](Record&& record, RecordView&& view, const std::string& path) -> std::function<void()> {
                      const auto cell = std::make_shared<PageCell>(page_cell(record, view, path, false));
                      return [&page, cell] { page.add(std::move(*cell)); };
                    });
    EXPECT_EQ(page.count(), kRecords);
    EXPECT_LT(page.json({}, {}, "now", "a program").size(), 1'000'000u);
    page_seconds = std::min(page_seconds, cpu_seconds() - before);
    before = cpu_seconds();
    for (const std::string& text : texts) EXPECT_TRUE(Record::parse(text).is_object());
    parser_seconds = std::min(parser_seconds, cpu_seconds() - before);
  }
  RecordProperty("page_ms", static_cast<int>(page_seconds * 1000));
  RecordProperty("parser_ms", static_cast<int>(parser_seconds * 1000));
  EXPECT_LT(page_seconds, kMostCpuSeconds);
  // On any machine: all of it together takes less than nlohmann's parser alone, which once was a part of it.
  EXPECT_LT(page_seconds, parser_seconds);
}

}  // namespace
}  // namespace quantbench
