// import, claims and what run --explain prints, as people call them; what they compute is tested in import/, report/,
// bench/.
#include "app/program_under_test.h"
#include "core/json.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::string kPublished = QB_SOURCE_DIR "/docs/reference/predecessor_results.csv";

TEST(Results, OfAnotherProgramGoThroughClaimsReportAndCompare) {
  const TestFolder folder;
  const std::string out = folder / "imported";
  const Result imported = run({"import", kPublished, "--out", out});
  ASSERT_EQ(imported.code, 0) << imported.err;
  EXPECT_THAT(imported.out, AllOf(HasSubstr("72 records in "), HasSubstr("FLAGGED"), Not(HasSubstr("VALID"))));
  // The same verdicts from records as from the file.
  const Result of_records = run({"claims", out}), of_file = run({"claims", kPublished});
  ASSERT_EQ(of_records.code, 0) << of_records.err;
  EXPECT_EQ(of_records.out, of_file.out);
  EXPECT_THAT(of_file.out, HasSubstr("4-bit is the fastest precision: refuted"));
  const Result report = run({"report", out, "-o", "csv"});
  ASSERT_EQ(report.code, 0) << report.err;
  EXPECT_THAT(report.out, AllOf(HasSubstr("imported from "), Not(HasSubstr(",generation,0,"))))
      << "what the file does not tell is missing, not none";
  // Figures without samples are shown, and decide nothing.
  const Result compared = run({"compare", out, out});
  EXPECT_THAT(compared.out, HasSubstr("0 faster, 0 slower"));
}

TEST(Results, OfAFaultyFileAreNoneAndTheLineIsNamed) {
  const TestFolder folder;
  const std::string bad =
      folder.write("bad.csv", "precision,latency_sec,tokens_per_sec,peak_mem_gb,error\nfp16,fast,1,1,\n");
  const Result r = run({"import", kPublished, bad, "--out", folder / "out"});
  EXPECT_EQ(r.code, 64);
  EXPECT_THAT(r.err, AllOf(HasSubstr("bad.csv"), HasSubstr("fast")));
  EXPECT_FALSE(os::exists(folder / "out")) << "all files are read before anything is written";
  EXPECT_EQ(run({"claims", folder / "nowhere"}).code, 64);
  EXPECT_EQ(run({"claims", kPublished, "-o", "html"}).code, 64);
}

TEST(Results, ExplainSaysWhereAStepsTimeGoesAndRecordsIt) {
  const TestFolder folder;
  const Result r = run(tiny_run(folder / "out", {"--explain"}));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out,
              AllOf(HasSubstr("Of a step's time: "), HasSubstr("of the columns that int8 products read are outliers")));
  for (const json& record : records_in(folder / "out")) {
    expect_well_formed(record);
    double shares = 0;
    for (const auto& [name, part] : record["explain"]["time"]["parts"].items()) shares += part["share"].get<double>();
    EXPECT_NEAR(shares, 1, 1e-9);
  }
  EXPECT_THAT(run(tiny_run(folder / "plain")).out, Not(HasSubstr("Of a step's time")));
}

}  // namespace
}  // namespace quantbench
