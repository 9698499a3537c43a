// Results that other programs measured, as records (docs/record.schema.json) that reports and comparisons read beside
// our own. They stay marked: `imported` says from where, the stamp is FLAGGED, and what the other program does not tell
// is null.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bench/record.h"

namespace quantbench {

struct ImportOptions {
  std::string model, device;  // names to use instead of the file's; empty: the file's, where it has them
  std::string imported_utc;
};

// The rows of one file, whose format is recognised by its content:
//   llama-bench -o json, jsonl, csv and md; optimum-benchmark's benchmark.json; the predecessor's CSV (five columns;
//   nine headings over five or nine values), its text summaries, and its collected results (set,gpu,gpus,model,…).
// Error usage with file, line, what was expected and what was found.
std::vector<Record> import_results(std::string_view content, const std::string& path, const ImportOptions& options);
// The same of a file of up to 256 MiB. Error disk as well.
std::vector<Record> import_file(const std::string& path, const ImportOptions& options);

}  // namespace quantbench
