// `quantbench report` as people use it: what run wrote, as a page and as text.
#include <algorithm>

#include "app/program_under_test.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::SizeIs;

class Report : public testing::Test {
 protected:
  void measure() const {
    const Result made = run(tiny_run(folder_ / "records", {"-o", "jsonl"}));
    ASSERT_EQ(made.code, 0) << made.err;
  }
  TestFolder folder_;
};

TEST_F(Report, MakesAPageOrSaysWhatToInstall) {
  measure();
  folder_.write("records/broken.json", "{\"schema\": \"quantbench.record\"");
  const Result result = run({"report", folder_ / "records", "--out", folder_ / "page.html"});
  if (result.code == 64 && result.err.find("libjs-d3") != std::string::npos) GTEST_SKIP() << result.err;
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("left out: "), HasSubstr("broken.json"), HasSubstr("3 records in ")));
  const std::string page = os::read_file(folder_ / "page.html", 2 << 20);
  EXPECT_THAT(page, AllOf(HasSubstr("\"detail\":\"samples\""), HasSubstr("broken.json"), HasSubstr("</html>")));
}

TEST_F(Report, PrintsTheSameRecordsAsText) {
  measure();
  const Result lines = run({"report", folder_ / "records", "-o", "jsonl"});
  EXPECT_EQ(lines.code, 0) << lines.err;
  EXPECT_THAT(lines_of(lines.out), SizeIs(3));
  const Result all = run({"report", folder_ / "records", "-o", "json"});
  EXPECT_THAT(nlohmann::json::parse(all.out), SizeIs(3));
  EXPECT_THAT(run({"report", folder_ / "records", "-o", "csv"}).out, HasSubstr("model,precision,"));
  const Result table = run({"report", folder_ / "records", "-o", "md", "--out", folder_ / "table.md"});
  EXPECT_EQ(table.out, "");
  EXPECT_THAT(os::read_file(folder_ / "table.md", 1 << 20),
              AllOf(HasSubstr("| model"), HasSubstr("fp16"), HasSubstr("4bit")));
}

TEST_F(Report, DrawsChartsWithoutABrowser) {
  measure();
  const Result result = run({"report", folder_ / "records", "--charts", folder_ / "charts"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("charts in "));
  const std::string svg = os::read_file(folder_ / "charts/throughput.svg", 1 << 20);
  for (const nlohmann::json& record : records_in(folder_ / "records")) {
    EXPECT_THAT(svg, HasSubstr(record["cell"]["precision"].get<std::string>()));
  }
  EXPECT_EQ(run({"report", folder_ / "records", "-o", "md", "--png"}).code, 64);
}

TEST_F(Report, ReadsFromADatabaseWhatRunAndImportAppendToIt) {
  const std::string database = folder_ / "results.sqlite", records = folder_ / "records";
  const Result made = run(tiny_run(records, {"-o", "jsonl", "--db", database}));
  if (made.code == 64 && made.err.find("libsqlite3-0") != std::string::npos) GTEST_SKIP() << made.err;
  ASSERT_EQ(made.code, 0) << made.err;
  const auto sorted_lines = [](const std::string& text) {
    std::vector<nlohmann::json> lines = lines_of(text);
    std::sort(lines.begin(), lines.end());
    return lines;
  };
  const auto of_database = [&] { return sorted_lines(run({"report", "--db", database, "-o", "jsonl"}).out); };
  const auto in_folder = sorted_lines(run({"report", records, "-o", "jsonl"}).out);
  EXPECT_THAT(in_folder, SizeIs(3));
  EXPECT_EQ(of_database(), in_folder);

  const Result resumed = run(tiny_run(records, {"-o", "jsonl", "--db", database, "--resume"}));
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(of_database(), in_folder) << "each is there once";

  const Result imported = run({"import", QB_SOURCE_DIR "/docs/reference/predecessor_results.csv", "--db", database});
  EXPECT_EQ(imported.code, 0) << imported.err;
  EXPECT_THAT(of_database(), SizeIs(3 + 72));
  EXPECT_THAT(sorted_lines(run({"report", database, "--sweep", "records", "-o", "jsonl"}).out), SizeIs(3));
  EXPECT_EQ(run({"claims", "--db", database}).code, 0);

  const Result compared = run({"compare", "--db", database, "records", "records", "-o", "json"});
  EXPECT_EQ(compared.code, 0) << compared.err;
  EXPECT_THAT(nlohmann::json::parse(compared.out).at("cells"), SizeIs(3));
  const Result unknown = run({"gate", "--db", database, "records", "tomorrow"});
  EXPECT_EQ(unknown.code, 64);
  EXPECT_THAT(unknown.err, HasSubstr("there are: records, imported"));
  EXPECT_EQ(run({"report", "--db", folder_ / "missing.sqlite", "-o", "md"}).code, 64);
  EXPECT_EQ(run({"report", "-o", "md"}).code, 64);
}

TEST_F(Report, RefusesWhatItCannotReport) {
  const Result nothing = run({"report", folder_.path(), "-o", "md"});
  EXPECT_EQ(nothing.code, 64);
  EXPECT_THAT(nothing.err, HasSubstr("no record was found"));
  EXPECT_EQ(run({"report", folder_ / "missing", "-o", "md"}).code, 64);
  const Result format = run({"report", folder_.path(), "-o", "pdf"});
  EXPECT_EQ(format.code, 64);
  EXPECT_THAT(format.err, HasSubstr("expected html, md, csv, json or jsonl"));
}

}  // namespace
}  // namespace quantbench
