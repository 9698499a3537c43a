#include "report/page.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "report/packed.h"
#include "report/test_measured_record.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

// As page/data.js unpacks them.
std::vector<double> unpacked(const std::string& text) {
  if (text.empty()) return {};
  const size_t behind = text.find(';') + 1;
  std::string bytes;
  uint32_t bits = 0, count = 0;
  for (const char c : text.substr(behind)) {
    if (c == '=') break;
    const size_t digit = std::string_view("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/").find(c);
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if ((count += 6) >= 8) bytes += static_cast<char>(bits >> (count -= 8));
  }
  if (text[0] == 'f') {
    std::vector<double> values(bytes.size() / sizeof(double));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(double));
    return values;
  }
  const double divisor = std::stod(text), step = std::stod(text.substr(text.find(',') + 1));
  std::vector<double> values;
  int64_t before = 0;
  for (size_t i = 0; i < bytes.size();) {
    uint64_t rest = 0;
    for (unsigned shift = 0;; shift += 7) {
      const auto byte = static_cast<uint8_t>(bytes[i++]);
      rest |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) break;
    }
    before += rest & 1 ? -static_cast<int64_t>(rest >> 1) - 1 : static_cast<int64_t>(rest >> 1);
    values.push_back(static_cast<double>(before) * step / divisor);
  }
  return values;
}

TEST(Packed, GivesBackTheSameBits) {
  for (const std::vector<double>& values : {std::vector<double>{},
                                            {0},
                                            {-1},
                                            {509568, 509600, 509312, 1844256},
                                            {0.5, -0.5, 3},
                                            {517.104, 544.975},
                                            {1e15, -1e15, 0},
                                            {1.0 / 3, 2e300, -0.0, 5e-324},
                                            {33614685.0 / 64, 33246201.0 / 64},
                                            {-64, 63, 64, 8191, 8192}}) {
    EXPECT_EQ(unpacked(packed(values)), values) << packed(values);
  }
  const std::vector<double> zero = unpacked(packed(std::vector<double>{-0.0}));
  EXPECT_TRUE(std::signbit(zero[0]));
}

TEST(Packed, OfADevicesClockTakesTwoBytesAStep) {
  std::vector<double> steps;
  for (int i = 0; i < 1000; ++i) steps.push_back(509568 + 32 * ((i * 37) % 101 - 50));  // a clock of 32 ns
  EXPECT_LT(packed(steps).size(), 1000 * 2 * 4 / 3 + 16);
}

json data_of(const PageData& page) { return json::parse(page.json({}, {}, "now", "a program")); }

TEST(PageData, OfFewRecordsHasEverySample) {
  PageData page;
  const Record record = measured(0);
  page.add(record, "a/record.json");
  const json data = data_of(page);
  EXPECT_EQ(data["detail"], "samples");
  const json& cell = data["cells"][0];
  EXPECT_EQ(cell["file"], "a/record.json");
  EXPECT_EQ(data["strings"][cell["precision"].get<size_t>()], "fp16");
  size_t compared = 0;
  for (const json& row : cell["metrics"]) {
    const json metric = record["metrics"][data["metrics"][row[0].get<size_t>()]["name"].get<std::string>()];
    EXPECT_EQ(row[2], metric["median"]);
    if (row.size() < 9) continue;
    EXPECT_EQ(row[3], metric["low"]);
    EXPECT_EQ(row[4], metric["high"]);
    EXPECT_EQ(unpacked(row[8]), metric["samples"].get<std::vector<double>>());
    ++compared;
  }
  EXPECT_GT(compared, 10u);
  const std::vector<double> counts = unpacked(cell["steps"][0]), steps = unpacked(cell["steps"][1]);
  EXPECT_EQ(counts, std::vector<double>(20, 64));
  ASSERT_EQ(steps.size(), 20u * 64);
  const Record& span = record["runs"][3]["spans"][5];
  EXPECT_EQ(steps[3 * 64 + 5], span[3].get<double>() - span[2].get<double>());
  EXPECT_EQ(cell["runs"][0], json({0, 1, 20, 0}));
  EXPECT_EQ(cell["runs"][4], "----m----------------");
}

TEST(PageData, OfAHundredRecordsIsSmallWithEverySample) {
  PageData page;
  for (int i = 0; i < 100; ++i) page.add(measured(i), fmt::format("results/some-model/record-{}.json", i));
  const std::string data = page.json({}, {}, "now", "a program");
  EXPECT_EQ(json::parse(data)["detail"], "samples");
  // 1.5 MB is what the page may have; its own part of it is some 0.3 MB.
  EXPECT_LT(data.size(), 1'200'000u);
  if (has_page()) {
    EXPECT_LT(page_html(data).size(), 1'500'000u);
  }
}

TEST(PageData, OfTenThousandHasQuantilesAndNamesTheFiles) {
  PageData page;
  std::vector<Record> some;
  for (int i = 0; i < 20; ++i) some.push_back(measured(i));
  for (size_t i = 0; i < 10'000; ++i) {
    Record& record = some[i % some.size()];
    record["response"]["text"] = std::string(300, 'a') + std::to_string(i);  // no two alike, so none is shared
    page.add(record, fmt::format("results/some-model/record-{}.json", i));
  }
  const std::string data = page.json({}, {}, "now", "a program");
  EXPECT_LT(data.size(), 24'600'000u);  // of 25 MB
  const json cell = json::parse(data)["cells"][9'999];
  EXPECT_EQ(cell["file"], "results/some-model/record-9999.json");
  EXPECT_FALSE(cell.contains("runs"));
  EXPECT_EQ(cell["steps"].size(), 4u);
  EXPECT_EQ(unpacked(cell["steps"][0]).size(), 32u);
}

TEST(PageData, NothingInARecordEndsTheScript) {
  TestRecord t;
  t.model = "</script><script>alert(1)</script><!--";
  Record record = test_record(t);
  record["response"]["text"] =
      "a\xE2\x80\xA8"
      "b\xE2\x80\xA9"
      "c\xE2\x80\x99 </SCRIPT \xFF end";
  PageData page;
  page.add(record, "</script>.json");
  const std::string data = page.json(std::vector<std::string>{"</script> is no record"}, {}, "now", "a program");
  EXPECT_THAT(data, Not(HasSubstr("<")));
  EXPECT_THAT(data, Not(HasSubstr("\xE2\x80\xA8")));
  EXPECT_THAT(data, Not(HasSubstr("\xE2\x80\xA9")));
  const json back = json::parse(data);
  EXPECT_EQ(back["strings"][back["cells"][0]["model"].get<size_t>()], t.model);
  EXPECT_EQ(back["strings"][back["cells"][0]["said"].get<size_t>()],
            "a\xE2\x80\xA8"
            "b\xE2\x80\xA9"
            "c\xE2\x80\x99 </SCRIPT \xEF\xBF\xBD end");
  EXPECT_EQ(back["problems"][0], "</script> is no record");
}

TEST(PageData, TakesRecordsThatLackWhatIsNewerOrFailed) {
  TestRecord t;
  t.status = "failed";
  PageData page;
  page.add(test_record(t), "a.json");
  EXPECT_EQ(data_of(page)["cells"][0]["metrics"].size(), 0u);
}

TEST(PageData, RefusesWithItsPathARecordOfAnotherForm) {
  Record ledger = test_record({}), device = test_record({}), span = test_record({});
  ledger["memory"] = Record::array({{{"end_ledger", 7}}});
  device["devices"].push_back(7);
  span["runs"] = Record::array({{{"spans", {1, 2}}}});
  for (const Record& record : {ledger, device, span}) {
    PageData page;
    page.add(test_record({}), "good.json");
    try {
      page.add(record, "edited.json");
      ADD_FAILURE() << record.dump();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(error.what(), HasSubstr("edited.json"));
    }
    EXPECT_EQ(page.count(), 1u);
  }
}

TEST(PageData, TakesNumbersNearNought) {
  Record record = test_record({});
  record["metrics"]["memory_peak"]["median"] = 1e-320;
  PageData page;
  page.add(record, "a.json");
  EXPECT_THAT(page.json({}, {}, "", ""), HasSubstr("e-320"));
}

TEST(Page, IsOneFileWithAllOfItsParts) {
  if (!has_page()) GTEST_SKIP() << "this build has no D3 (libjs-d3), so no page";
  const std::string page = page_html("{\"the\": \"data\"}");
  EXPECT_THAT(page, HasSubstr("{\"the\": \"data\"}"));
  EXPECT_THAT(page, HasSubstr("Bostock"));  // the licence of D3 asks for it
  EXPECT_THAT(page, HasSubstr("function barChart"));
  EXPECT_THAT(page, Not(HasSubstr("@{")));
  for (const char* part : {"d3.js", "d3.licence", "data.js", "charts.js", "figures.js", "page.js"}) {
    EXPECT_THAT(page_part(part), Not(HasSubstr("</script"))) << part;
    EXPECT_FALSE(page_part(part).empty()) << part;
  }
  for (const char* part : {"page.css", "data.js", "figures.js", "page.js"}) {
    EXPECT_THAT(page_part(part), Not(HasSubstr("http"))) << part << ": the page needs no network";
  }
}

}  // namespace
}  // namespace quantbench
