// Each call of the system that can fail, failing: the Nth open, read, write, fsync, close, rename, mkdir, block of
// memory and allocation of a sweep, of quantize and of report (of pull: program_pull_faults_test.cpp). Whatever fails,
// the program ends by itself with an exit code that it documents and a sentence, and what is on disk is whole. Every N
// where QUANTBENCH_TEST_FAULTS=all, else some.
#include <sys/mount.h>

#include <cerrno>
#include <cstring>

#include "app/test_program_faults.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::HasSubstr;

void expect_whole_records(const Result& r, const std::string& out, size_t cells) {
  const JsonSchema schema(read_json_file(QB_SOURCE_DIR "/docs/record.schema.json"));
  size_t records = 0;
  if (os::exists(out)) {
    for (const std::string& name : os::list_directory(out)) {
      if (!name.ends_with(".json")) continue;
      const json record = json::parse(os::read_file(out + "/" + name, 1 << 24), nullptr, false);
      ASSERT_FALSE(record.is_discarded()) << name;
      expect_well_formed(record);
      ++records;
    }
  }
  if (r.code == 0) {
    EXPECT_EQ(records, cells) << "what was measured is there";
  }
}

std::vector<std::string> sweep() {
  return {"run", "--model-id",  kTiny,       "-n", "2",     "--device", "reference", "-r",
          "1",   "--precision", "fp16,4bit", "-o", "jsonl", "--out",    "{}"};
}

TEST_F(ProgramFaults, InASweepLeaveWholeRecords) {
  fail_each(sweep(), false, [](const Result& r, const std::string& out) { expect_whole_records(r, out, 2); });
}

TEST_F(ProgramFaults, InItsWorkersAreRecordsOfTheirCells) {
  fail_each(sweep(), true, [](const Result& r, const std::string& out) {
    expect_whole_records(r, out, 2);
    // A worker is asked for the device first, before there is a sweep; then each cell has its record.
    if (os::exists(out)) {
      EXPECT_THAT(records_in(out), testing::SizeIs(2));
    }
  });
}

TEST_F(ProgramFaults, InQuantizeLeaveAWholeCheckpointOrNone) {
  const TestFolder whole;
  ASSERT_EQ(run({"quantize", "--model-id", kTiny, "--out", whole / "out"}).code, 0);
  const auto names = os::list_directory(whole / "out");
  fail_each({"quantize", "--model-id", kTiny, "--threads", "2", "--out", "{}"}, false,
            [&](const Result& r, const std::string& out) {
              if (r.code != 0 && !os::exists(out)) return;
              ASSERT_TRUE(os::exists(out));
              // A fault behind the last rename ends with an error beside a checkpoint that is whole.
              ASSERT_EQ(os::list_directory(out), names);
              for (const std::string& name : names) {
                EXPECT_EQ(os::read_file(out + "/" + name, 1 << 24), os::read_file(whole / ("out/" + name), 1 << 24))
                    << name;
              }
            });
}

TEST_F(ProgramFaults, InReportLeaveAWholePageOrNone) {
  const TestFolder records;
  ASSERT_EQ(run({"run", "--model-id", kTiny, "-n", "2,3", "--device", "reference", "-r", "1", "--out", records / "in",
                 "-o", "csv"})
                .code,
            0);
  fail_each({"report", records / "in", "--out", "{}"}, false, [&](const Result&, const std::string& out) {
    if (!os::exists(out)) return;
    const std::string page = os::read_file(out, 1 << 26);
    EXPECT_TRUE(page.ends_with("</html>\n")) << page.substr(page.size() - std::min<size_t>(page.size(), 100));
  });
}

// A file system of so few KiB in a folder, until the end.
class SmallDisk {
 public:
  explicit SmallDisk(int kib) { error_ = mounted(kib, 0); }
  ~SmallDisk() {
    if (error_ == 0) ::umount2(folder_.path().c_str(), MNT_DETACH);
  }
  int error() const { return error_; }
  void grow(int kib) { ASSERT_EQ(mounted(kib, MS_REMOUNT), 0); }
  std::string operator/(const std::string& name) const { return folder_ / name; }

 private:
  int mounted(int kib, unsigned long flags) const {
    const std::string size = fmt::format("size={}k", kib);
    return ::mount("tmpfs", folder_.path().c_str(), "tmpfs", flags, size.c_str()) == 0 ? 0 : errno;
  }
  TestFolder folder_;
  int error_ = 0;
};

TEST(FullDisk, LosesNoRecordThatWasReportedAndTheSweepGoesOnWithRoom) {
  SmallDisk disk(64);
  if (disk.error() != 0) GTEST_SKIP() << "no file system can be mounted here: " << std::strerror(disk.error());
  const std::vector<std::string> cells{"run", "--model-id", kTiny, "-n",  "2,3",   "--device",  "reference",
                                       "-r",  "1",          "-o",  "csv", "--out", disk / "out"};
  const Result full = run(cells);
  EXPECT_EQ(full.code, exit_code(ErrorKind::disk)) << full.err;
  EXPECT_THAT(full.err, testing::AllOf(HasSubstr("No space left on device"), HasSubstr("its record is lost")));
  // What was said to be measured is there, and whole.
  size_t said = 0;
  std::istringstream lines(full.err);
  for (std::string line; std::getline(lines, line);) said += line.find(" t/s, ") != std::string::npos;
  const auto there = records_in(disk / "out", {"group.pending"});
  EXPECT_GE(there.size(), said);
  EXPECT_LT(there.size(), 6u) << "the disk is too large to show anything";
  for (const json& record : there) expect_well_formed(record);
  disk.grow(4096);
  auto more = cells;
  more.push_back("--resume");
  const Result rest = run(more);
  EXPECT_EQ(rest.code, 0) << rest.err;
  EXPECT_THAT(records_in(disk / "out"), testing::SizeIs(6));
}

TEST(FullDisk, LeavesNoHalfCheckpointOrPage) {
  SmallDisk disk(64);
  if (disk.error() != 0) GTEST_SKIP() << "no file system can be mounted here: " << std::strerror(disk.error());
  const Result checkpoint = run({"quantize", "--model-id", kTiny, "--out", disk / "q"});
  EXPECT_EQ(checkpoint.code, exit_code(ErrorKind::disk)) << checkpoint.err;
  EXPECT_THAT(checkpoint.err, HasSubstr("No space left on device"));
  const TestFolder records;
  ASSERT_EQ(run({"run", "--model-id", kTiny, "-n", "2", "--device", "reference", "-r", "1", "--out", records / "in",
                 "-o", "csv"})
                .code,
            0);
  const Result page = run({"report", records / "in", "--out", disk / "page.html"});
  EXPECT_EQ(page.code, exit_code(ErrorKind::disk)) << page.err;
  EXPECT_THAT(os::list_directory(disk / "."), testing::IsEmpty());
}

}  // namespace
}  // namespace quantbench
