#include "report/charts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/os.h"
#include "report/test_measured_record.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::vector<ChartCell> cells_of(const std::vector<Record>& records) {
  std::vector<ChartCell> cells;
  for (const Record& record : records) cells.push_back(chart_cell(record, view_of(record)));
  return cells;
}

std::string chart(const std::vector<ChartCell>& cells, const std::string& name) {
  for (const Chart& c : charts(cells)) {
    if (c.name == name) return c.svg;
  }
  return "";
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// Whether every element that begins ends, in order.
bool is_well_formed(const std::string& xml) {
  std::vector<std::string> open;
  for (size_t at = xml.find('<'); at != xml.npos; at = xml.find('<', at + 1)) {
    const size_t end = xml.find('>', at);
    if (end == xml.npos) return false;
    const std::string tag = xml.substr(at + 1, end - at - 1);
    if (tag.ends_with('/')) continue;
    if (!tag.starts_with('/')) {
      open.push_back(tag.substr(0, tag.find(' ')));
    } else if (open.empty() || "/" + open.back() != tag) {
      return false;
    } else {
      open.pop_back();
    }
  }
  return open.empty();
}

TEST(Charts, AreOfTheFiguresThatTheRecordsHave) {
  std::vector<std::string> names;
  for (const Chart& c : charts(cells_of({measured(0), measured(1), measured(2)}))) {
    names.push_back(c.name);
    EXPECT_TRUE(is_well_formed(c.svg)) << c.svg;
  }
  EXPECT_THAT(names,
              ElementsAre("throughput", "latency", "first-token", "inter-token", "memory", "ledger", "read-share"));
  EXPECT_THAT(charts(cells_of({test_record({.status = "failed"}), test_record({.stamp = "INVALID"})})), IsEmpty());
}

TEST(Charts, SayTheNumbersOfTheRecordsWithTheirIntervals) {
  const std::string svg = chart(cells_of({test_record({.rate = 100, .spread = 0.01}),
                                          test_record({.precision = "int8", .rate = 200, .stamp = "FLAGGED"})}),
                                "throughput");
  EXPECT_THAT(svg, HasSubstr(">100.0 [99.22, 100.8]<"));
  EXPECT_THAT(svg, HasSubstr(">200.0 [199.8, 200.2] *<"));
  EXPECT_THAT(svg, HasSubstr("FLAGGED"));
  EXPECT_THAT(svg, HasSubstr(">tokens per second (more is better)<"));
  EXPECT_EQ(count(svg, "fill=\"#0072b2\""), 1u);
  EXPECT_EQ(count(svg, "fill=\"#b34700\""), 1u);
}

TEST(Charts, OfManyCellsDrawTheFirstAndSaySo) {
  const std::string svg = chart(cells_of(std::vector<Record>(50, test_record({}))), "memory");
  EXPECT_EQ(count(svg, "fill=\"#0072b2\""), 40u);
  EXPECT_THAT(svg, HasSubstr("The first 40 of 50 cells"));
}

TEST(Charts, NamesFromRecordsAreTextAndNoMarkup) {
  const std::string svg = chart(cells_of({test_record({.model = "a/<script>&\n"})}), "throughput");
  EXPECT_THAT(svg, Not(HasSubstr("<script")));
  EXPECT_THAT(svg, HasSubstr("&lt;script&gt;&amp;"));
  EXPECT_TRUE(is_well_formed(svg));
}

TEST(Charts, TheFrontIsOfCellsThatNoOtherBeats) {
  std::vector<Record> records;
  const auto add = [&](double rate, double perplexity) {
    Record record = test_record({.rate = rate});
    record["quality"] = {{"text", {{"kind", "file"}, {"name", "x"}, {"texts", 9}, {"scored_tokens", 9}}},
                         {"error", nullptr},
                         {"reference", nullptr},
                         {"perplexity", {{"value", perplexity}, {"low", nullptr}, {"high", nullptr}}},
                         {"perplexity_ratio", nullptr},
                         {"kl_mean", nullptr},
                         {"same_top", nullptr},
                         {"kl_p99", nullptr}};
    records.push_back(record);
  };
  add(100, 10), add(200, 11), add(150, 12);
  const std::string svg = chart(cells_of(records), "speed-perplexity");
  const size_t dashed = svg.find("stroke-dasharray=\"4 3\"");
  ASSERT_NE(dashed, svg.npos);
  const size_t from = svg.rfind("<path", dashed);
  EXPECT_EQ(count(svg.substr(from, dashed - from), "L"), 1u) << "two of three are joined";
}

TEST(Charts, StepsAreQuantilesOverRuns) {
  const std::vector<StepBand> bands = step_bands({{1, 10}, {2, 20}, {3, 30}}, 8);
  ASSERT_EQ(bands.size(), 2u);
  EXPECT_EQ(bands[1].step, 1);
  EXPECT_EQ(bands[1].middle, 20);
  EXPECT_DOUBLE_EQ(bands[1].low, 12);
  EXPECT_DOUBLE_EQ(bands[1].high, 28);
  EXPECT_EQ(step_bands({{1, 10}, {2, 20}, {3, 30}}, 1).size(), 1u);
}

TEST(Charts, ArePicturesWhereLibrsvgIs) {
  if (!os::Library::open("librsvg-2.so.2")) GTEST_SKIP() << "there is no librsvg here (librsvg2-2)";
  TestFolder folder;
  const std::string svg = chart(cells_of({test_record({})}), "throughput");
  write_png(svg, 1, folder / "small.png");
  write_png(svg, 2, folder / "chart.png");
  const std::string png = os::read_file(folder / "chart.png", 1 << 20);
  EXPECT_EQ(png.substr(0, 8), "\x89PNG\r\n\x1a\n");
  EXPECT_EQ(png.substr(18, 2), std::string("\x07\x08", 2)) << "1800 pixels wide";
}

}  // namespace
}  // namespace quantbench
