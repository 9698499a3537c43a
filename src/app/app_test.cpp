// The program as people use it.
#include <map>
#include <set>

#include "app/program_under_test.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

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

TEST(Run, MeasuresEachCellTwiceAndPrintsTheNoiseFloor) {
  const TestFolder folder;
  const Result r = run({"run", "--aa", "--model-id", kTiny, "--precision", "fp16,4bit", "--pg", "4,8", "--device",
                        "reference", "-r", "6", "--out", folder / "out"});
  ASSERT_EQ(r.code, 0) << r.err;
  for (const char* text : {"fp16 A", "fp16 B", "4bit A", "4bit B", "Noise floor", "fp16 p4+n8: B is ",
                           "the largest difference between two measurements", "4 records in "}) {
    EXPECT_THAT(r.out, HasSubstr(text));
  }
  EXPECT_THAT(r.out, AllOf(Not(HasSubstr("Verdict")), Not(HasSubstr("different tokens"))));
  EXPECT_THAT(r.err, HasSubstr("p4+n8: fp16 twice 4bit twice"));
  std::map<std::string, int> halves;
  for (const json& record : records_in(folder / "out")) {
    expect_well_formed(record);
    ++halves[record["cell"]["precision"].get<std::string>() + record["cell"]["aa_half"].get<std::string>()];
    EXPECT_EQ(record["runs"].size(), 6u);
  }
  EXPECT_EQ(halves, (std::map<std::string, int>{{"4bitA", 1}, {"4bitB", 1}, {"fp16A", 1}, {"fp16B", 1}}));
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
    EXPECT_TRUE(record["metrics"]["read_share"].is_null());
  }
}

TEST(Run, StoppingAtEndOfSequenceIsMarkedNotComparable) {
  const TestFolder folder;
  const Result r = run(tiny_run(folder / "out", {"--stop-at-eos", "--precision", "fp16"}));
  EXPECT_THAT(r.out, AllOf(HasSubstr("FLAGGED"), HasSubstr("not comparable")));
}

TEST(Run, TheLastNewTokenNeedsNoPosition) {
  const TestFolder folder;
  const auto with = [&](const char* new_tokens) {
    return run({"run", "--model-id", kTiny, "--precision", "fp16", "-p", "8", "-n", new_tokens, "-r", "1", "--out",
                folder / "out"});
  };
  const Result most = with("256");  // one token before them: positions 0 to 255 are fed
  EXPECT_EQ(most.code, 0) << most.err;
  EXPECT_EQ(with("257").code, exit_code(ErrorKind::usage));
}

TEST(Run, ATildeIsHomeInEveryPath) {
  const TestFolder home;
  std::filesystem::copy(kTiny, home / "model");
  const auto at_home = [&](const std::vector<std::string>& arguments) {
    return TestedProgram(arguments, "export HOME='" + home.path() + "';").finish();
  };
  const Result missing = at_home({"run", "--model-id", "~/model", "--tokenizer", "~/none", "--out", "~/out"});
  EXPECT_THAT(missing.err, HasSubstr(home / "none"));
  const Result good =
      at_home({"run", "--model-id", "~/model", "--precision", "fp16", "-p", "4", "-r", "1", "--out", "~/out"});
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_TRUE(os::is_directory(home / "out"));
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

TEST(Doctor, DescribesTheMachine) {
  const Result r = run({"doctor"});
  EXPECT_EQ(r.code, 0) << r.err;
  for (const char* what :
       {"CPU", "memory", "huge pages", "governor", "engine", "read bandwidth", "GPU", "bundled model"}) {
    EXPECT_THAT(r.out, HasSubstr(what));
  }
  EXPECT_THAT(r.out, HasSubstr("GB/s"));
}

TEST(Doctor, OfABuildWithoutCudaSaysWhyAndWhatToDo) {
  const Result r = run({"doctor", "--device", "reference"});
  EXPECT_EQ(r.code, 0) << r.err;
  if (r.out.find("built without its CUDA backend") == std::string::npos) GTEST_SKIP() << "it has the CUDA backend";
  EXPECT_THAT(r.out, testing::ContainsRegex("\nGPU  [^\n]*CMake found: [^;\n]*[a-z][^;\n]*; [^\n]*build again\n"));
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
