// Which measurements of two sides are of the same cell (docs/method.md, Comparing records).
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/record.h"

namespace quantbench {

// A cell of a side, with what comparing needs of its record beside the view. What a record does not say stays empty.
struct ComparedCell {
  RecordView view;
  std::string path;  // of its file
  std::string config_sha256, weight_files, weight_seed, parameters, picture, prompt_ids;
  std::string version, commit, build_type, cpu, kernel, driver, started_utc;
  int threads = 0;
  std::string memory_counted_by;
  std::string quality_text_sha256;
  std::vector<double> text_tokens, text_nll, text_kl;  // of each text of its quality
  std::string label() const;                           // "org/model int8 p8+n64"
};
ComparedCell compared_cell(const Record& record, const std::string& path);

struct FieldDifference {
  std::string field, a, b;
};
// In which the two are not one cell: model, weights, precision, test. Not among them is what a comparison is for: the
// program, its engine and tuning, machine, device and day. What one of them does not say is no difference.
std::vector<FieldDifference> identity_differences(const ComparedCell& a, const ComparedCell& b);
std::string to_text(std::span<const FieldDifference> differences);  // "new tokens 64 against 128, batch 1 against 8"

struct Unmatched {
  std::string cell, reason;
};

// Places in the lists that were matched.
struct CellMatches {
  std::vector<std::pair<size_t, size_t>> pairs;
  std::vector<Unmatched> refused;      // there on both sides, and yet not to be compared
  std::vector<size_t> only_a, only_b;  // in the order of the list
};

// A cell that is there once on each side is matched, whatever it ran on. Of one that is there more often (on several
// devices or engines, as halves of an A/A run, with several tunings) those are matched that also have these in common.
CellMatches match_cells(std::span<const ComparedCell> a, std::span<const ComparedCell> b);

}  // namespace quantbench
