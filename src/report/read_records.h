// Records from disk, as people hand them over: files and folders, also of other machines, and some of them damaged.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bench/record.h"
#include "report/record_json.h"

namespace quantbench {

struct FoundRecords {
  std::vector<Record> records;
  std::vector<std::string> paths;     // where each of them was
  std::vector<std::string> problems;  // "PATH: why it is left out", of files that cannot be taken as records
};

// Every record in these files and, however deep, folders (*.json and *.jsonl; links to folders are not followed), in
// order of argument and name, each file once. A file may hold one record, an array of them (run -o json) or one a line
// (run -o jsonl); one that was named and is a database (report/database.h) has many, of which those of one sweep
// may be asked for. Other JSON is passed over in a folder and a problem where it was named itself. Each record has been
// checked (record_problem); single steps are as Spans::steps has them. Error usage where a name is not there, or where
// no record at all was found; Error disk.
FoundRecords read_records(std::span<const std::string> files_or_folders, const std::string& sweep = "");

// The same without holding all at once. `prepare` is called from several threads, with a record, what reports need of
// it, and where it was; what it returns is called in the caller's thread, in order. Returns the problems. No Error
// where there is no record; else whatever prepare throws.
using Prepare = std::function<std::function<void()>(Record&& record, RecordView&& view, const std::string& path)>;
std::vector<std::string> for_each_record(std::span<const std::string> files_or_folders, Spans spans,
                                         const Prepare& prepare, const std::string& sweep = "");

// Why this JSON is no record that may be shown: another schema or version, a field that is missing or of another type,
// a unit other than the metric's, a summary that is not that of its samples (edited by hand). Empty: it is one.
std::string record_problem(const Record& record);

}  // namespace quantbench
