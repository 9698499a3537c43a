// compare and gate as people call them; what they compute is tested in report/.
#include "app/program_under_test.h"
#include "report/test_record.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class Compare : public testing::Test {
 protected:
  std::string write(const std::string& name, const TestRecord& record) const {
    return folder_.write(name, to_text(test_record(record)));
  }
  TestFolder folder_;
};

TEST_F(Compare, TheExitCodeOfAGateIsItsOutcome) {
  const std::string base = write("base.json", {});
  EXPECT_EQ(run({"gate", base, base}).code, 0);
  const Result slower = run({"gate", base, write("slower.json", {.rate = 90})});
  EXPECT_EQ(slower.code, 1) << slower.err;
  EXPECT_THAT(slower.out, AllOf(HasSubstr("quantbench gate: regression"), HasSubstr("speed: 0.9 times as fast")));
  EXPECT_EQ(run({"gate", base, write("noisy.json", {.rate = 97, .spread = 0.2})}).code, 2);
  EXPECT_EQ(run({"gate", base, write("other.json", {.batch = 2})}).code, 3);
  EXPECT_EQ(run({"gate", base, write("invalid.json", {.stamp = "INVALID"})}).code, 3);
  EXPECT_EQ(run({"gate", base, folder_ / "nowhere"}).code, 64);
  EXPECT_EQ(run({"gate", base, folder_ / "slower.json", "--threshold", "20%"}).code, 0);
  // The first token is as much slower as the rest.
  EXPECT_EQ(run({"gate", base, folder_ / "slower.json", "--threshold", "20%", "--first-token-threshold", "5%"}).code,
            1);
  EXPECT_EQ(run({"gate", base, write("larger.json", {.peak_bytes = 1.1e9})}).code, 1);
  EXPECT_EQ(run({"gate", base, folder_ / "larger.json", "--memory-threshold", "20%"}).code, 0);
}

TEST_F(Compare, ComparesFoldersAndNamesWhatItLeavesOut) {
  write("a/fp16.json", {});
  write("a/deeper/int8.json", {.precision = "int8"});
  write("b/fp16.json", {.rate = 110});
  folder_.write("b/half.json", "{\"schema\": ");
  const Result r = run({"compare", folder_ / "a", folder_ / "b"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, AllOf(HasSubstr("1.100 ["), HasSubstr("1 faster"), HasSubstr("only in A:\n  org/model int8"),
                           HasSubstr("left out of B:\n"), HasSubstr("half.json: not valid JSON")));
  EXPECT_EQ(run({"gate", folder_ / "a", folder_ / "b"}).code, 3) << "a file that cannot be read may be a cell";
  const Result json = run({"compare", folder_ / "a", folder_ / "b", "-o", "json"});
  EXPECT_EQ(nlohmann::json::parse(json.out).at("cells").at(0).at("speed").at("verdict"), "faster");
  const Result nothing = run({"compare", folder_ / "a/deeper", folder_ / "b"});
  EXPECT_EQ(nothing.code, 64);
  EXPECT_THAT(nothing.err, HasSubstr("can be compared with one of"));
  EXPECT_EQ(run({"compare", folder_ / "a"}).code, 64);
  EXPECT_EQ(run({"compare", folder_ / "a", folder_ / "b", "-o", "html"}).code, 64);
  EXPECT_EQ(run({"compare", folder_ / "a", folder_ / "b", "--threshold", "2"}).code, 64);
}

TEST_F(Compare, AGateAppendsToTheSummaryOfItsStep) {
  const std::string base = write("base.json", {}), slower = write("slower.json", {.rate = 90});
  const std::string summary = folder_.write("summary.md", "what was there\n");
  const Result r = run({"gate", base, slower}, "export GITHUB_STEP_SUMMARY='" + summary + "';");
  EXPECT_EQ(r.code, 1);
  EXPECT_THAT(os::read_file(summary, 1 << 20),
              AllOf(testing::StartsWith("what was there\n### quantbench gate: regression\n"), HasSubstr("| slower |")));
  EXPECT_EQ(run({"gate", base, slower, "--github"}, "unset GITHUB_STEP_SUMMARY;").code, 64);
  EXPECT_EQ(run({"gate", base, slower}, "export GITHUB_STEP_SUMMARY=/proc/nowhere/x;").code, 69);
}

}  // namespace
}  // namespace quantbench
