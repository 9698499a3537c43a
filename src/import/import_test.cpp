#include "import/import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/json.h"
#include "core/os.h"
#include "report/read_records.h"
#include "testing/test_json_schema.h"

namespace quantbench {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

std::string read(const std::string& path) { return os::read_file(QB_SOURCE_DIR "/" + path, 1 << 20); }

std::vector<Record> imported(const std::string& name, const ImportOptions& options = {}) {
  return import_results(read("testdata/imports/" + name), name, options);
}

std::vector<Record> of(const std::string& content) { return import_results(content, "results.txt", {}); }

std::string refusal(const std::string& content) {
  try {
    of(content);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "it was taken";
}

void expect_fit(const std::vector<Record>& records) {
  const nlohmann::json schema = read_json_file(QB_SOURCE_DIR "/docs/record.schema.json");
  for (const Record& record : records) {
    EXPECT_THAT(JsonSchema(schema).check(nlohmann::json::parse(to_text(record))), IsEmpty());
    EXPECT_EQ(record_problem(record), "");
    const RecordView v = view_of(record);
    EXPECT_NE(v.imported_from, "");
    EXPECT_NE(v.stamp.kind, StampKind::valid);
  }
}

// Expected values of llama-bench are those of the files in testdata/imports, which it wrote.
TEST(Import, LlamaBenchKeepsEverySample) {
  const std::vector<Record> records = imported("llama_bench.jsonl");
  ASSERT_EQ(records.size(), 3);
  expect_fit(records);
  const RecordView prefill = view_of(records[0]), decode = view_of(records[1]);
  EXPECT_EQ(prefill.test, "pp512");
  EXPECT_EQ(prefill.precision, "fp16");
  EXPECT_EQ(prefill.model, "llama 1B");
  EXPECT_EQ(prefill.device, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(prefill.engine, "llama.cpp");
  const Summary* rate = prefill.find("prefill_tokens_per_second");
  ASSERT_TRUE(rate);
  ASSERT_EQ(rate->samples.size(), 5);
  EXPECT_NEAR(rate->samples[0], 50589.6, 0.1) << "its own samples_ts, of six digits";
  EXPECT_FALSE(rate->low) << "five runs make no interval of 95 %";
  EXPECT_EQ(prefill.find("time_to_first_token"), nullptr) << "llama-bench takes no token from a pp test";
  EXPECT_EQ(decode.test, "tg64");
  EXPECT_EQ(decode.new_tokens, 64);
  EXPECT_EQ(decode.find("tokens_per_second")->samples.size(), 5);
  EXPECT_EQ(view_of(records[2]).precision, "q4_0") << "no name that is another format's";
  EXPECT_TRUE(records[0]["environment"]["kernel"].is_null());
  EXPECT_TRUE(records[0]["memory"].empty());
  EXPECT_EQ(records[0]["imported"]["line"], 1);
  EXPECT_EQ(records[2]["imported"]["line"], 3);
  EXPECT_EQ(records[0]["imported"]["as_read"]["stddev_ns"], 672904);
  EXPECT_EQ(records[0]["runs"].size(), 5);
  EXPECT_EQ(records[0]["imported"]["file_sha256"].get<std::string>().size(), 64);
}

TEST(Import, LlamaBenchSaysTheSameInEveryFormat) {
  const std::vector<Record> json = imported("llama_bench.json"), csv = imported("llama_bench.csv"),
                            table = imported("llama_bench.md");
  for (const auto& records : {json, csv, table}) expect_fit(records);
  ASSERT_EQ(json.size(), 2);
  ASSERT_EQ(csv.size(), 2);
  ASSERT_EQ(table.size(), 4);
  EXPECT_EQ(json[0]["imported"]["line"], 2);
  EXPECT_EQ(json[1]["imported"]["line"], 38);
  EXPECT_EQ(view_of(json[0]).device, "AMD EPYC") << "no GPU: the CPU";
  for (const auto& records : {json, csv, table}) {
    EXPECT_EQ(view_of(records[0]).test, "pp64");
    EXPECT_EQ(view_of(records[1]).test, "tg16");
    EXPECT_EQ(view_of(records[1]).precision, "q4_0");
  }
  EXPECT_EQ(view_of(json[1]).find("tokens_per_second")->runs, 3);
  const RecordView from_csv = view_of(csv[1]);
  const Summary* mean = from_csv.find("tokens_per_second");
  EXPECT_EQ(mean->runs, 0) << "a figure without samples";
  EXPECT_EQ(mean->median, 49.875850);
  EXPECT_EQ(csv[1]["imported"]["figures"]["tokens_per_second"]["stddev"], 0.398471);
  EXPECT_EQ(view_of(table[1]).find("tokens_per_second")->median, 48.30);
  EXPECT_EQ(table[1]["imported"]["figures"]["tokens_per_second"]["stddev"], 0.84);
  EXPECT_EQ(view_of(table[0]).device, "") << "its table names none";
  EXPECT_EQ(view_of(imported("llama_bench.md", {.model = "m", .device = "d"})[0]).device, "d");
  // Whatever it is called: its backend is the CPU.
  for (const char* file : {"llama_bench.json", "llama_bench.csv", "llama_bench.md", "benchmark.json"}) {
    EXPECT_EQ(imported(file, {.model = "m", .device = "d"})[0]["devices"][0]["id"], "cpu") << file;
  }
  EXPECT_EQ(imported("llama_bench.jsonl")[0]["devices"][0]["id"], nullptr) << "a GPU, of no number that is told";
}

TEST(Import, LlamaBenchsRateOfBothIsMadeOneOfNewTokens) {
  const std::string head = "| model | test | t/s |\n| - | - | - |\n";
  const Record record = of(head + "| llama 1B Q4_K - Medium | pp96+tg32 @ d512 | 200.00 ± 4.00 |\n")[0];
  const RecordView v = view_of(record);
  EXPECT_EQ(v.test, "p96+n32 @ d512");
  EXPECT_EQ(v.precision, "q4_k_medium");
  // 32 of the 128 tokens that the rate is of.
  EXPECT_EQ(v.find("tokens_per_second")->median, 50);
  EXPECT_EQ(record["imported"]["figures"]["tokens_per_second"]["stddev"], 1);
  EXPECT_THAT(record["imported"]["derived"].dump(), HasSubstr("of new tokens alone"));
}

// benchmark.json was made by optimum-benchmark 0.6.0 of the bundled model (per_token's values are cut to three).
TEST(Import, OptimumBenchmark) {
  const std::vector<Record> records = imported("benchmark.json");
  ASSERT_EQ(records.size(), 1);
  expect_fit(records);
  const RecordView v = view_of(records[0]);
  EXPECT_EQ(v.model, "models/bundled");
  EXPECT_EQ(v.precision, "fp32");
  EXPECT_EQ(v.engine, "transformers");
  EXPECT_EQ(v.test, "p16+n16");
  EXPECT_EQ(v.device, "AMD EPYC");
  const Summary* rate = v.find("tokens_per_second");
  ASSERT_TRUE(rate);
  EXPECT_EQ(rate->runs, 10);
  EXPECT_TRUE(rate->low);
  const nlohmann::json report = nlohmann::json::parse(read("testdata/imports/benchmark.json"))["report"];
  EXPECT_DOUBLE_EQ(v.find("total_latency")->samples[0], report["generate"]["latency"]["values"][0].get<double>() * 1e9);
  EXPECT_DOUBLE_EQ(v.find("time_to_first_token")->samples[0],
                   report["prefill"]["latency"]["values"][0].get<double>() * 1e9);
  // 15 steps behind the first token; the report's own figure is of the mean.
  EXPECT_NEAR(v.find("decode_tokens_per_second")->median, report["decode"]["throughput"]["value"].get<double>(), 5);
  EXPECT_DOUBLE_EQ(v.find("memory_peak")->median, 834.21184e6);
}

TEST(Import, OptimumBenchmarksQuantization) {
  nlohmann::json benchmark = nlohmann::json::parse(read("testdata/imports/benchmark.json"));
  auto& backend = benchmark["config"]["backend"];
  backend["quantization_scheme"] = "bnb";
  backend["quantization_config"] = {{"load_in_8bit", true}};
  EXPECT_EQ(view_of(of(benchmark.dump())[0]).precision, "int8");
  backend["quantization_config"] = {{"load_in_4bit", true}, {"bnb_4bit_quant_type", "nf4"}};
  EXPECT_EQ(view_of(of(benchmark.dump())[0]).precision, "4bit");
  EXPECT_EQ(view_of(of(benchmark.dump())[0]).precision_long, "NF4 (bitsandbytes)");
  benchmark["report"].erase("generate");
  EXPECT_EQ(view_of(of(benchmark.dump())[0]).find("total_latency")->runs, 10) << "prefill and decode, one by one";
  benchmark["report"].erase("decode");
  EXPECT_THAT(refusal(benchmark.dump()), HasSubstr("expected latencies of generate"));
}

// Values in the shapes of the predecessor's published files.
TEST(Import, ThePredecessorsFiveColumns) {
  const std::vector<Record> records =
      of("precision,latency_sec,tokens_per_sec,peak_mem_gb,error\nfp16,1.2951952010625973,49.41340112092251,2.5,\n"
         "4bit,,,,\"out of memory, it said\"\n");
  ASSERT_EQ(records.size(), 2);
  expect_fit(records);
  const RecordView v = view_of(records[0]);
  EXPECT_EQ(v.model, "results") << "the file's name, where nothing names the model";
  EXPECT_EQ(v.device, "");
  EXPECT_EQ(v.new_tokens, 64) << "1.295 s × 49.41/s";
  EXPECT_TRUE(records[0]["cell"]["prompt_tokens"].is_null());
  EXPECT_EQ(v.test, "prompt+n64");
  EXPECT_EQ(v.find("memory_peak")->median, 2.5 * (1 << 30));
  EXPECT_EQ(v.stamp.kind, StampKind::flagged);
  const RecordView failed = view_of(records[1]);
  EXPECT_EQ(failed.status, "failed");
  EXPECT_EQ(failed.error, "out of memory, it said");
  EXPECT_EQ(failed.stamp.kind, StampKind::invalid);
  EXPECT_THAT(failed.metrics, IsEmpty());
}

TEST(Import, ThePredecessorsNineHeadingsOverFiveValues) {
  const std::string head =
      "precision,total_latency_sec,tokens_per_sec,per_token_latency_sec,generated_tokens,start_mem_gb,end_mem_gb,"
      "peak_mem_gb,error\n";
  const RecordView five = view_of(of(head + "int8,2,32,1.5,\n")[0]);
  EXPECT_EQ(five.find("memory_peak")->median, 1.5 * (1 << 30)) << "it stands under the fourth heading";
  EXPECT_EQ(five.find("latency_per_token")->median, 2e9 / 64);
  const RecordView nine = view_of(of(head + "int8,2,31.9,0.03125,60,1,1.25,1.5,\n")[0]);
  EXPECT_EQ(nine.new_tokens, 60) << "told, not computed";
  EXPECT_EQ(nine.find("memory_start")->median, 1 << 30);
  EXPECT_THAT(refusal(head + "int8,2,32,1.5,,\n"), HasSubstr("results.txt, line 2: expected 5 or 9 values, found 6"));
}

TEST(Import, ThePredecessorsTextSummary) {
  const std::vector<Record> records =
      of("===== SUMMARY (FP16 vs INT8 vs 4-bit) =====\nGPU: NVIDIA L40S\n\n"
         "precision | latency(s) |  tokens/s | peak_mem(GB)\n-------\n"
         "fp16     |     1.0362 |      61.76 |        2.314\n4bit     |     0.8158 |      78.45 |        0.998\n"
         "\n===== RESPONSES BY PRECISION =====\n\nfp 16 answer: a | b\n");
  ASSERT_EQ(records.size(), 2);
  expect_fit(records);
  const RecordView v = view_of(records[1]);
  EXPECT_EQ(v.device, "NVIDIA L40S");
  EXPECT_EQ(v.precision_long, "NF4 (bitsandbytes)");
  EXPECT_EQ(v.new_tokens, 64);
  EXPECT_EQ(v.find("tokens_per_second")->median, 78.45);
}

TEST(Import, ThePredecessorsPublishedResults) {
  const std::vector<Record> records =
      import_results(read("docs/reference/predecessor_results.csv"), "predecessor_results.csv", {});
  ASSERT_EQ(records.size(), 72) << "36 cells, twice";
  expect_fit(records);
  int on_three = 0;
  for (const Record& record : records) on_three += view_of(record).device == "3 × NVIDIA L40S";
  EXPECT_EQ(on_three, 3) << "Phi-2 in its text files";
  // Flan-T5 made another number of tokens in each precision.
  EXPECT_EQ(view_of(records[0]).test, "prompt+n6");
  EXPECT_EQ(view_of(records[1]).test, "prompt+n7");
  EXPECT_EQ(view_of(records[2]).test, "prompt+n9");
}

TEST(Import, SaysFileLineExpectedAndFound) {
  EXPECT_THAT(refusal(""), HasSubstr("results.txt, line 1: expected llama-bench's json"));
  EXPECT_THAT(refusal("\nhello there\n"), HasSubstr("line 2: expected llama-bench's json"));
  EXPECT_THAT(refusal("\nhello there\n"), HasSubstr("found 'hello there'"));
  EXPECT_THAT(refusal("{\"a\": 1}"), HasSubstr("an object of another kind"));
  EXPECT_THAT(refusal(R"({"schema": "quantbench.record"})"), HasSubstr("needs no import"));
  const std::string row = read("testdata/imports/llama_bench.jsonl");
  EXPECT_THAT(refusal(row.substr(0, row.size() - 20)), HasSubstr("line 3: expected valid JSON, found the end"));
  const std::string json = read("testdata/imports/llama_bench.json");
  EXPECT_THAT(refusal(json.substr(0, json.size() / 2)), HasSubstr("expected valid JSON, found the end of the file"));
  const std::string csv = read("testdata/imports/llama_bench.csv");
  EXPECT_THAT(refusal(csv + "\"x\",1\n"), HasSubstr("line 4: expected 32 fields, as the headings have, found 2"));
  const std::string five = "precision,latency_sec,tokens_per_sec,peak_mem_gb,error\n";
  EXPECT_THAT(refusal(five), HasSubstr("expected at least one row"));
  EXPECT_THAT(refusal(five + "fp16,fast,1,1,\n"),
              HasSubstr("line 2: expected a number from 0 to 1e+18 as the latency, found 'fast'"));
  EXPECT_THAT(refusal(five + "fp16,nan,1,1,\n"), HasSubstr("found 'nan'"));
  EXPECT_THAT(refusal(five + "fp16,-1,1,1,\n"), HasSubstr("found '-1'"));
  EXPECT_THAT(refusal(five + "fp8,1,1,1,\n"), HasSubstr("expected a precision: fp16, bf16, int8 or 4bit, found 'fp8'"));
  EXPECT_THAT(refusal("| model | test | t/s |\n| - | - | - |\n| llama 1B F16 | xx64 | 1 ± 1 |\n"),
              HasSubstr("line 3: expected a test as pp512"));
  EXPECT_THAT(refusal("| model | test | t/s |\n| - | - | - |\n| llama 1B F16 | tg64 | 1 |\n"),
              HasSubstr("expected mean ± deviation"));
}

// What a file may hold and no program writes: each is refused, or taken for what it can be.
TEST(Import, TakesNoNumberForAFigureThatNoneCanBe) {
  const std::string five = "precision,latency_sec,tokens_per_sec,peak_mem_gb,error\n";
  EXPECT_THAT(refusal(five + "fp16,1e300,1,1,\n"), HasSubstr("found '1e300'"));
  const std::vector<Record> huge = of(five + "fp16,1e18,1e17,1,\n");
  EXPECT_EQ(record_problem(huge.at(0)), "");
  EXPECT_TRUE(huge[0]["cell"]["new_tokens"].is_null()) << "1e35 is no count of tokens";
  const auto with = [](const char* key, const Record& value) {
    Record row = Record::parse(read("testdata/imports/llama_bench.json"))[0];
    row[key] = value;
    return row.dump();
  };
  EXPECT_THAT(refusal(with("samples_ns", {1e300, 1e9})), HasSubstr("times of a nanosecond to 30 years as samples_ns"));
  EXPECT_THAT(refusal(with("samples_ns", {1e-320})), HasSubstr("times of a nanosecond"));
  EXPECT_THAT(refusal(with("samples_ns", {"1"})), HasSubstr("times of a nanosecond"));
  EXPECT_THAT(
      refusal("build_commit,model_type,n_prompt,n_gen,avg_ts,stddev_ts,samples_ns\na,llama 1B Q4_0,8,0,1,0,\xff\n"),
      HasSubstr("a list of times as samples_ns"));
}

TEST(Import, TakesOtherKindsOfValuesForNone) {
  Record benchmark = Record::parse(read("testdata/imports/benchmark.json"));
  benchmark["config"]["environment"] = "a machine";
  benchmark["config"]["scenario"]["input_shapes"] = {{"batch_size", 1'000'000'000}, {"sequence_length", 1'000'000'000}};
  benchmark["config"]["scenario"]["generate_kwargs"] = 7;
  benchmark["config"]["backend"]["quantization_config"] = {1, 2};
  for (Record& part : benchmark["report"]) {
    if (part.contains("memory") && part["memory"].is_object()) part["memory"]["max_ram"] = 1e300;
  }
  const std::vector<Record> records = of(benchmark.dump());
  expect_fit(records);
  EXPECT_EQ(view_of(records.at(0)).prompt_tokens, 1'000'000'000);
}

TEST(Import, RefusesJsonThatIsNestedDeeply) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_THAT(refusal("{\"a\": " + deep + "}"), HasSubstr("line 1: expected JSON of at most 64 levels"));
  EXPECT_THAT(refusal(deep), HasSubstr("at most 64 levels"));
}

}  // namespace
}  // namespace quantbench
