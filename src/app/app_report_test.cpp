// `quantbench report` as people use it: what run wrote, as a page and as text.
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
