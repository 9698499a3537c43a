// A sweep as a whole: several devices, a folder that a killed program leaves behind, and going on with it.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>

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
// Prints little: what is killed is not read before, and a pipe holds 64 KiB.
std::vector<std::string> small_sweep(const std::string& out, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments{"run", "--model-id", kTiny,   "-n", "2,3", "--device", "reference",
                                     "-r",  "1",          "--out", out,  "-o",  "csv"};
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
  // Both are the same CPU by name; what is compared is of one device.
  const Result report = run({"report", folder / "out", "-o", "md"});
  EXPECT_THAT(report.out, AllOf(HasSubstr(" (reference) |"), HasSubstr("0 of 3 cells can be compared")));
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

TEST(DryRun, PrintsMemoryByUseAndTimeInEveryFormatAndMeasuresNothing) {
  const TestFolder folder;
  const auto dry = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"run",   "--model-id", kTiny,          "-n", "64", "-d",
                                       "0,100", "--out",      folder / "out", "-r", "5",  "--dry-run"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    Result r = run(arguments);
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_THAT(r.err, Not(HasSubstr("loading")));
    return r;
  };
  const json document = json::parse(dry({"--device", "cpu", "-o", "json"}).out);
  EXPECT_EQ(document["schema"], "quantbench.dry_run");
  EXPECT_THAT(std::string(document["basis"]), HasSubstr("Predicted, not measured"));
  ASSERT_THAT(document["cells"], SizeIs(6));
  for (const json& cell : document["cells"]) {
    EXPECT_EQ(cell["fits"], "together");
    const json& memory = cell["memory_bytes"];
    int64_t sum = 0;
    for (const auto& [use, bytes] : memory.items()) sum += use == "total" ? 0 : bytes.get<int64_t>();
    EXPECT_EQ(memory["total"], sum);
    EXPECT_GT(memory["weights"], 0);
    EXPECT_GT(memory["kv_cache"], 0);
    EXPECT_EQ(cell["generations"], json({{"low", 1 + 3 + 5}, {"high", 1 + 10 + 5}}));
    EXPECT_GT(cell["time_ns"]["low"], 0);
    EXPECT_GE(cell["time_ns"]["high"], cell["time_ns"]["low"]);
  }
  EXPECT_GT(document["cells"][3]["memory_bytes"]["kv_cache"], document["cells"][0]["memory_bytes"]["kv_cache"]);
  EXPECT_GT(document["cells"][3]["generation_bytes"], document["cells"][0]["generation_bytes"]);
  EXPECT_GT(document["cells"][0]["generation_bytes"], document["cells"][1]["generation_bytes"]) << "fp16, int8";
  EXPECT_FALSE(os::exists(folder / "out"));

  const Result table = dry({"--device", "reference"});
  EXPECT_THAT(table.out, AllOf(HasSubstr("kv_cache"), HasSubstr("together"), HasSubstr("tg64 @ d100"),
                               HasSubstr("6 cells, no time predicted"), HasSubstr("Predicted, not measured")));
  EXPECT_THAT(dry({"--device", "cpu", "--no-probe", "-o", "md"}).out,
              AllOf(HasSubstr("| n/a"), HasSubstr("| together")));
  const std::string csv = dry({"--device", "reference", "-o", "csv"}).out;
  std::istringstream lines(csv);
  int rows = 0;
  for (std::string line; std::getline(lines, line); ++rows) EXPECT_EQ(std::count(line.begin(), line.end(), ','), 21);
  EXPECT_EQ(rows, 7);
  EXPECT_THAT(lines_of(dry({"--device", "reference", "-o", "jsonl"}).out), SizeIs(6));
}

TEST(DryRun, PredictsTheMemoryAndBytesThatTheRecordThenHas) {
  const TestFolder folder;
  const std::vector<std::string> cells{"run",      "--model-id", kTiny, "-n", "4",  "-d",   "0,100",
                                       "--device", "reference",  "-r",  "1",  "-o", "jsonl"};
  auto dry = cells, wet = cells;
  dry.push_back("--dry-run");
  wet.insert(wet.end(), {"--out", folder / "out"});
  const auto predicted = lines_of(run(dry).out), measured = lines_of(run(wet).out);
  ASSERT_THAT(measured, SizeIs(6));
  ASSERT_THAT(predicted, SizeIs(6));
  for (size_t i = 0; i < measured.size(); ++i) {
    const json& ledger = measured[i]["memory"][0]["end_ledger"];
    for (const char* use : {"weights", "scales", "unquantized", "kv_cache", "activations", "workspace", "tables"}) {
      EXPECT_EQ(predicted[i]["memory_bytes"][use], ledger[use]) << use;
    }
    // A prompt of one token, then three steps.
    const double step_bytes = measured[i]["cost"]["bytes_per_step"];
    const double prompt_bytes = measured[i]["cost"]["token_weight_bytes"];
    EXPECT_EQ(predicted[i]["generation_bytes"], std::floor(prompt_bytes + 3 * step_bytes));
  }
}

TEST(DryRun, CountsTheTimeOfEnergyAndOfExplaining) {
  const auto dry = [](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"run",      "--model-id", "no-such-folder/x," + kTiny,
                                       "-p",       "4",          "-n",
                                       "4",        "-r",         "1",
                                       "--device", "cpu",        "--precision",
                                       "fp16",     "--dry-run",  "-o",
                                       "json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  };
  const auto least_s = [](const Result& r) {
    std::vector<double> seconds;
    const json document = json::parse(r.out);
    for (const json& cell : document["cells"]) {
      if (cell["error"].is_null()) seconds.push_back(cell["time_ns"]["low"].get<double>() * 1e-9);
    }
    return seconds;
  };
  const auto plain = least_s(dry({})), explained = least_s(dry({"--explain"}));
  ASSERT_THAT(plain, SizeIs(2)) << "of the model that is there, though the first is not";
  ASSERT_THAT(explained, SizeIs(2));
  EXPECT_GT(plain[0], 0);
  // A visit to the probe takes some tenths of a second, of the busiest machine less than these.
  EXPECT_GE(explained[1], 1) << "tg4";
  const Result energy = dry({"--energy"});
  const auto with_energy = least_s(energy);
  ASSERT_THAT(with_energy, SizeIs(2));
  if (energy.err.find("energy will not be measured: ") == std::string::npos) {  // RAPL can be read
    EXPECT_GE(with_energy[0], 2 + 5 + 5) << "the idle device before it";
    EXPECT_GE(with_energy[1], 5);
  } else {
    EXPECT_LT(with_energy[0], 5);
  }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which take memory of their own
TEST(DryRun, PredictsWhatARunOfTheBundledModelTakesWithinATenth) {
  const TestFolder folder;
  std::vector<std::string> dry{"run", "--pg", "8,8", "-r", "1", "--device", "cpu", "-o", "jsonl"}, wet = dry;
  dry.insert(dry.end(), {"--dry-run", "--no-probe"});
  wet.insert(wet.end(), {"--out", folder / "out"});
  const auto predicted = lines_of(run(dry).out), measured = lines_of(run(wet).out);
  ASSERT_THAT(predicted, SizeIs(3));
  ASSERT_THAT(measured, SizeIs(3));
  for (size_t i = 0; i < measured.size(); ++i) {
    const double taken = measured[i]["memory"][0]["peak_bytes"], total = predicted[i]["memory_bytes"]["total"];
    EXPECT_LE(taken, 1.1 * total) << measured[i]["cell"]["precision"];  // 1.1: what docs/security.md promises
    EXPECT_GT(taken, 0.5 * total) << "another thing is counted than was predicted";
  }
}
#endif

TEST(DryRun, ShowsWhatWouldFailAndEndsWithItsCode) {
  const TestFolder folder;
  // Keys and values of four million positions, 128 KB each, are half a terabyte.
  json config = read_json_file(kTiny + "/config.json");
  config["max_position_embeddings"] = 4'100'000;
  config["num_hidden_layers"] = 16;
  config["num_attention_heads"] = config["num_key_value_heads"] = 16;
  config["head_dim"] = 128;
  folder.write("config.json", config.dump());
  const Result r = run({"run", "--model-id", folder.path(), "--random-weights", "-n", "8", "-d", "0,4000000",
                        "--precision", "fp16", "--device", "reference", "--dry-run", "-o", "jsonl"});
  EXPECT_EQ(r.code, exit_code(ErrorKind::out_of_memory)) << r.err;
  EXPECT_THAT(r.err, HasSubstr("1 of 2 cells would fail"));
  const auto cells = lines_of(r.out);
  ASSERT_THAT(cells, SizeIs(2));
  EXPECT_EQ(cells[0]["fits"], "together");
  EXPECT_EQ(cells[1]["fits"], "does not fit");
  EXPECT_GT(cells[1]["memory_bytes"]["total"], cells[1]["available_bytes"]);
  EXPECT_TRUE(cells[1]["time_ns"].is_null());
  EXPECT_THAT(run({"run", "--no-probe"}).err, HasSubstr("--no-probe leaves the read rate out of a --dry-run"));
  EXPECT_THAT(run({"run", "--dry-run", "--resume"}).err, HasSubstr("leave --resume out"));
}

// On a terminal the line rewrites itself and says what is left; elsewhere there are plain lines alone.
TEST(Progress, SaysOnATerminalWhatIsLeft) {
  const TestFolder folder;
  const std::vector<std::string> arguments{"run",        "--model-id", kTiny,   "--pg",        "4,100",
                                           "--device",   "reference",  "-r",    "4",           "--out",
                                           folder / "a", "-o",         "jsonl", "--precision", "fp16"};
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(terminal, 0);
  ASSERT_EQ(::grantpt(terminal), 0);
  ASSERT_EQ(::unlockpt(terminal), 0);
  TestedProgram program(arguments, "", std::string("2> ") + ::ptsname(terminal));
  std::string seen;
  char piece[4096];
  for (ssize_t got; (got = ::read(terminal, piece, sizeof piece)) > 0;) seen.append(piece, static_cast<size_t>(got));
  ::close(terminal);  // the last reader of the other end has gone: EIO
  EXPECT_EQ(program.finish().code, 0) << seen;
  EXPECT_THAT(seen, AllOf(HasSubstr("\r\x1B[Kblock "), HasSubstr(" of 4, "), HasSubstr(" s left: ")));
  EXPECT_TRUE(seen.ends_with("\n")) << "the line that rewrites itself is taken away";

  auto plain = arguments;
  plain[10] = folder / "b";
  const Result r = run(plain);
  EXPECT_EQ(r.code, 0);
  EXPECT_THAT(r.err, AllOf(HasSubstr("measuring"), Not(HasSubstr("\r")), Not(HasSubstr("\x1B"))));
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
  folder.write("out/sweep.plan", std::string(3'000'000, '[') + std::string(3'000'000, ']'));
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
  TestedProgram program(long_run(folder / "out", "100000"));
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

  int attempts = 0, killed = 0, finished = 0, killed_while_writing = 0, kept = 0;
  while (killed < kills) {
    ASSERT_LT(attempts, 10 * kills + 100) << "it ends before it can be killed";
    const std::string out = folder / ("out" + std::to_string(finished));
    std::map<std::string, std::string> before;
    while (true) {
      SCOPED_TRACE(fmt::format("seed {}, kill {}", seed, killed));
      TestedProgram program(small_sweep(out, {"--resume"}));
      // Every third waits for the moment at which a group's records are written.
      const bool at_writing = ++attempts % 3 == 0;
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
