// A record: everything known of one measured cell, as one JSON document (docs/record.schema.json). It is made once,
// on the machine that measured; every report is made from records. Fields are only ever added.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "bench/summary.h"

namespace quantbench {

using Record = nlohmann::ordered_json;

constexpr int kRecordVersion = 1;

// Objects one key a line, arrays that hold no object on one line: records can be read and compared line by line.
std::string to_text(const Record& record);

// A model as people read it: never without the word that its text means nothing.
std::string shown_name(const std::string& model, bool random_weights);

// What reports need of a record, typed. Members that a record lacks stay empty.
struct RecordView {
  std::string model, precision, precision_long, test, kind;
  int prompt_tokens = 0, new_tokens = 0, depth = 0, batch = 1;
  std::string status, error, stop_reason;
  Stamp stamp;
  std::optional<std::string> response_text;
  std::vector<int32_t> response_ids;  // of all sequences, one after another
  bool random_weights = false;
  bool in_cache = false;  // what a token reads fits into the last-level cache: a share of DRAM bandwidth says nothing
  std::vector<Summary> metrics;
  uint64_t seed = 0;
  const Summary* find(std::string_view metric) const;
  std::string shown_model() const { return shown_name(model, random_weights); }
};
RecordView view_of(const Record& record);

// Writes to `folder` (created if need be), atomically, one file a record; returns the path. Error disk.
std::string write_record(const Record& record, const std::string& folder);
// "llama-3.2-1b" of "meta-llama/Llama-3.2-1B": for file names.
std::string file_name_part(const std::string& name);

}  // namespace quantbench
