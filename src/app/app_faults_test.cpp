// What people see when something is wrong: what they asked for, the model, the device, the disk, a killed process.
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>

#include "app/program_under_test.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

TEST(Run, RefusesBadFlagsInOneLine) {
  const std::vector<std::pair<std::vector<std::string>, const char*>> cases{
      {{"run", "--no-such-flag"}, "--no-such-flag"},
      {{"frobnicate"}, "frobnicate"},
      {{}, "subcommand"},
      {{"run", "--precision", "int4"}, "expected fp16, bf16 (a baseline), int8 (LLM.int8) or 4bit"},
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
      {{"run", "--model-id", "google/paligemma-3b-pt-224", "--random-weights", "--image-path", "no.png"},
       "there is no file 'no.png'"},
      {{"run", "--model-id", "google/paligemma-3b-pt-224", "--random-weights", "-p", "256"},
       "give -p or -pg at least 257"},
      {{"run", "--model-id", "google/flan-t5-base", "--random-weights", "-p", "600"},
       "600 prompt tokens are more than the 512"},
      {{"run", "--model-id", "google/flan-t5-base", "--random-weights", "--pg", "600,4"},
       "made for; lower -p or -pg (nothing"},
      {{"run", "--model-id", "google/flan-t5-base", "--random-weights", "-d", "8"}, "has no context before its prompt"},
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
      {{"run", "--model-id", "bundled," QB_SOURCE_DIR "/models/bundled/"}, "is the same folder as bundled"},
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
       "1000 tokens of context, 1 prompt token and 64 new ones, all but the last of which are fed back, are more than "
       "the "
       "1024 positions of this "
       "LlamaForCausalLM model; lower -d, or lower -n"},
      {{"run", "-d", "100000", "-p", "8"}, "lower -d, or lower -p"},
      {{"run", "-b", "2", "--stop-at-eos"}, "--stop-at-eos: the sequences of a batch would end at different steps"},
      {{"run", "-b", "1,2", "--host-tokens"}, "--host-tokens: tokens are looked at one sequence alone; leave out -b"},
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

TEST(Run, SeesAFolderThatTakesNoRecordsBeforeItMeasures) {
  // Not even root makes files here.
  const Result result =
      run({"run", "--model-id", kTiny, "--pg", "2,3", "--device", "reference", "--out", "/proc/self"});
  EXPECT_EQ(result.code, exit_code(ErrorKind::disk));
  EXPECT_THAT(result.err, AllOf(HasSubstr("/proc/self/record.json"), Not(HasSubstr("measuring"))));
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

TEST(Run, InterruptedInItsWarmUpItHasTheTextOfItsIds) {
  const TestFolder folder;
  // On the slow backend, so that the cold run and the warm-up take seconds.
  TestedProgram program(
      {"run", "--max-new-tokens", "60", "--precision", "fp16", "--device", "reference", "--out", folder / "out"});
  ASSERT_TRUE(program.wait_for("measuring")) << program.errors();
  const int64_t until_ns = os::steady_now_ns() + 3'000'000'000;
  while (os::steady_now_ns() < until_ns) ::usleep(50'000);
  ::kill(program.pid(), SIGINT);
  const Result r = program.finish();
  EXPECT_EQ(r.code, exit_code(ErrorKind::interrupted)) << r.err;
  EXPECT_THAT(r.out, Not(HasSubstr("no tokenizer"))) << "the bundled model has one";
}

TEST(Run, AnyOfTheSignalsThatStopItStopsIt) {
  for (const int signal : {SIGTERM, SIGHUP}) {
    const TestFolder folder;
    TestedProgram program(long_run(folder / "out", "100000"));
    ASSERT_TRUE(program.wait_for("measuring")) << program.errors();
    ::kill(program.pid(), signal);
    const Result r = program.finish();
    EXPECT_EQ(r.code, exit_code(ErrorKind::interrupted)) << signal << ": " << r.err;
    for (const json& record : records_in(folder / "out")) expect_well_formed(record);
  }
}

TEST(Run, InterruptionLeavesValidRecordsAndNoChild) {
  const TestFolder folder;
  TestedProgram program(long_run(folder / "out", "100000"));
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

void expect_that_the_sweep_goes_on_after(int signal, const char* shown) {
  const TestFolder folder;
  TestedProgram program(long_run(folder / "out", "20"));
  ASSERT_TRUE(program.wait_for("measuring")) << program.errors();
  // The bandwidth probe is started first, then fp16, int8, 4bit.
  std::vector<pid_t> children;
  for (int i = 0; i < 3000 && children.size() < 4; ++i) {  // a minute: a busy machine starts them late
    ::usleep(20'000);
    children = children_of(program.pid());
  }
  ASSERT_THAT(children, SizeIs(4));
  std::sort(children.begin(), children.end());
  ::kill(children[2], signal);
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
  EXPECT_THAT(failed, testing::ElementsAre(HasSubstr(shown)));
  EXPECT_THAT(records_in(folder / "out"), SizeIs(3));
}

TEST(Run, AKilledWorkerIsARecordAndTheSweepGoesOn) { expect_that_the_sweep_goes_on_after(SIGKILL, "signal 9"); }
TEST(Run, AWorkerThatCrashesIsARecordAndTheSweepGoesOn) { expect_that_the_sweep_goes_on_after(SIGSEGV, "signal 11"); }

TEST(Run, AFullDiskIsReportedAndTheTableStillPrinted) {
  const TestFolder folder;
  // No file may grow beyond 8 blocks of 512 bytes: writes fail, as on a full disk.
  const Result r = run(tiny_run(folder / "out", {"--precision", "fp16"}), "ulimit -f 8;");
  EXPECT_EQ(r.code, exit_code(ErrorKind::disk)) << r.err;
  EXPECT_THAT(r.err, AllOf(HasSubstr("its record is lost"), HasSubstr("File too large")));
  EXPECT_THAT(r.out, HasSubstr("fp16"));
  EXPECT_THAT(os::list_directory(folder / "out"), testing::ElementsAre("sweep.plan"));
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

TEST(Generate, ReadsTokenizerJsonElseAModelOfSentencepiece) {
  const TestFolder folder;
  const std::vector<std::string> generate = {
      "generate", "--tokenizer", folder.path(), "--prompt", "a", "--max-new-tokens", "2"};
  const Result none = run(generate);
  EXPECT_EQ(none.code, exit_code(ErrorKind::bad_model));
  EXPECT_THAT(none.err, HasSubstr("has no tokenizer.json, spiece.model or tokenizer.model"));
  const std::string model = os::read_file(kTokenizers + "/t5/spiece.model", 1 << 20);
  folder.write("tokenizer.model", model.substr(0, model.size() / 2));
  folder.write("tokenizer.json", os::read_file(kTokenizers + "/t5/tokenizer.json", 1 << 20));
  EXPECT_EQ(run(generate).code, 0);
  folder.write("tokenizer.json", "{}");
  EXPECT_THAT(run(generate).err, HasSubstr("this file is no tokenizer.json"));
  std::filesystem::remove(folder / "tokenizer.json");
  const Result cut = run(generate);
  EXPECT_EQ(cut.code, exit_code(ErrorKind::bad_model));
  EXPECT_THAT(cut.err, HasSubstr(folder / "tokenizer.model"));
  if (cut.err.find("built without libsentencepiece") != std::string::npos) GTEST_SKIP() << cut.err;
  EXPECT_THAT(cut.err, HasSubstr("no whole model of sentencepiece"));
  folder.write("spiece.model", model);
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "T5Tokenizer"})");
  EXPECT_EQ(run(generate).code, 0) << "it goes before tokenizer.model";
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "BertTokenizer"})");
  EXPECT_THAT(run(generate).err, HasSubstr("unknown \"tokenizer_class\" \"BertTokenizer\""));
}

TEST(Run, TooFewOpenFilesAreSaidWithWhatToDo) {
  const TestFolder folder;
  const Result r = run(tiny_run(folder / "out"), "set -- prlimit --nofile=6 \"$@\";");  // the shell itself needs more
  EXPECT_NE(r.code, 0);
  EXPECT_THAT(r.err, AllOf(HasSubstr("Too many open files"), HasSubstr("ulimit -n 1024")));
}

#if !defined(__SANITIZE_ADDRESS__)  // which takes terabytes of address space for itself
TEST(Run, MemoryThatReallyRunsOutIsARecordAndTheSweepGoesOn) {
  const TestFolder folder;
  json config = read_json_file(kTiny + "/config.json");
  config["vocab_size"] = 2'000'000;  // 2 × 512 MB of embedding and head, which the machine has and the limit has not
  config["hidden_size"] = 128;
  folder.write("big/config.json", config.dump());
  const Result r =
      run({"run", "--model-id", folder / "big" + std::string(",") + kTiny, "--random-weights", "--pg", "2,3",
           "--precision", "fp16", "--device", "reference", "-r", "1", "--out", folder / "out", "-o", "jsonl"},
          "ulimit -v 400000;");
  EXPECT_EQ(r.code, exit_code(ErrorKind::out_of_memory)) << r.err;
  EXPECT_THAT(r.err, HasSubstr("1 of 2 cells failed"));
  const auto records = lines_of(r.out);
  ASSERT_THAT(records, SizeIs(2));
  for (const json& record : records) expect_well_formed(record);
  EXPECT_EQ(records[0]["outcome"]["status"], "failed");
  EXPECT_EQ(records[0]["outcome"]["error_kind"], "out of memory");
  EXPECT_THAT(std::string(records[0]["outcome"]["error"]), Not(HasSubstr("are available;"))) << "met, not predicted";
  EXPECT_EQ(records[1]["outcome"]["status"], "ok");
  EXPECT_THAT(records_in(folder / "out"), SizeIs(2));
}

TEST(Run, ThreadsThatCannotBeStartedAreAnErrorAndNoCrash) {
  // Each thread wants address space for its stack, and there is none left.
  const Result r =
      run({"generate", "--threads", "2", "--max-new-tokens", "2"}, "ulimit -s 4000000; ulimit -v 3000000;");
  EXPECT_EQ(r.code, exit_code(ErrorKind::out_of_memory)) << r.err;
  EXPECT_THAT(r.err, HasSubstr("could not be started"));
}
#endif

}  // namespace
}  // namespace quantbench
