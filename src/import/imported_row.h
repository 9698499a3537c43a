// One measurement as another program tells it, and the record that it becomes.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "import/import.h"

namespace quantbench {

// A figure that was published without its samples.
struct PublishedFigure {
  double value = 0;              // a mean, where there is a deviation; else as it was printed
  std::optional<double> stddev;  // of runs
};

struct ImportedRow {
  int line = 0;  // of the file, from 1
  std::string tool, format;
  std::string engine;  // what ran the model
  std::string tuning;  // its settings, as far as they are told
  std::string model;   // empty: not told
  std::string precision, precision_long;
  std::string kind = "generation", test;
  std::optional<int> prompt_tokens, new_tokens, depth, batch;
  std::string device, cpu;  // empty: not told
  bool on_cpu = false;      // told
  int devices = 1;
  std::string started_utc, error;
  std::string set;                        // which of several sets of results the file says that it is of
  std::vector<double> run_ns;             // of each run the whole time; empty: samples are not told
  std::vector<std::string> derived_from;  // what was computed, and not read: "new_tokens: latency × rate"
  // By metric: samples, a value a run, and figures without samples, in the units of records.
  std::map<std::string, std::vector<double>> samples;
  std::map<std::string, PublishedFigure> figures;
  Record as_read;  // the row as the file has it
};

// Of which file rows are.
struct ImportedFile {
  std::string path, sha256;
};

Record record_of(const ImportedRow& row, const ImportedFile& file, const ImportOptions& options);

// The name of a test as records have it: "pp512", "tg64 @ d512", "p8+n64"; "generation" where no count is told.
std::string test_name(const ImportedRow& row);

// No figure of a measurement is larger, in any unit; sums and products of two are finite, and times fit an int64.
constexpr double kLargestNumber = 1e18;
constexpr double kMostTokens = 1e9;  // of a prompt, an answer or a context

// Where a row stands, for errors.
struct Where {
  std::string path;
  int line = 0;
  [[noreturn]] void refuse(const std::string& expected, const std::string& found) const;
  double number(const std::string& field, const std::string& text) const;  // from 0 to kLargestNumber
  // Of a run, in nanoseconds, where `value` counts so many of them: from one to kLargestNumber.
  double time_ns(const std::string& field, const Record& value, double unit_ns) const;
};

std::string trimmed(std::string_view text);
std::vector<std::string> lines_of(std::string_view content);                       // without their ends
std::vector<std::string> csv_fields(const std::string& line, const Where& where);  // RFC 4180
std::vector<std::string> split_at(const std::string& line, char separator);        // trimmed

// Each takes a file's content of its format apart.
std::vector<ImportedRow> llama_bench_json(const Record& row, const Where& where);
std::vector<ImportedRow> llama_bench_csv(std::string_view content, const std::string& path);
std::vector<ImportedRow> llama_bench_markdown(std::string_view content, const std::string& path);
std::vector<ImportedRow> optimum_benchmark(const Record& benchmark, const Where& where);
std::vector<ImportedRow> predecessor_csv(std::string_view content, const std::string& path);
std::vector<ImportedRow> predecessor_collected(std::string_view content, const std::string& path);
std::vector<ImportedRow> predecessor_text(std::string_view content, const std::string& path);

}  // namespace quantbench
