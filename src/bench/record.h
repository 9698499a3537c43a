// A record: everything known of one measured cell, as one JSON document (docs/record.schema.json). It is made once,
// on the machine that measured; every report is made from records. Fields are only ever added.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "bench/explain.h"
#include "bench/summary.h"

namespace quantbench {

using Record = nlohmann::ordered_json;

// What is not known stands in a record as null.
template <typename T>
Record or_null(const std::optional<T>& value) {
  return value ? Record(*value) : Record(nullptr);
}
inline Record text_or_null(const std::string& text) { return text.empty() ? Record(nullptr) : Record(text); }

constexpr int kRecordVersion = 1;

// Objects one key a line, arrays that hold no object on one line: records can be read and compared line by line.
std::string to_text(const Record& record);
// 64 hex digits over all names and values of a record as it was read, in their order, but for the times of single steps
// ("spans", "step_ns") and "content_sha256" itself, which says what it was when the record was made.
std::string content_sha256(const Record& record);
// Adds "content_sha256" as the text of the record will be read.
void seal(Record* record);

// A model as people read it: never without the word that its text means nothing.
std::string shown_name(const std::string& model, bool random_weights);

// "int8 A": of a precision, which half of an A/A run it is, or the precision alone.
std::string with_half(const std::string& precision, const std::string& half);

// A cell's memory at the end, as it was booked and as others count it.
struct MemoryView {
  std::string counted_by;
  int64_t end_bytes = 0, accounted_bytes = 0;
  bool on_gpu = false;
  std::optional<int64_t> driver_process_bytes, driver_device_bytes, taken_bytes;
};

// What a picture took on the host before the runs.
struct PictureView {
  int width = 0, height = 0, size = 0;  // of the file, and of a side when it was resized
  double decode_ns = 0, resize_ns = 0;
};

// What reports need of a record, typed. Members that a record lacks stay empty.
struct RecordView {
  std::string model, precision, precision_long, test, kind;
  int prompt_tokens = 0, new_tokens = 0, depth = 0, batch = 1;
  bool stop_at_eos = false, host_tokens = false;
  std::string half;            // "A" or "B" of an A/A run, else empty
  std::string device;          // by name; empty: none was opened
  std::string engine, tuning;  // empty, "none" or "auto": it was not loaded, or has none
  std::string status, error, stop_reason;
  Stamp stamp;
  std::optional<std::string> response_text;
  std::vector<int32_t> response_ids;  // of all sequences, one after another
  bool random_weights = false;
  int outlier_channels = 0;
  bool in_cache = false;  // what a token reads fits into the last-level cache: a share of DRAM bandwidth says nothing
  // Of the rate at which memory was read beside it, where that is less than the card is known for, so that no share of
  // it is told: both in bytes per second.
  std::optional<std::pair<double, double>> best_and_known_read;
  bool energy_estimated = false;       // from samples of power
  std::optional<PictureView> picture;  // of cells that had one
  std::vector<MemoryView> memory;      // of each device; empty of records that were not reconciled
  std::vector<Summary> metrics;
  uint64_t seed = 0;
  std::string imported_from;           // the program that measured it; empty: ours
  std::optional<QualityView> quality;  // where it was asked for
  std::optional<ExplainView> explain;  // of cells with decode steps; older records have none
  const Summary* find(std::string_view metric) const;
  std::string shown_model() const { return shown_name(model, random_weights); }
  // What most checkpoints are stored in, measured to be compared with. Of other programs it is what they say it is.
  bool is_baseline() const { return precision == "bf16" && imported_from.empty(); }
  std::string shown_precision() const { return with_half(is_baseline() ? "bf16 (baseline)" : precision, half); }
};
RecordView view_of(const Record& record);

// Whether they are the same cell, on whatever day and device: the same model in the same precision, the same test, by
// the same engine with the same tuning. Only such are measurements of one thing.
bool are_alike(const RecordView& a, const RecordView& b);
// Whether this names an engine that a backend of several ran a cell on.
bool is_one_of_several(std::string_view engine);

// Writes to `folder` (created if need be), atomically, one file a record, named after model, precision, test, on a
// GPU engine, and half of an A/A run; returns the path. A file that is there is kept, unless it is one of `replaced`.
// Error disk.
std::string write_record(const Record& record, const std::string& folder,
                         const std::vector<std::string>& replaced = {});
// "llama-3.2-1b" of "meta-llama/Llama-3.2-1B": for file names.
std::string file_name_part(const std::string& name);

}  // namespace quantbench
