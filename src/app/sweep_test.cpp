// A sweep as a whole: several devices, a folder that a killed program leaves behind, and going on with it.
#include <signal.h>

#include <random>

#include "app/program_under_test.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

// Two tests in three precisions, one run each: six cells in two groups.
std::vector<std::string> small_sweep(const std::string& out, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments{"run", "--model-id", kTiny,   "-n", "2,3", "--device", "reference",
                                     "-r",  "1",          "--out", out,  "-o",  "jsonl"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}
constexpr size_t kSmallSweepRows = 6;

std::map<std::string, std::string> files_in(const std::string& folder) {
  std::map<std::string, std::string> files;
  if (!os::exists(folder)) return files;
  for (const std::string& name : os::list_directory(folder)) {
    if (name.ends_with(".json")) files[name] = os::read_file(folder + "/" + name, 1 << 24);
  }
  return files;
}

std::vector<size_t> rows_of(const std::vector<json>& records) {
  std::vector<size_t> rows;
  for (const json& record : records) rows.push_back(record["sweep"]["row"]);
  std::sort(rows.begin(), rows.end());
  return rows;
}

TEST(Devices, EachOfAListMeasuresEveryCell) {
  const TestFolder folder;
  const Result r = run({"run", "--model-id", kTiny, "--pg", "2,3", "--device", "reference,cpu", "-r", "1", "--out",
                        folder / "out", "-o", "jsonl"});
  ASSERT_EQ(r.code, 0) << r.err;
  const auto records = lines_of(r.out);
  std::vector<std::string> devices;
  for (const json& record : records) {
    expect_well_formed(record);
    devices.push_back(record["devices"][0]["id"]);
  }
  EXPECT_THAT(devices, ElementsAre("reference", "reference", "reference", "cpu", "cpu", "cpu"));
  EXPECT_TRUE(records[0]["runs"][0]["read_before_bytes_per_second"].is_null());
  EXPECT_GT(records[3]["runs"][0]["read_before_bytes_per_second"], 0) << "of the probe of its own device";
  EXPECT_THAT(rows_of(records_in(folder / "out")), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(r.err, AllOf(HasSubstr("on reference (1 of 2)"), HasSubstr("on cpu (2 of 2)")));
}

TEST(Devices, OneThatIsNamedTwiceOrCannotBeUsedIsRefusedBeforeAnythingIsMeasured) {
  const TestFolder folder;
  const auto with = [&](const std::string& devices) {
    return run({"run", "--model-id", kTiny, "--pg", "2,3", "--out", folder / "out", "--device", devices},
               "CUDA_VISIBLE_DEVICES=''; export CUDA_VISIBLE_DEVICES;");
  };
  EXPECT_THAT(with("cpu,cpu").err, HasSubstr("--device: cpu is named twice"));
  EXPECT_THAT(with("cpu,auto").err, HasSubstr("two of cpu,auto are the same device, cpu; name it once"));
  EXPECT_THAT(with("cpu,,").err, HasSubstr("empty part"));
  const Result r = with("cpu,cuda:0");
  EXPECT_EQ(r.code, exit_code(ErrorKind::device));
  EXPECT_THAT(r.err, Not(HasSubstr("measuring")));
  EXPECT_FALSE(os::exists(folder / "out"));
}

TEST(Resume, LeavesWhatIsFinishedAndPrintsItWithTheRest) {
  const TestFolder folder;
  const Result first = run(small_sweep(folder / "out"));
  ASSERT_EQ(first.code, 0) << first.err;
  const auto before = files_in(folder / "out");
  ASSERT_THAT(before, SizeIs(kSmallSweepRows));
  const Result again = run(small_sweep(folder / "out", {"--resume"}));
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.out, first.out);
  EXPECT_THAT(again.err, AllOf(HasSubstr("of 6 cells 6 are finished"), Not(HasSubstr("measuring"))));
  EXPECT_EQ(files_in(folder / "out"), before);
}

TEST(Resume, MeasuresWhatFailedWasInterruptedOrIsMissing) {
  const TestFolder folder;
  ASSERT_EQ(run(small_sweep(folder / "out")).code, 0);
  const auto before = files_in(folder / "out");
  // As SIGKILL, Ctrl-C and a dead worker leave them.
  std::filesystem::remove(folder / "out/llama-gqa_fp16_tg2.json");
  for (const auto& [name, status] :
       {std::pair{"llama-gqa_int8_tg3", "interrupted"}, {"llama-gqa_4bit_tg3", "failed"}}) {
    const std::string file = std::string("out/") + name + ".json";
    json record = read_json_file(folder / file);
    record["outcome"]["status"] = status;
    folder.write(file, record.dump());
  }
  folder.write("out/llama-gqa_fp16_tg2.json.123.0.tmp", "{\"half\": ");
  folder.write("out/notes.json", "{}");
  const Result r = run(small_sweep(folder / "out", {"--resume"}));
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.err, AllOf(HasSubstr("of 6 cells 3 are finished and not measured again; 2 that failed or were "
                                     "interrupted begin anew"),
                           HasSubstr("notes.json is no whole record of this sweep and is left as it is"),
                           HasSubstr("tg2: fp16 (1 of 2)"), HasSubstr("tg3: int8 4bit (2 of 2)")));
  std::filesystem::remove(folder / "out/notes.json");
  const auto after = files_in(folder / "out");
  ASSERT_THAT(after, SizeIs(kSmallSweepRows));
  for (const auto& [name, text] : after) {
    const bool anew =
        name.find("fp16_tg2") != name.npos || name.find("int8_tg3") != name.npos || name.find("4bit_tg3") != name.npos;
    EXPECT_EQ(before.at(name) != text, anew) << name;
    const json record = json::parse(text);
    EXPECT_EQ(record["outcome"]["status"], "ok");
    EXPECT_EQ(record["sweep"]["resumed"], anew);
  }
  const json fp16 = json::parse(after.at("llama-gqa_fp16_tg2.json"));
  EXPECT_EQ(fp16["sweep"]["blocks_of"], json({"fp16"}));
  EXPECT_EQ(json::parse(after.at("llama-gqa_int8_tg2.json"))["sweep"]["blocks_of"], json({"fp16", "int8", "4bit"}));
  EXPECT_FALSE(os::exists(folder / "out/llama-gqa_fp16_tg2.json.123.0.tmp"));
}

TEST(Resume, WritesOutAGroupWhoseRecordsWereOnTheirWay) {
  const TestFolder folder;
  ASSERT_EQ(run(small_sweep(folder / "out")).code, 0);
  const auto before = files_in(folder / "out");
  json pending = json::array();
  for (const auto& [name, text] : before) {
    if (name.find("tg3") == name.npos) continue;
    pending.push_back(json::parse(text));
    if (name.find("int8") == name.npos) std::filesystem::remove(folder / ("out/" + name));
  }
  folder.write("out/group.pending", pending.dump());
  const Result r = run(small_sweep(folder / "out", {"--resume"}));
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.err, AllOf(HasSubstr("3 records had been measured and not written yet"), Not(HasSubstr("measuring"))));
  EXPECT_FALSE(os::exists(folder / "out/group.pending"));
  const auto after = files_in(folder / "out");
  ASSERT_THAT(after, SizeIs(kSmallSweepRows));
  for (const auto& [name, text] : after) EXPECT_EQ(json::parse(text), json::parse(before.at(name))) << name;
}

TEST(Resume, RefusesAnotherPlanWithWhatDiffersAndAFolderWithRecordsWithoutBeingAsked) {
  const TestFolder folder;
  ASSERT_EQ(run(small_sweep(folder / "out")).code, 0);
  const auto before = files_in(folder / "out");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{}, "has the records of a sweep already; give --resume"},
      {{"--resume", "--seed", "7"}, "options/seed was 42 and is 7"},
      {{"--resume", "-r", "2"}, "is given 2 times"},
      {{"--resume", "--precision", "fp16,int8"}, "rows/2/precision was \"4bit\" and is \"fp16\""},
      {{"--resume", "-b", "2"}, "rows/0/test was \"tg2\" and is \"tg2 b2\""},
      {{"--resume", "--threads", "1"}, "rows/0/threads was 0 and is 1"}};
  for (const auto& [more, expected] : cases) {
    const Result r = run(small_sweep(folder / "out", more));
    EXPECT_EQ(r.code, exit_code(ErrorKind::usage)) << expected;
    EXPECT_THAT(r.err, HasSubstr(expected));
  }
  json plan = read_json_file(folder / "out/sweep.plan");
  plan["program"]["git_commit"] = "another";
  folder.write("out/sweep.plan", plan.dump());
  EXPECT_THAT(run(small_sweep(folder / "out", {"--resume"})).err,
              HasSubstr("program/git_commit was \"another\" and is"));
  folder.write("out/sweep.plan", "{");
  EXPECT_THAT(run(small_sweep(folder / "out", {"--resume"})).err, HasSubstr("is no plan of a sweep"));
  std::filesystem::remove(folder / "out/sweep.plan");
  EXPECT_THAT(run(small_sweep(folder / "out", {"--resume"})).err, HasSubstr("no plan that tells what they are of"));
  EXPECT_EQ(files_in(folder / "out"), before);
  EXPECT_THAT(run({"run", "--resume"}).err, HasSubstr("--resume goes on with the sweep in a folder; give --out DIR"));
}

TEST(Resume, OfNothingYetBegins) {
  const TestFolder folder;
  const Result r = run(small_sweep(folder / "out", {"--resume"}));
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.err, HasSubstr("has no sweep yet; this one begins"));
  EXPECT_THAT(records_in(folder / "out"), SizeIs(kSmallSweepRows));
}

TEST(Resume, TwoProcessesAreNotAtOneFolder) {
  const TestFolder folder;
  Program program(long_run(folder / "out", "100000"));
  ASSERT_TRUE(program.wait_for("measuring")) << program.errors();
  auto same = long_run(folder / "out", "100000");
  same.push_back("--resume");
  EXPECT_THAT(run(same).err, HasSubstr("another process is writing into this folder"));
  ::kill(program.pid(), SIGINT);
  EXPECT_EQ(program.finish().code, exit_code(ErrorKind::interrupted));
}

// SIGKILL at many moments, then --resume, until the sweep is through: nothing half-written, nothing lost that had been
// written, no cell twice. QUANTBENCH_TEST_KILLS and QUANTBENCH_TEST_SEED make more of it, and other moments.
TEST(Resume, AfterSigkillAtAnyMomentNoCellIsLostOrMeasuredTwice) {
  const int kills = std::stoi(os::environment("QUANTBENCH_TEST_KILLS").value_or("30"));
  const unsigned long seed = std::stoul(os::environment("QUANTBENCH_TEST_SEED").value_or("1"));
  std::mt19937_64 random(seed);
  JsonSchema schema(read_json_file(QB_SOURCE_DIR "/docs/record.schema.json"));
  const TestFolder folder;
  const int64_t start_ns = os::steady_now_ns();
  ASSERT_EQ(run(small_sweep(folder / "whole")).code, 0);
  const int64_t whole_ns = os::steady_now_ns() - start_ns;

  int killed = 0, finished = 0, killed_while_writing = 0, kept = 0;
  while (killed < kills) {
    const std::string out = folder / ("out" + std::to_string(finished));
    std::map<std::string, std::string> before;
    while (true) {
      SCOPED_TRACE(fmt::format("seed {}, kill {}", seed, killed));
      Program program(small_sweep(out, {"--resume"}));
      // Every third waits for the moment at which a group's records are written.
      const bool at_writing = killed % 3 == 2;
      const auto delay_ns = static_cast<int64_t>(random() % static_cast<uint64_t>(whole_ns));
      const int64_t begun_ns = os::steady_now_ns();
      while (os::steady_now_ns() - begun_ns < (at_writing ? 4 * whole_ns : delay_ns)) {
        if (!at_writing) ::usleep(200);
        if (at_writing && os::exists(out + "/group.pending")) {
          ::usleep(static_cast<useconds_t>(random() % 1500));
          break;
        }
      }
      ::kill(program.pid(), SIGKILL);
      const Result r = program.finish();
      const bool ended = r.code >= 0;  // by itself, before it was killed
      const auto after = files_in(out);
      for (const auto& [name, text] : after) {
        const json record = json::parse(text, nullptr, false);
        ASSERT_FALSE(record.is_discarded()) << name;
        ASSERT_THAT(schema.check(record), IsEmpty()) << name;
      }
      for (const auto& [name, text] : before) {
        ASSERT_EQ(after.count(name), 1u) << name << " is lost";
        ASSERT_EQ(after.at(name), text) << name << " was measured again";
      }
      kept += static_cast<int>(before.size());
      before = after;
      if (ended) {
        ASSERT_EQ(r.code, 0) << r.err;
        break;
      }
      ++killed;
      if (os::exists(out + "/group.pending")) ++killed_while_writing;
    }
    const auto records = records_in(out);
    EXPECT_THAT(rows_of(records), ElementsAre(0, 1, 2, 3, 4, 5));
    for (const json& record : records) {
      EXPECT_EQ(record["outcome"]["status"], "ok");
      EXPECT_EQ(record["sweep"]["blocks_of"], json({"fp16", "int8", "4bit"})) << "written all together or not at all";
    }
    EXPECT_THAT(before, SizeIs(kSmallSweepRows));
    ++finished;
  }
  RecordProperty("killed", killed);
  RecordProperty("killed_while_writing", killed_while_writing);
  EXPECT_GT(kept, 0) << "no record was there before a kill: the moments are all too early to show anything";
  std::printf("%d kills, %d of them while records were written, %d sweeps finished, %d records seen to stay\n", killed,
              killed_while_writing, finished, kept);
}

}  // namespace
}  // namespace quantbench
