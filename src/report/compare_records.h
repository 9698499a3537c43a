// Two sets of records side by side: what became faster, slower, larger, worse, and what cannot be said (docs/method.md,
// Comparing records; docs/gate.md). Pure functions of records.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/comparison.h"
#include "report/cell_match.h"
#include "report/read_records.h"

namespace quantbench {

struct CompareOptions {
  double threshold = kSameThreshold;            // of speed
  std::optional<double> first_token_threshold;  // of time to first token; nothing: that of speed
  double memory_threshold = 0.05;               // of peak memory
  double quality_threshold = 0.01;              // of perplexity
  double kl_threshold = 0.01;                   // of the mean divergence from FP16, in nats
  bool any_device = false;                      // a gate also takes measurements of two devices
  std::string name_a = "A", name_b = "B";
  double of_first_token() const { return first_token_threshold.value_or(threshold); }
};

// Speed or time to first token of both sides.
struct SpeedChange {
  std::string_view metric;
  Unit unit = Unit::per_second;
  double a = 0, b = 0;              // medians
  double ratio = 1;                 // how many times as fast B is: above 1 where it is better
  std::optional<double> low, high;  // nothing where one side has too few runs for an interval
  double adjusted_p = 1;
  Difference difference = Difference::ambiguous;
  // A median lies outside the other side's interval: the processes differ by more than the runs of one.
  bool outside = false;
};

enum class Effect : uint8_t { better, worse, same, ambiguous };

// Of figures that are not speeds, where less is better.
struct FigureChange {
  double a = 0, b = 0;
  double change = 0;  // b / a − 1; of a divergence b − a
  std::optional<double> low, high;
  Effect effect = Effect::same;
};

// What a gate makes of a cell and of all of them, from best to worst.
enum class Outcome : uint8_t { fine, ambiguous, not_comparable, regression };
std::string_view name_of(Outcome outcome);
int exit_code(Outcome outcome);  // 0, 2, 3, 1

struct ComparedPair {
  ComparedCell a, b;
  std::optional<SpeedChange> speed, first_token;
  std::optional<FigureChange> memory, perplexity, kl;
  std::optional<FigureChange> joules;  // shown; its effect says nothing
  std::vector<std::string> notes;      // that stand beside the figures: other engines, other answers, flags
  Outcome outcome = Outcome::fine;
  std::vector<std::string> reasons;  // of the outcome
};

struct RecordsCompared {
  CompareOptions options;
  std::vector<ComparedPair> pairs;
  std::vector<Unmatched> refused;           // on both sides, not to be compared
  std::vector<std::string> only_a, only_b;  // labels
  // What the compared cells of the sides differ in beside their figures: "commit: abc against def", "device: …".
  std::vector<std::string> circumstances;
  std::vector<std::string> problems_a, problems_b;  // files that could not be taken
  Outcome outcome = Outcome::fine;                  // the worst of all
  int count(Difference difference) const;           // of the pairs by speed
  int count_outside() const;                        // the same, though a median lies outside the other's interval
};

// INVALID cells are refused, as is what has no figure. Differences of speed are Holm-adjusted over all pairs, speed and
// time to first token together.
RecordsCompared compare_records(const FoundRecords& a, const FoundRecords& b, const CompareOptions& options = {});

// What compare prints: the cells side by side, then everything that must be known beside them.
std::string comparison_text(const RecordsCompared& compared);
std::string comparison_markdown(const RecordsCompared& compared);
std::string comparison_csv(const RecordsCompared& compared);
Record comparison_json(const RecordsCompared& compared);

// A gate's, with the outcome of each cell and of all. Markdown of more than `limit` bytes leaves out cells that are
// fine, and says so.
std::string gate_text(const RecordsCompared& compared);
std::string gate_markdown(const RecordsCompared& compared, size_t limit = SIZE_MAX);
std::string gate_csv(const RecordsCompared& compared);
Record gate_json(const RecordsCompared& compared);

}  // namespace quantbench
