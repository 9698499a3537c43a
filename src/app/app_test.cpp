// The program as people use it: every test starts it as a process and reads what it prints and leaves behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include "core/json.h"
#include "core/os.h"
#include "testing/test_folder.h"
#include "testing/test_json_schema.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::AnyOf;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

constexpr int64_t kPatience_ns = 120'000'000'000;  // a slow machine, with sanitizers
const std::string kTiny = QB_SOURCE_DIR "/testdata/models/llama-gqa";
const std::string kTokenizers = QB_SOURCE_DIR "/testdata/tokenizers";

struct Result {
  int code = -1;
  std::string out, err;
};

// The program in a shell, so that its standard error goes to a file; the shell becomes the program (exec).
class Program {
 public:
  Program(const std::vector<std::string>& arguments, const std::string& before = "", const std::string& after = "")
      : process_("/bin/sh", shell_arguments(before, after, folder_ / "stderr", arguments)) {}

  std::string errors() const { return os::read_small_file(folder_ / "stderr").value_or(""); }
  pid_t pid() const { return process_.pid(); }
  Result finish() {
    Result result;
    std::string line;
    while (process_.read_line(&line, kPatience_ns) == os::Process::Got::line) result.out += line + "\n";
    result.code = process_.wait().code;
    result.err = errors();
    return result;
  }
  // Until the text stands in its standard error.
  bool wait_for(const std::string& text) {
    for (int64_t end = os::steady_now_ns() + kPatience_ns; os::steady_now_ns() < end;) {
      if (errors().find(text) != std::string::npos) return true;
      std::string line;
      if (process_.read_line(&line, 20'000'000) == os::Process::Got::end) return false;
    }
    return false;
  }

 private:
  static std::vector<std::string> shell_arguments(const std::string& before, const std::string& after,
                                                  const std::string& errors,
                                                  const std::vector<std::string>& arguments) {
    std::vector<std::string> all{"-c", before + " exec \"$@\" 2> '" + errors + "' " + after, "sh", QB_PROGRAM};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return all;
  }
  TestFolder folder_;
  os::Process process_;
};

Result run(const std::vector<std::string>& arguments, const std::string& before = "", const std::string& after = "") {
  return Program(arguments, before, after).finish();
}

// A quick sweep of the tiny checkpoint: no tokenizer there, so ids. The reference backend spares the test the bandwidth
// probe, which reads gigabytes.
std::vector<std::string> tiny_run(const std::string& out, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments{"run",       "--model-id", kTiny, "--pg",  "4,8", "--device",
                                     "reference", "-r",         "2",   "--out", out};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}
// One of that many runs, with the bandwidth probe in between.
std::vector<std::string> long_run(const std::string& out, const std::string& runs) {
  return {"run", "--model-id", kTiny, "--pg", "4,200", "--device", "cpu", "--out", out, "-r", runs, "-o", "jsonl"};
}

std::vector<json> lines_of(const std::string& text) {
  std::vector<json> records;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) records.push_back(json::parse(line));
  return records;
}

std::vector<json> records_in(const std::string& folder) {
  std::vector<json> records;
  for (const std::string& name : os::list_directory(folder)) {
    EXPECT_TRUE(name.ends_with(".json")) << name;
    records.push_back(read_json_file(folder + "/" + name));
  }
  return records;
}

void expect_well_formed(const json& record) {
  JsonSchema schema(read_json_file(QB_SOURCE_DIR "/docs/record.schema.json"));
  EXPECT_THAT(schema.check(record), IsEmpty());
}

TEST(Run, MeasuresTheBundledModelInEveryPrecision) {
  const TestFolder folder;
  const Result r = run({"run", "--max-new-tokens", "8", "-r", "6", "--out", folder / "out", "-o", "jsonl"});
  ASSERT_EQ(r.code, 0) << r.err;
  const auto records = lines_of(r.out);
  ASSERT_THAT(records, SizeIs(3));
  std::set<std::string> precisions;
  for (const json& record : records) {
    expect_well_formed(record);
    precisions.insert(record["cell"]["precision"]);
    EXPECT_EQ(record["outcome"]["status"], "ok");
    EXPECT_NE(record["outcome"]["stamp"], "INVALID") << record["outcome"];
    EXPECT_EQ(record["runs"].size(), 6u);
    EXPECT_EQ(record["response"]["ids"].size(), 8u);
    EXPECT_FALSE(record["response"]["text"].get<std::string>().empty());
    EXPECT_EQ(record["prompt"]["ids"], records[0]["prompt"]["ids"]) << "identical across precisions";
    EXPECT_EQ(record["devices"].size(), 1u);
    EXPECT_EQ(record["cell"]["placement"].size(), 1u);

    const json& memory = record["memory"][0];
    for (const std::string when : {"start", "load_peak", "run_peak", "end"}) {
      int64_t sum = 0;
      for (const auto& [use, bytes] : memory[when + "_ledger"].items()) sum += bytes.get<int64_t>();
      EXPECT_EQ(sum, memory[when + "_bytes"]) << when << ": the ledger adds up";
    }
    // Seen: 1 to 3 MB, of code that ran and the allocator. Sanitizers keep shadow memory there.
    if (record["build"]["sanitizers"] == "") {
      EXPECT_LT(std::abs(memory["end_ledger"]["other"].get<int64_t>()), 6 << 20) << memory;
    }
    EXPECT_EQ(record["load"]["resident"]["weights"], memory["predicted"]["weights"]);
  }
  EXPECT_THAT(precisions, testing::ElementsAre("4bit", "fp16", "int8"));
  // What Hugging Face's tokenizer gives: the first token of a text, then the prompt's.
  constexpr int kBeginOfText = 4094;
  EXPECT_EQ(records[0]["prompt"]["ids"].size(), 14u);
  EXPECT_EQ(records[0]["prompt"]["ids"][0], kBeginOfText);
  EXPECT_THAT(records_in(folder / "out"), SizeIs(3));
  for (const json& record : records_in(folder / "out"))
    EXPECT_THAT(records, Contains(record)) << "file and output agree";
}

TEST(Run, PrintsTableResponsesVerdictAndWhereTheRecordsAre) {
  const TestFolder folder;
  const Result r = run({"run", "--max-new-tokens", "8", "-r", "6", "--out", folder / "out"});
  ASSERT_EQ(r.code, 0) << r.err;
  for (const char* text : {"precision", "t/s", "TTFT", "inter-token p50", "mem peak", "in cache", "fp16", "int8",
                           "4bit", "Responses", "Verdict", "fastest: ", "smallest: 4bit", "3 records in "}) {
    EXPECT_THAT(r.out, HasSubstr(text));
  }
  EXPECT_THAT(r.err, HasSubstr("measuring bundled"));
  EXPECT_THAT(r.err, Not(HasSubstr("\r"))) << "no progress line where there is no terminal";
}

TEST(Run, EveryFormatParses) {
  const TestFolder folder;
  const Result full = run(tiny_run(folder / "json", {"-o", "json"}));
  ASSERT_EQ(full.code, 0) << full.err;
  EXPECT_THAT(json::parse(full.out), SizeIs(3));

  const Result predecessor = run(tiny_run(folder / "csv", {"-o", "csv", "--schema", "predecessor"}));
  ASSERT_EQ(predecessor.code, 0) << predecessor.err;
  std::istringstream csv(predecessor.out);
  std::string line;
  std::getline(csv, line);
  EXPECT_EQ(line, "precision,latency_sec,tokens_per_sec,peak_mem_gb,error");
  for (const char* precision : {"fp16", "int8", "4bit"}) {
    double latency = 0, rate = 0, memory = 0;
    ASSERT_TRUE(std::getline(csv, line));
    const std::string form = std::string(precision) + ",%lf,%lf,%lf,";
    ASSERT_EQ(std::sscanf(line.c_str(), form.c_str(), &latency, &rate, &memory), 3) << line;
    EXPECT_NEAR(rate, 8 / latency, 0.5 * rate) << "medians of two runs";
    EXPECT_GT(memory, 0.001);
  }
  const Result markdown = run(tiny_run(folder / "md", {"-o", "md"}));
  EXPECT_THAT(markdown.out,
              AllOf(HasSubstr("| model | precision |"), HasSubstr("|---|---|---:|"), HasSubstr("no tokenizer; ids")));
}

TEST(Run, LlamaBenchsHabitsMakeRowsOfTheirOwn) {
  const TestFolder folder;
  const Result r = run({"run", "--model-id", kTiny, "--precision", "fp16", "-p", "4,16", "-n", "5", "-pg", "3,2",
                        "--device", "reference", "-r", "2", "--out", folder / "out", "-o", "jsonl"});
  ASSERT_EQ(r.code, 0) << r.err;
  std::vector<std::string> tests;
  for (const json& record : lines_of(r.out)) tests.push_back(record["cell"]["test"]);
  EXPECT_THAT(tests, testing::ElementsAre("pp4", "pp16", "tg5", "p3+n2"));
  const Result more = run({"run",       "--model-id", kTiny, "--precision", "fp16",          "-p",  "4",    "-p",
                           "0",         "-n",         "0",   "-pg",         "3,2",           "-pg", "2,3",  "--device",
                           "reference", "-r",         "1",   "--out",       folder / "more", "-o",  "jsonl"});
  ASSERT_EQ(more.code, 0) << more.err;
  tests.clear();
  for (const json& record : lines_of(more.out)) tests.push_back(record["cell"]["test"]);
  EXPECT_THAT(tests, testing::ElementsAre("pp4", "p3+n2", "p2+n3"));
}

TEST(Run, DepthAndBatchMakeARowOfEachTest) {
  const TestFolder folder;
  const Result r =
      run({"run", "--model-id", kTiny,      "--precision", "fp16", "-p", "6",     "-n",           "4",  "-d",   "0,5",
           "-b",  "1,3",        "--device", "reference",   "-r",   "1",  "--out", folder / "out", "-o", "jsonl"});
  ASSERT_EQ(r.code, 0) << r.err;
  std::map<std::string, json> records;
  std::vector<std::string> tests;
  for (const json& record : lines_of(r.out)) {
    expect_well_formed(record);
    EXPECT_NE(record["outcome"]["stamp"], "INVALID") << record["outcome"];
    tests.push_back(record["cell"]["test"]);
    records[tests.back()] = record;
  }
  EXPECT_THAT(tests, testing::ElementsAre("pp6", "pp6 b3", "pp6 @ d5", "pp6 @ d5 b3", "tg4", "tg4 b3", "tg4 @ d5",
                                          "tg4 @ d5 b3"));
  EXPECT_THAT(records_in(folder / "out"), SizeIs(8));
  const json batch = records["tg4 @ d5 b3"], one = records["tg4 @ d5"], shallow = records["tg4"];
  EXPECT_EQ(batch["cell"]["depth"], 5);
  EXPECT_EQ(batch["cell"]["batch"], 3);
  EXPECT_EQ(batch["prompt"]["ids"].size(), 3u);
  EXPECT_NE(batch["prompt"]["ids"][1], batch["prompt"]["ids"][2]) << "each sequence its own";
  const std::vector<int32_t> ids = batch["response"]["ids"];
  ASSERT_EQ(ids.size(), 12u);
  EXPECT_EQ(std::vector<int32_t>(ids.begin(), ids.begin() + 4), one["response"]["ids"])
      << "the first is what it would be alone";
  EXPECT_NE(one["prompt"]["context_sha256"], batch["prompt"]["context_sha256"]);
  EXPECT_EQ(one["prompt"]["ids"], shallow["prompt"]["ids"]);
  const json& cost = batch["cost"];
  // 5 in the context, the prompt's one, half of 4 new ones.
  EXPECT_EQ(cost["bytes_per_step"].get<double>(),
            cost["token_weight_bytes"].get<double>() + 3 * 8 * cost["kv_position_bytes"].get<double>());
  int64_t sum = 0;
  for (const auto& [use, bytes] : batch["memory"][0]["end_ledger"].items()) sum += bytes.get<int64_t>();
  EXPECT_EQ(sum, batch["memory"][0]["end_bytes"]);
}

TEST(Run, ValuesMayStandBehindAnEqualsSignAndLookLikeFlagsInAPrompt) {
  const TestFolder folder;
  const Result r = run({"run", "--model-id", kTiny, "--precision=fp16", "-pg=3,2", "-pg4,2", "-r=1", "--device",
                        "reference", "--out", folder / "out", "-o=jsonl"});
  ASSERT_EQ(r.code, 0) << r.err;
  std::vector<std::string> tests;
  for (const json& record : lines_of(r.out)) tests.push_back(record["cell"]["test"]);
  EXPECT_THAT(tests, testing::ElementsAre("p3+n2", "p4+n2"));
  const Result prompt = run({"run", "--prompt", "-r=1", "--precision", "fp16", "--max-new-tokens", "1", "-r", "1",
                             "--device", "reference", "--out", folder / "prompt", "-o", "jsonl"});
  ASSERT_EQ(prompt.code, 0) << prompt.err;
  EXPECT_EQ(lines_of(prompt.out)[0]["prompt"]["text"], "-r=1");
}

TEST(Run, AModelThatIsRefusedIsARowAndTheOthersGoOn) {
  const TestFolder folder;
  const Result r = run({"run", "--model-id", kTiny + ",no-such/model", "--pg", "2,3", "--device", "reference", "-r",
                        "2", "--precision", "fp16,4bit", "--out", folder / "out", "-o", "jsonl"});
  EXPECT_EQ(r.code, exit_code(ErrorKind::hub)) << r.err;
  EXPECT_THAT(r.err, HasSubstr("2 of 4 cells failed, the first: no-such/model fp16 p2+n3"));
  const auto records = lines_of(r.out);
  ASSERT_THAT(records, SizeIs(4));
  for (const json& record : records) {
    expect_well_formed(record);
    const bool fine = record["cell"]["model"]["name"] == kTiny;
    if (record["cell"]["precision"] == "4bit") {
      EXPECT_EQ(record["cell"]["precision_long"], fine ? "NF4, double quantisation" : "NF4");
    }
    EXPECT_EQ(record["outcome"]["status"], fine ? "ok" : "failed");
    if (!fine) {
      EXPECT_THAT(record["outcome"]["error"].get<std::string>(), HasSubstr("was not found"));
    }
  }
  EXPECT_THAT(records_in(folder / "out"), SizeIs(4));
}

TEST(Run, APrecisionThatACheckpointIsNotStoredInIsARow) {
  const TestFolder folder;
  const Result r = run({"run", "--model-id", kTiny + "-int8", "--pg", "2,3", "--device", "reference", "-r", "2",
                        "--precision", "fp16,int8", "--out", folder / "out", "-o", "jsonl"});
  EXPECT_EQ(r.code, exit_code(ErrorKind::usage)) << r.err;
  std::map<std::string, std::string> status;
  for (const json& record : lines_of(r.out)) status[record["cell"]["precision"]] = record["outcome"]["status"];
  EXPECT_EQ(status, (std::map<std::string, std::string>{{"fp16", "failed"}, {"int8", "ok"}}));
}

TEST(Run, RandomWeightsNeedNoFileAndSayNoTokenizer) {
  const TestFolder folder;
  const std::vector<std::string> common{
      "run", "--model-id", kTiny, "--random-weights", "--device", "reference", "--outlier-channels",
      "2",   "-r",         "2",   "--max-new-tokens", "6",        "-o"};
  auto arguments = common;
  arguments.insert(arguments.end(), {"jsonl", "--out", folder / "a"});
  const Result r = run(arguments);
  ASSERT_EQ(r.code, 0) << r.err;
  const auto records = lines_of(r.out);
  ASSERT_THAT(records, SizeIs(3));
  for (const json& record : records) {
    expect_well_formed(record);
    EXPECT_EQ(record["cell"]["test"], "p8+n6");
    EXPECT_EQ(record["cell"]["model"]["weights"], "random");
    EXPECT_TRUE(record["response"]["text"].is_null());
  }
  arguments = common;
  arguments.insert(arguments.end(), {"table", "--out", folder / "b", "-p", "5"});
  const Result table = run(arguments);
  const std::string name = kTiny + " (random)";
  EXPECT_THAT(table.out, AllOf(HasSubstr("no tokenizer"), HasSubstr("p5+n6"), HasSubstr(name + " 4bit p5+n6: FLAGGED"),
                               HasSubstr(name + " 4bit:\n"), HasSubstr(name + ", p5+n6: no verdict")));
  EXPECT_THAT(table.err, AllOf(HasSubstr("measuring " + name), HasSubstr(name + " 4bit p5+n6: ")));
  // -n 0 is typed: llama-bench's rows, not the length of a generation's prompt.
  const Result rows = run({"run", "--model-id", kTiny, "--random-weights", "--device", "reference", "-r", "1", "-p",
                           "5", "-n", "0", "--precision", "fp16", "--out", folder / "c", "-o", "jsonl"});
  ASSERT_EQ(rows.code, 0) << rows.err;
  EXPECT_EQ(lines_of(rows.out)[0]["cell"]["test"], "pp5");
}

TEST(Run, ReferenceBackendRunsAndClaimsNoShareOfBandwidth) {
  const TestFolder folder;
  const Result r = run(tiny_run(folder / "out", {"-o", "jsonl"}));
  ASSERT_EQ(r.code, 0) << r.err;
  for (const json& record : lines_of(r.out)) {
    EXPECT_EQ(record["devices"][0]["backend"], "reference");
    EXPECT_FALSE(record["metrics"].contains("read_share"));
  }
}

TEST(Run, StoppingAtEndOfSequenceIsMarkedNotComparable) {
  const TestFolder folder;
  const Result r = run(tiny_run(folder / "out", {"--stop-at-eos", "--precision", "fp16"}));
  EXPECT_THAT(r.out, AllOf(HasSubstr("FLAGGED"), HasSubstr("not comparable")));
}

TEST(Run, RefusesBadFlagsInOneLine) {
  const std::vector<std::pair<std::vector<std::string>, const char*>> cases{
      {{"run", "--no-such-flag"}, "--no-such-flag"},
      {{"frobnicate"}, "frobnicate"},
      {{}, "subcommand"},
      {{"run", "--precision", "int4"}, "expected fp16, int8 (LLM.int8) or 4bit"},
      {{"run", "--precision", ""}, "--precision: the value is empty"},
      {{"run", "--max-new-tokens", "0"}, "--max-new-tokens: '0'"},
      {{"run", "--max-new-tokens", "many"}, "'many' is not a whole number"},
      {{"run", "-r", "0"}, "-r: '0'"},
      {{"run", "-p", "8,,9"}, "empty part"},
      {{"run", "-pg", "8"}, "not a pair"},
      {{"run", "--target-ci", "200%"}, "--target-ci"},
      {{"run", "-o", "xml"}, "expected table, md, csv, json or jsonl"},
      {{"run", "-o", "table", "--schema", "predecessor"}, "-o csv"},
      {{"run", "-o", "csv", "--schema", "other"}, "predecessor-full"},
      {{"run", "--device", "tpu"}, "there is no backend 'tpu'"},
      {{"run", "--device", "cuda:x"}, "'cuda:x' names no GPU"},
      {{"generate", "--device", "cuda:"}, "'cuda:' names no GPU"},
      {{"doctor", "--device", "cuda:-1"}, "'cuda:-1' names no GPU"},
      {{"run", "--engine", "fast"}, "--engine: expected auto, graph or persistent, found 'fast'"},
      {{"run", "--engine", "graph", "--device", "cpu"},
       "--engine graph: only a GPU has engines to choose from, --device cpu"},
      {{"generate", "--engine", "persistent", "--device", "reference"}, "--device reference is none"},
      {{"generate", "--engine", ""}, "--engine: the value is empty"},
      {{"run", "--outlier-channels", "2"}, "--random-weights"},
      {{"run", "--image-path", "cat.png"}, "takes text only"},
      {{"run", "--prompt", "hi", "--random-weights"}, "no tokenizer"},
      {{"run", "--prompt", "bad \xff byte"}, "offset 4"},
      {{"run", "--max-new-tokens", "5000"}, "more than the 1024 positions"},
      {{"run", "--random-weights", "--model-id", "microsoft/phi-2", "--tokenizer", kTokenizers + "/phi2", "--prompt",
        ""},
       "it is empty"},
      {{"run", "-r", "5", "--max-time", "1"}, "--max-time: -r 5 asks for exactly so many runs"},
      {{"run", "-r", "5", "--target-ci", "2%"}, "--target-ci: -r 5"},
      {{"run", "-p", "4", "--max-new-tokens", "5"}, "--max-new-tokens: the rows of -p, -n and -pg do not use it"},
      {{"run", "-p", "4", "--stop-at-eos"}, "generates nothing that could stop"},
      {{"run", "--model-id", "bundled,bundled"}, "is named twice"},
      {{"run", "--model-id", kTiny, "-p", "0"}, "nothing else is asked for"},
      {{"run", "--model-id", kTiny, "-p", "4", "-p", "8,4"}, "pp4 is asked for twice"},
      {{"run", "--threads", "4000"}, "more than the"},
      {{"run", "--target-ci", "1"}, "--target-ci: '1' is all of it; 1 % is written 1% or 0.01"},
      {{"run", "-d", "-1"}, "-d: '-1' is not a whole number from 0 to"},
      {{"run", "-d", "8,,9"}, "-d: '8,,9' has an empty part"},
      {{"run", "-b", "0"}, "-b: '0' is not a whole number from 1 to 32"},
      {{"run", "-b", "33"}, "-b: '33' is not a whole number from 1 to 32"},
      {{"run", "-b", "2", "-b", "4,2", "-n", "8"}, "tg8 b2 is asked for twice"},
      {{"run", "-d", "5,5", "-n", "8"}, "tg8 @ d5 is asked for twice"},
      {{"run", "-d", "1000", "-n", "64"},
       "1000 tokens of context, 1 prompt token and 64 new ones are more than the 1024 positions of this "
       "LlamaForCausalLM model; lower -d, or lower -n"},
      {{"run", "-d", "100000", "-p", "8"}, "lower -d, or lower -p"},
      {{"run", "-b", "2", "--stop-at-eos"}, "--stop-at-eos: the sequences of a batch would end at different steps"},
      {{"generate", "-b", "2"}, "-b"},
      {{"run", "-r=x"}, "-r: 'x' is not a whole number"},
      {{"run", "-pg=5"}, "-pg: '5' is not a pair"},
      {{"run", "-pg5,x"}, "-pg: 'x' is not a whole number"},
      {{"run", "--precision", "fp16", "--precision", "int8"}, "--precision is given 2 times; use one list with commas"},
      {{"run", "--seed", "1", "--seed", "2"}, "--seed is given 2 times; give it once"},
      {{"generate", "--model-id", "a/b,c/d"}, "'a/b,c/d' names several models, and this command takes one"},
      {{"quantize", "--model-id", "a,b", "--out", "x"}, "names several models"},
      {{"generate", "--temperature", "-1"}, "--temperature"},
      {{"generate", "--temperature", "nan"}, "--temperature: 'nan' is not a number from 0 to 100"},
      {{"generate", "--temperature", "1", "--top-k", "-1"}, "--top-k: '-1' is not a whole number from 0"},
      {{"generate", "--temperature", "1", "--top-k", "2.5"}, "--top-k: '2.5' is not a whole number"},
      {{"generate", "--temperature", "1", "--top-p", "1.5"}, "--top-p: '1.5' is not a number from 0 to 1"},
      {{"generate", "--temperature", "1", "--top-p", "90%"}, "--top-p: '90%' is not a number from 0 to 1"},
      {{"generate", "--top-k", "40"}, "--top-k chooses among several tokens, and --temperature 0"},
      {{"generate", "--top-p", "0.9"}, "--top-p chooses among several tokens"},
      {{"generate", "--ignore-eos", "--stop-at-eos"}, "--ignore-eos"},
      {{"quantize"}, "--out"},
      {{"quantize", "--out", ""}, "--out: the value is empty; it has no default: give one"},
      {{"quantize", "--precision", "fp16", "--out", "x"}, "not quantised"}};
  for (const auto& [arguments, expected] : cases) {
    const Result r = run(arguments);
    SCOPED_TRACE(r.err);
    EXPECT_EQ(r.code, exit_code(ErrorKind::usage)) << expected;
    EXPECT_THAT(r.err, AllOf(HasSubstr("quantbench: error: "), HasSubstr(expected)));
    EXPECT_EQ(r.out, "");
  }
}

// Whatever this build and machine have: with every GPU hidden, none can be used, and what was asked for by name is not
// replaced.
TEST(Device, AGpuThatIsNotThereIsRefusedByEveryCommand) {
  const TestFolder folder;
  const std::string hidden = "CUDA_VISIBLE_DEVICES=''; export CUDA_VISIBLE_DEVICES;";
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"run", "--model-id", kTiny, "--pg", "2,3", "--out", folder / "out"}, {"generate"}}) {
    for (const std::string device : {"cuda", "cuda:0"}) {
      auto arguments = command;
      arguments.insert(arguments.end(), {"--device", device});
      const Result r = run(arguments, hidden);
      EXPECT_EQ(r.code, exit_code(ErrorKind::device)) << r.err;
      EXPECT_THAT(r.err, AllOf(HasSubstr("error: --device " + device + ": "), HasSubstr("; or use --device cpu")));
    }
  }
  const Result doctor = run({"doctor", "--device", "cuda"}, hidden);
  EXPECT_EQ(doctor.code, exit_code(ErrorKind::device));
  EXPECT_THAT(doctor.out + doctor.err, HasSubstr("--device cuda: "));
}

TEST(Device, AutoGoesOnWithTheCpuWhereTheGpuIsHidden) {
  const TestFolder folder;
  const Result r = run({"run", "--model-id", kTiny, "--precision", "fp16", "--pg", "2,3", "-r", "1", "--out",
                        folder / "out", "-o", "jsonl"},
                       "CUDA_VISIBLE_DEVICES=''; export CUDA_VISIBLE_DEVICES;");
  ASSERT_EQ(r.code, 0) << r.err;
  const auto records = lines_of(r.out);
  ASSERT_THAT(records, SizeIs(1));
  EXPECT_EQ(records[0]["devices"][0]["id"], "cpu");
  EXPECT_TRUE(records[0]["devices"][0]["gpu"].is_null());
  EXPECT_EQ(records[0]["memory"][0]["counted_by"], "resident pages");
}

TEST(Device, AnEngineAskedForIsNotIgnoredWhereAutoTakesTheCpu) {
  const TestFolder folder;
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"run", "--model-id", kTiny, "--pg", "2,3", "--out", folder / "out"}, {"generate"}}) {
    auto arguments = command;
    arguments.insert(arguments.end(), {"--engine", "graph"});
    const Result r = run(arguments, "CUDA_VISIBLE_DEVICES=''; export CUDA_VISIBLE_DEVICES;");
    EXPECT_EQ(r.code, exit_code(ErrorKind::usage)) << r.err;
    EXPECT_THAT(r.err, AllOf(HasSubstr("error: --engine graph: "), HasSubstr("--device auto took cpu: ")));
    EXPECT_EQ(r.out, "");
    EXPECT_FALSE(os::exists(folder / "out")) << "no empty folder is left";
  }
}

TEST(Run, NeverCutsAPromptSilently) {
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "word ";
  const Result r = run({"run", "--prompt", text});
  EXPECT_EQ(r.code, exit_code(ErrorKind::usage));
  EXPECT_THAT(r.err, HasSubstr("nothing is ever cut silently"));
}

TEST(Run, SaysWhatIsWrongWithAModel) {
  const TestFolder folder;
  const Result missing = run({"run", "--model-id", "no-such/model-at-all"});
  EXPECT_EQ(missing.code, exit_code(ErrorKind::hub)) << missing.err;
  folder.write("config.json", "{");
  const Result bad = run({"run", "--model-id", folder.path()});
  EXPECT_EQ(bad.code, exit_code(ErrorKind::bad_model));
  EXPECT_THAT(bad.err, HasSubstr("config.json"));
}

TEST(Run, ACheckpointQuantisedAlreadyRunsAsItIsStored) {
  const TestFolder folder;
  const Result r = run({"run", "--model-id", kTiny + "-nf4-plain", "--pg", "2,3", "--device", "reference", "-r", "2",
                        "--out", folder / "out", "-o", "jsonl"});
  ASSERT_EQ(r.code, 0) << r.err;
  const auto records = lines_of(r.out);
  ASSERT_THAT(records, SizeIs(1));
  EXPECT_EQ(records[0]["cell"]["precision"], "4bit");
  EXPECT_EQ(records[0]["cell"]["precision_long"], "NF4, plain fp32 absmax");
  EXPECT_THAT(records[0]["cell"]["model"]["weight_form"].get<std::string>(), HasSubstr("plain fp32 absmax"));
}

TEST(Run, AFolderMayHaveACommaInItsName) {
  const TestFolder model, out;
  for (const std::string& name : os::list_directory(kTiny)) {
    model.write("a,b/" + name, os::read_file(kTiny + "/" + name, 1 << 24));
  }
  const Result r = run({"run", "--model-id", model / "a,b", "--precision", "fp16", "--pg", "2,3", "--device",
                        "reference", "-r", "1", "--out", out / "out", "-o", "jsonl"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(lines_of(r.out)[0]["cell"]["model"]["name"], model / "a,b");
}

TEST(Run, InterruptedInItsWarmUpItHasTheTextOfItsIds) {
  const TestFolder folder;
  // On the slow backend, so that the cold run and the warm-up take seconds.
  Program program(
      {"run", "--max-new-tokens", "60", "--precision", "fp16", "--device", "reference", "--out", folder / "out"});
  ASSERT_TRUE(program.wait_for("measuring")) << program.errors();
  const int64_t until_ns = os::steady_now_ns() + 3'000'000'000;
  while (os::steady_now_ns() < until_ns) ::usleep(50'000);
  ::kill(program.pid(), SIGINT);
  const Result r = program.finish();
  EXPECT_EQ(r.code, exit_code(ErrorKind::interrupted)) << r.err;
  EXPECT_THAT(r.out, Not(HasSubstr("no tokenizer"))) << "the bundled model has one";
}

TEST(Run, InterruptionLeavesValidRecordsAndNoChild) {
  const TestFolder folder;
  Program program(long_run(folder / "out", "100000"));
  ASSERT_TRUE(program.wait_for("measuring")) << program.errors();
  std::string line;
  const int64_t until_ns = os::steady_now_ns() + 3'000'000'000;  // into the blocks
  while (os::steady_now_ns() < until_ns) ::usleep(50'000);
  ::kill(program.pid(), SIGINT);
  ::usleep(2'000);
  ::kill(program.pid(), SIGINT);  // as timeout(1) does it: to the process, then to its group
  const Result r = program.finish();
  EXPECT_EQ(r.code, exit_code(ErrorKind::interrupted)) << r.err;
  EXPECT_THAT(r.err, HasSubstr("quantbench: error: interrupted; 3 records in"));
  const auto records = records_in(folder / "out");
  ASSERT_THAT(records, SizeIs(3));
  for (const json& record : records) {
    expect_well_formed(record);
    EXPECT_EQ(record["outcome"]["status"], "interrupted");
    EXPECT_EQ(record["outcome"]["stamp"], "INVALID");
  }
  EXPECT_THAT(lines_of(r.out), SizeIs(3)) << "what there is goes to standard output as well";
}

// The processes that `parent` started, as /proc tells.
std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  for (const std::string& name : os::list_directory("/proc")) {
    const auto stat = os::read_small_file("/proc/" + name + "/stat");
    if (!stat || name.find_first_not_of("0123456789") != std::string::npos) continue;
    int its_parent = 0;
    if (std::sscanf(stat->c_str() + stat->rfind(')') + 1, " %*c %d", &its_parent) == 1 && its_parent == parent) {
      children.push_back(static_cast<pid_t>(std::stoi(name)));
    }
  }
  return children;
}

TEST(Run, AKilledWorkerIsARecordAndTheSweepGoesOn) {
  const TestFolder folder;
  Program program(long_run(folder / "out", "20"));
  ASSERT_TRUE(program.wait_for("measuring")) << program.errors();
  // The bandwidth probe is started first, then fp16, int8, 4bit.
  std::vector<pid_t> children;
  for (int i = 0; i < 3000 && children.size() < 4; ++i) {  // a minute: a busy machine starts them late
    ::usleep(20'000);
    children = children_of(program.pid());
  }
  ASSERT_THAT(children, SizeIs(4));
  std::sort(children.begin(), children.end());
  ::kill(children[2], SIGKILL);
  const Result r = program.finish();
  EXPECT_EQ(r.code, exit_code(ErrorKind::internal)) << r.err;
  EXPECT_THAT(r.err, HasSubstr("1 of 3 cells failed"));
  std::vector<std::string> failed;
  for (const json& record : lines_of(r.out)) {
    expect_well_formed(record);
    if (record["outcome"]["status"] == "ok") {
      EXPECT_EQ(record["runs"].size(), 20u);
    } else {
      failed.push_back(record["outcome"]["error"]);
    }
  }
  EXPECT_THAT(failed, testing::ElementsAre(HasSubstr("signal 9")));
  EXPECT_THAT(records_in(folder / "out"), SizeIs(3));
}

TEST(Run, AFullDiskIsReportedAndTheTableStillPrinted) {
  const TestFolder folder;
  // No file may grow beyond 8 blocks of 512 bytes: writes fail, as on a full disk.
  const Result r = run(tiny_run(folder / "out", {"--precision", "fp16"}), "ulimit -f 8;");
  EXPECT_EQ(r.code, exit_code(ErrorKind::disk)) << r.err;
  EXPECT_THAT(r.err, AllOf(HasSubstr("its record is lost"), HasSubstr("File too large")));
  EXPECT_THAT(r.out, HasSubstr("fp16"));
  EXPECT_THAT(os::list_directory(folder / "out"), IsEmpty());
}

TEST(Run, OutputThatCannotBeWrittenIsAnError) {
  const TestFolder folder;
  const Result r = run(tiny_run(folder / "out", {"--precision", "fp16"}), "", "> /dev/full");
  EXPECT_EQ(r.code, exit_code(ErrorKind::disk)) << r.err;
  EXPECT_THAT(r.err, HasSubstr("standard output"));
}

TEST(Run, AFolderThatCannotBeMadeIsRefusedBeforeMeasuring) {
  const Result r = run(tiny_run("/proc/no/such"));
  EXPECT_EQ(r.code, exit_code(ErrorKind::disk));
  EXPECT_THAT(r.err, Not(HasSubstr("measuring")));
}

TEST(Generate, WritesTheSameTextForASeed) {
  const std::vector<std::string> greedy{"generate", "--prompt", "It was", "--max-new-tokens", "12"};
  const Result first = run(greedy), again = run(greedy);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_GT(first.out.size(), 5u);
  EXPECT_EQ(first.out, again.out);
  auto sampled = greedy;
  sampled.insert(sampled.end(), {"--temperature", "1", "--seed", "7"});
  const Result a = run(sampled), b = run(sampled);
  EXPECT_EQ(a.out, b.out);
  EXPECT_NE(a.out, first.out);
  EXPECT_THAT(first.err, HasSubstr("always the likeliest"));
  EXPECT_THAT(a.err, HasSubstr("sampled at temperature 1, seed 7"));
  auto best = sampled, cut = sampled;
  best.insert(best.end(), {"--top-k", "1"});
  cut.insert(cut.end(), {"--top-k", "30", "--top-p", "0.5"});
  EXPECT_EQ(run(best).out, first.out);
  const Result c = run(cut);
  EXPECT_THAT(c.err, HasSubstr("sampled at temperature 1, top-k 30, top-p 0.5, seed 7"));
  EXPECT_NE(c.out, first.out);
  EXPECT_NE(c.out, a.out);
}

TEST(Generate, TakesThePrecisionThatACheckpointIsStoredIn) {
  const TestFolder folder;
  ASSERT_EQ(run({"quantize", "--precision", "4bit", "--out", folder / "q4"}).code, 0);
  const Result r = run({"generate", "--model-id", folder / "q4", "--max-new-tokens", "2"});
  EXPECT_EQ(r.code, 0) << r.err;
}

TEST(Quantize, WritesACheckpointThatGivesTheSameIdsAsQuantisingOnLoad) {
  const TestFolder folder;
  for (const std::string precision : {"int8", "4bit"}) {
    const std::string quantised = folder / precision;
    const Result written = run({"quantize", "--precision", precision, "--out", quantised});
    ASSERT_EQ(written.code, 0) << written.err;
    EXPECT_THAT(written.out, HasSubstr("56 linears"));
    const std::vector<std::string> rest{"--pg", "8,16", "-r", "1", "--device", "reference", "-o", "jsonl"};
    std::vector<std::string> direct{"run", "--precision", precision, "--out", folder / (precision + "a")};
    std::vector<std::string> stored{"run", "--model-id", quantised, "--out", folder / (precision + "b")};
    direct.insert(direct.end(), rest.begin(), rest.end());
    stored.insert(stored.end(), rest.begin(), rest.end());
    const Result a = run(direct), b = run(stored);
    ASSERT_EQ(a.code, 0) << a.err;
    ASSERT_EQ(b.code, 0) << b.err;
    EXPECT_EQ(lines_of(a.out)[0]["response"]["ids"], lines_of(b.out)[0]["response"]["ids"]);
  }
}

// A copy of the tiny checkpoint to spoil.
void copy_tiny(const TestFolder& folder) {
  for (const std::string& name : os::list_directory(kTiny)) {
    folder.write(name, os::read_file(kTiny + "/" + name, 1 << 24));
  }
}

TEST(Quantize, RefusesWeightsThatAreNotThoseOfTheConfig) {
  const TestFolder model, out;
  copy_tiny(model);
  json config = read_json_file(model / "config.json");
  config["intermediate_size"] = 248;
  model.write("config.json", config.dump());
  const Result r = run({"quantize", "--model-id", model.path(), "--out", out / "q"});
  EXPECT_EQ(r.code, exit_code(ErrorKind::bad_model)) << r.out;
  EXPECT_THAT(r.err, HasSubstr("expected [248, 192]"));
  EXPECT_FALSE(os::exists(out / "q"));
}

TEST(Run, LooksAtNoFileThatTheModelDoesNotNeed) {
  const TestFolder model, out;
  copy_tiny(model);
  ASSERT_EQ(::mkfifo((model / "extra.safetensors").c_str(), 0600), 0);
  const Result r = run({"run", "--model-id", model.path(), "--pg", "2,3", "--device", "reference", "-r", "1",
                        "--precision", "fp16", "--out", out / "out", "-o", "jsonl"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(lines_of(r.out)[0]["cell"]["model"]["files"], SizeIs(1));
  const Result fifo = run({"generate", "--tokenizer", model / "extra.safetensors"});
  EXPECT_EQ(fifo.code, exit_code(ErrorKind::disk));
  EXPECT_THAT(fifo.err, HasSubstr("expected a regular file"));
}

TEST(Run, TooFewOpenFilesAreSaidWithWhatToDo) {
  const TestFolder folder;
  const Result r = run(tiny_run(folder / "out"), "set -- prlimit --nofile=6 \"$@\";");  // the shell itself needs more
  EXPECT_NE(r.code, 0);
  EXPECT_THAT(r.err, AllOf(HasSubstr("Too many open files"), HasSubstr("ulimit -n 1024")));
}

#if !defined(__SANITIZE_ADDRESS__)  // which takes terabytes of address space for itself
TEST(Run, ThreadsThatCannotBeStartedAreAnErrorAndNoCrash) {
  // Each thread wants address space for its stack, and there is none left.
  const Result r =
      run({"generate", "--threads", "2", "--max-new-tokens", "2"}, "ulimit -s 4000000; ulimit -v 3000000;");
  EXPECT_EQ(r.code, exit_code(ErrorKind::out_of_memory)) << r.err;
  EXPECT_THAT(r.err, HasSubstr("could not be started"));
}
#endif

TEST(Doctor, DescribesTheMachine) {
  const Result r = run({"doctor"});
  EXPECT_EQ(r.code, 0) << r.err;
  for (const char* what :
       {"CPU", "memory", "huge pages", "governor", "engine", "read bandwidth", "GPU", "bundled model"}) {
    EXPECT_THAT(r.out, HasSubstr(what));
  }
  EXPECT_THAT(r.out, HasSubstr("GB/s"));
}

TEST(Help, IsThereForEveryCommand) {
  for (const std::string command : {"run", "generate", "quantize", "doctor"}) {
    const Result r = run({command, "--help"});
    EXPECT_EQ(r.code, 0);
    EXPECT_THAT(r.out, HasSubstr(command));
    EXPECT_THAT(r.out, HasSubstr("--threads"));
  }
  EXPECT_THAT(run({"generate", "--help"}).out,
              AllOf(HasSubstr("--ignore-eos "), HasSubstr("--stop-at-eos "), Not(HasSubstr("{false}"))));
  const Result top = run({"--help"});
  EXPECT_EQ(top.code, 0);
  EXPECT_THAT(top.out, AllOf(HasSubstr("doctor"), HasSubstr("Exit codes"), Not(HasSubstr("worker"))));
  EXPECT_THAT(run({"--version"}).out, HasSubstr("quantbench 0."));
}

}  // namespace
}  // namespace quantbench
