// Why a cell is as fast as it is: what a worker tells of its decode steps, and what a record makes of it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/outlier_ops.h"
#include "backend/step_parts.h"
#include "core/json.h"

namespace quantbench {

constexpr int kOutlierSteps = 8;  // of the generation, that outliers are counted in

// Of a worker, when its runs are over.
struct ExplainReport {
  std::string missing;  // why times and outliers are not there; empty: they are
  // Whose kernels the times are of: those of a persistent engine, which is one kernel, cannot be told apart.
  std::string engine;
  double step_ns = 0;  // a whole step by that engine
  ByPart<std::optional<double>> part_ns;
  ByPart<std::optional<int>> part_launches;
  int rounds = 0;
  int outlier_steps = 0;  // 0: no linear is int8
  ByPart<OutlierCount> outliers;
};

// A card that a cell's speed is predicted for.
struct OtherCard {
  const char* name;
  double bytes_per_second;
  int64_t memory_bytes;
  const char* source;  // for people
};
std::span<const OtherCard> other_cards();

// What reports read of a record's `explain`.
struct PredictionView {
  std::string card;
  double card_bytes_per_second = 0;
  double tokens_per_second = 0;
  bool fits = true;  // the cell's peak of memory into the card's
};
struct ExplainView {
  std::optional<int> launches;  // a step
  std::optional<double> read_bytes_per_second, bytes_per_step;
  std::vector<std::pair<std::string, double>> part_bytes;  // of a step; in the order of StepPart
  std::string engine, missing;
  std::optional<double> step_ns;
  std::vector<std::pair<std::string, double>> part_shares;     // of the parts' times together
  std::optional<double> outlier_share;                         // of all columns
  std::vector<std::pair<std::string, double>> outlier_shares;  // of each part that has int8 linears
  std::vector<PredictionView> predictions;
};

namespace protocol {
nlohmann::json to_json(const ExplainReport& report);
ExplainReport explain_report_from(const nlohmann::json& j);
nlohmann::json to_json(const ByPart<PartBytes>& bytes);
ByPart<PartBytes> part_bytes_from(const nlohmann::json& j);
}  // namespace protocol
}  // namespace quantbench
