// Records as people hand them over: read_records on a file (of one a line where the input has a line end), and what is
// made of those that it takes: tables, CSV, the page, comparisons, claims. One in six inputs goes through one of these,
// since they take several times as long as reading does.
#include "report/read_records.h"

#include "core/json.h"
#include "fuzz/json_tree.h"
#include "fuzz/memory_files.h"
#include "fuzz/whole_records.h"
#include "report/charts.h"
#include "report/claims.h"
#include "report/compare_records.h"
#include "report/page_data.h"
#include "report/report.h"
#include "report/test_record.h"

namespace quantbench::fuzz {
namespace {

constexpr std::string_view kWords[] = {"\"quantbench.record\"",
                                       "\"VALID\"",
                                       "\"FLAGGED\"",
                                       "\"INVALID\"",
                                       "\"ok\"",
                                       "\"failed\"",
                                       "\"interrupted\"",
                                       "\"fp16\"",
                                       "\"int8\"",
                                       "\"4bit\"",
                                       "\"ns\"",
                                       "\"1/s\"",
                                       "\"bytes\"",
                                       "\"higher\"",
                                       "\"lower\"",
                                       "\"tokens_per_second\"",
                                       "\"time_to_first_token\"",
                                       "\"memory_peak\"",
                                       "\"inter_token_pooled_p50\"",
                                       "\"generation\"",
                                       "\"prefill\"",
                                       "\"aa_half\"",
                                       "\"A\"",
                                       "\"B\"",
                                       "\"</script>\"",
                                       "\"|\"",
                                       "\"quality\"",
                                       "\"imported\"",
                                       "{\"tool\":\"x\"}",
                                       "\"samples\"",
                                       "[1,2,3]",
                                       "[]",
                                       "\"=cmd()\""};

constexpr size_t kUses = 8, kOneIn = 6;

void use(const FoundRecords& found, size_t which) {
  std::vector<RecordView> views;
  for (const Record& record : found.records) {
    check(record_problem(record).empty(), "a record that was taken has no problem");
    views.push_back(view_of(record));
  }
  switch (which) {
    case 0: {
      whole_text(views, false, true);
      std::vector<ChartCell> cells;
      for (size_t i = 0; i < views.size(); ++i) cells.push_back(chart_cell(found.records[i], views[i]));
      charts(cells);
      return;
    }
    case 1: whole_text(views, true, true); return;
    case 2: csv(views, CsvSchema::own); return;
    case 3: csv(views, CsvSchema::predecessor_full); return;
    case 4: {
      PageData page;
      for (const Record& record : found.records) page.add(record, "records.json");
      const std::string json = page.json(found.problems, verdict(views), "2026-01-31T12:34:56Z", "fuzzer");
      check(json.find('<') == std::string::npos, "nothing in a record ends a script");
      parse_json(json, "page");
      return;
    }
    case 5: claims_text(test_claims(found.records, own_claims(), "claims.json")); return;
    case 6: {
      const RecordsCompared compared = compare_records(found, found);
      for (const ComparedPair& pair : compared.pairs)
        check(pair.outcome != Outcome::regression, "a record is no worse than itself");
      return;
    }
    default:
      for (const Record& record : found.records) parse_json(to_text(record), "record again");
  }
}

}  // namespace

void run(std::string_view input) {
  static const std::string one = "/memory/one.json", lines = "/memory/lines.jsonl";
  const std::string& path = input.find('\n') == input.npos ? one : lines;
  MemoryFiles files;
  files.put(path, std::string(input));
  const os::ScopedSystem scope(files);
  const FoundRecords found = read_records(std::vector{path});
  if (const size_t which = drawn(input, kUses * kOneIn); which < kUses) use(found, which);
}

std::vector<std::string> seeds() {
  std::vector<std::string> seeds;
  const std::string fp16 = test_record({.runs = 2}).dump();
  const std::string int8 = test_record({.precision = "int8", .rate = 140, .runs = 2}).dump();
  const std::string failed = test_record({.status = "failed"}).dump();
  for (const std::string& record : {fp16, "[" + fp16 + "," + int8 + "]", fp16 + "\n" + int8 + "\n" + failed,
                                    whole_record(Precision::fp16, false), whole_record(Precision::int8, true)}) {
    seeds.push_back(record);
    for (size_t which = 0; which < kUses; ++which) {  // each for each use
      seeds.push_back(record);
      while (drawn(seeds.back(), kUses * kOneIn) != which) seeds.back() += ' ';
    }
  }
  return seeds;
}

void mutate(std::string* input, std::string_view other, Random& random) { mutate_json(input, other, random, kWords); }

}  // namespace quantbench::fuzz
