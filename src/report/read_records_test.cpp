#include "report/read_records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/os.h"
#include "report/test_measured_record.h"
#include "report/test_record.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

FoundRecords read(const std::vector<std::string>& names) { return read_records(names); }

TEST(ReadRecords, FindsThemInFoldersFilesListsAndLines) {
  TestFolder folder;
  os::make_directories(folder / "a/b");
  folder.write("a/b/one.json", to_text(test_record({})));
  folder.write("a/config.json", R"({"hidden_size": 8})");  // other JSON of a model's folder, say
  folder.write("a/sweep.plan", "not a record");
  folder.write("list.json", Record::array({test_record({}), test_record({})}).dump());
  folder.write("lines.jsonl", test_record({}).dump() + "\n\n" + test_record({}).dump() + "\n");
  const FoundRecords all = read({folder / "a", folder / "list.json", folder / "lines.jsonl"});
  EXPECT_THAT(all.records, SizeIs(5));
  EXPECT_THAT(all.paths, ElementsAre(folder / "a/b/one.json", folder / "list.json", folder / "list.json",
                                     folder / "lines.jsonl", folder / "lines.jsonl"));
  EXPECT_THAT(all.problems, IsEmpty());
  EXPECT_THAT(read({folder / "a", folder / "a/b/one.json"}).records, SizeIs(1)) << "the same file twice";
}

TEST(ReadRecords, ManyComeInTheOrderOfTheirNames) {
  TestFolder folder;
  for (int i = 0; i < 150; ++i) {
    folder.write(fmt::format("{:03}.json", i), to_text(test_record({.model = fmt::format("m{}", i)})));
  }
  const FoundRecords all = read({folder.path()});
  ASSERT_THAT(all.records, SizeIs(150));
  for (size_t i = 0; i < 150; ++i) EXPECT_EQ(view_of(all.records[i]).model, fmt::format("m{}", i));
}

TEST(ReadRecords, NamesWhatIsDamagedAndGoesOn) {
  TestFolder folder;
  const std::string whole = to_text(test_record({}));
  folder.write("good.json", whole);
  folder.write("half.json", whole.substr(0, whole.size() / 2));
  folder.write("empty.json", "");
  folder.write("deep.json", std::string(100000, '['));
  Record other = test_record({});
  other["schema_version"] = 2;
  folder.write("newer.json", other.dump());
  other = test_record({});
  other["cell"].erase("precision");
  folder.write("lacking.json", other.dump());
  other = test_record({});
  other["metrics"]["tokens_per_second"]["median"] = 1e6;
  other["metrics"]["tokens_per_second"]["high"] = 1e7;
  folder.write("praised.json", other.dump());
  other = test_record({});
  other["metrics"]["time_to_first_token"]["unit"] = "bytes";
  folder.write("units.json", other.dump());
  const FoundRecords found = read({folder.path()});
  EXPECT_THAT(found.paths, ElementsAre(folder / "good.json"));
  EXPECT_THAT(found.problems, ElementsAre(AllOf(HasSubstr("deep.json"), HasSubstr("deeper than 64")),
                                          AllOf(HasSubstr("empty.json"), HasSubstr("not valid JSON")),
                                          AllOf(HasSubstr("half.json"), HasSubstr("not valid JSON at byte")),
                                          AllOf(HasSubstr("lacking.json"), HasSubstr("'precision' not found")),
                                          AllOf(HasSubstr("newer.json"), HasSubstr("schema version 2, expected 1")),
                                          AllOf(HasSubstr("praised.json"), HasSubstr("that of its samples 100")),
                                          AllOf(HasSubstr("units.json"), HasSubstr("is in 'bytes', expected 'ns'"))));
}

TEST(ReadRecords, ASealedRecordThatWasEditedIsRefused) {
  TestFolder folder;
  Record record = measured(1);
  record["odd"] = {"not \xff UTF-8", std::nan(""), UINT64_MAX, -1, -0.0, 1e300, 0.1};
  seal(&record);
  folder.write("whole.json", to_text(record));
  folder.write("other_layout.json", Record::parse(to_text(record)).dump(4));
  EXPECT_THAT(read({folder.path()}).problems, IsEmpty());
  record["load"]["total_ns"] = 1;
  folder.write("edited.json", to_text(record));
  const FoundRecords found = read({folder.path()});
  EXPECT_THAT(found.records, SizeIs(2));
  EXPECT_THAT(found.problems, ElementsAre(AllOf(HasSubstr("edited.json"), HasSubstr("content_sha256 is another"))));
}

TEST(ReadRecords, WhatNoMeasurementGivesIsRefused) {
  Record record = test_record({});
  Record& first = record["metrics"]["time_to_first_token"];
  for (const char* key : {"median", "low", "high"}) first[key] = -2;
  for (Record& sample : first["samples"]) sample = -2;
  EXPECT_THAT(record_problem(record), HasSubstr("metric time_to_first_token is negative"));
  record = test_record({});
  record["cell"]["precision"] = "4bit";
  EXPECT_THAT(record_problem(record), HasSubstr("precision 4bit beside the format FP16"));
}

TEST(ReadRecords, PercentilesOfAllRunsNeedNotBeTheMedianOfEach) {
  Record record = test_record({});
  record["metrics"]["inter_token_pooled_p50"] = test_metric("ns", "lower", {1, 2, 3, 4, 5, 6, 7});
  record["metrics"]["inter_token_pooled_p50"]["median"] = 3.9;
  EXPECT_EQ(record_problem(record), "");
  record["metrics"]["inter_token_pooled_p50"]["unit"] = "bytes";
  EXPECT_THAT(record_problem(record), HasSubstr("is in 'bytes'"));
}

TEST(ReadRecords, NothingAtAllIsAnErrorThatSaysWhatWasThere) {
  TestFolder folder;
  const auto refusal = [&](const std::string& name) {
    try {
      read({name});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(refusal(folder.path()), HasSubstr("no record there; expected"));
  EXPECT_THAT(refusal(folder / "missing"), HasSubstr("no such file or folder"));
  folder.write("config.json", "{}");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("no record there; expected"));
  EXPECT_THAT(refusal(folder / "config.json"), HasSubstr("no record of quantbench"));
}

TEST(ReadRecords, CountsAreWholeNumbersThatFit) {
  const auto with = [](const char* key, const Record& value) {
    Record record = test_record({});
    record["cell"][key] = value;
    return record_problem(record);
  };
  EXPECT_EQ(with("prompt_tokens", 64.0), "");
  for (const Record& bad :
       {Record(1e300), Record(2147483648.0), Record(0.5), Record(2147483648u), Record(-2147483649)}) {
    EXPECT_THAT(with("prompt_tokens", bad), AllOf(HasSubstr("whole number of 32 bits"), HasSubstr(bad.dump())));
  }
  EXPECT_EQ(with("batch", nullptr), "");
  for (const int bad : {0, -1}) EXPECT_THAT(with("batch", bad), HasSubstr("a batch of"));
  for (const char* key : {"prompt_tokens", "new_tokens", "depth"}) {
    EXPECT_THAT(with(key, -1), HasSubstr("fewer than no tokens"));
  }
  Record record = test_record({});
  record["response"]["ids"][1] = 1e300;
  EXPECT_THAT(record_problem(record), HasSubstr("whole number"));
  record = test_record({});
  record["metrics"]["tokens_per_second"]["runs"] = 1e300;
  EXPECT_THAT(record_problem(record), HasSubstr("whole number"));
  record = test_record({});
  record["protocol"]["seed"] = -1.0;
  EXPECT_THAT(record_problem(record), HasSubstr("whole number of 64 bits"));
}

TEST(ReadRecords, PartsThatReportsUseHaveTheirShape) {
  const auto with = [](const char* at, const Record& value) {
    Record record = measured(1);
    record[Record::json_pointer(at)] = value;
    return record_problem(record);
  };
  EXPECT_EQ(record_problem(measured(1)), "");
  EXPECT_THAT(with("/devices", "a CPU"), HasSubstr("was it edited?"));
  EXPECT_THAT(with("/environment", "a CPU"), HasSubstr("'environment' of the record is no object"));
  EXPECT_THAT(with("/devices/0/gpu", 7), HasSubstr("'gpu' of a device is no object"));
  EXPECT_THAT(with("/devices/0/gpu", {{"compute_capability", 9}}), HasSubstr("'compute_capability'"));
  for (const Record& bad : {Record("int8"), Record(1), Record({{"end_bytes", 1}}), Record::array({"text"})}) {
    EXPECT_THAT(with("/memory", bad), HasSubstr("'memory' is no list of objects")) << bad;
  }
  EXPECT_THAT(with("/memory/0/end_ledger", "weights"), HasSubstr("'end_ledger' of memory is no object"));
  EXPECT_THAT(with("/memory/0/end_ledger", {{"weights", "all"}}), HasSubstr("other things than numbers"));
  EXPECT_THAT(with("/runs", "ten"), HasSubstr("'runs' is no list of objects"));
  EXPECT_THAT(with("/runs/0/step_ns", {1, "two"}), HasSubstr("no list of numbers"));
  EXPECT_THAT(with("/runs/0/spans", {1, 2}), HasSubstr("no list of lists"));
  EXPECT_THAT(with("/runs/0/spans", Record::array({Record{"decode", "host", 0, "end"}})), HasSubstr("a span of a run"));
  EXPECT_THAT(with("/runs/0/telemetry", {{"samples", {1}}}), HasSubstr("no list of lists"));
}

TEST(ReadRecords, AFileOfMoreThanAGibibyteIsNotRead) {
  TestFolder folder;
  folder.write("good.json", to_text(test_record({})));
  folder.write("huge.json", "{}");
  std::filesystem::resize_file(folder / "huge.json", (uintmax_t{1} << 30) + 1);  // a hole: it takes no room
  const FoundRecords all = read({folder.path()});
  EXPECT_THAT(all.records, SizeIs(1));
  EXPECT_THAT(all.problems, ElementsAre(AllOf(HasSubstr("huge.json"), HasSubstr("1073741824"))));
}

}  // namespace
}  // namespace quantbench
