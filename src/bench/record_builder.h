// Makes the record of a cell from what was measured.
#pragma once

#include <functional>

#include "bench/cell.h"
#include "bench/cell_data.h"
#include "bench/environment.h"
#include "bench/identity.h"
#include "bench/measure.h"
#include "bench/record.h"

namespace quantbench {

// What the records of a sweep have in common.
struct SweepFacts {
  std::string started_utc;
  Environment environment;
  BuildInfo build;
  MeasureOptions options;
  std::optional<DeviceInfo> device;  // what --device stood for; nothing: no cell got so far
  std::string telemetry_missing;     // why no card is watched; empty: one is
};
// What the parent knows of a cell beside the cell itself.
struct CellFacts {
  ModelIdentity identity;
  std::optional<std::string> prompt_text;
  // Text of response ids; null without a tokenizer.
  std::function<std::string(const std::vector<int32_t>&)> decode;
};

Record make_record(const Cell& cell, const CellData& data, const SweepFacts& sweep, const CellFacts& facts);

}  // namespace quantbench
