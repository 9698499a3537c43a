// What a record says of why its cell is as fast as it is, and what reports read back.
#pragma once

#include "bench/cell.h"
#include "bench/cell_data.h"
#include "bench/explain.h"
#include "bench/record.h"

namespace quantbench {

// Null of a cell without decode steps in its timed runs. read_share: the cell's, or nothing where it says nothing.
Record explain_part(const Cell& cell, const CellData& data, std::optional<double> read_share);
ExplainView explain_view_of(const Record& part);  // of explain_part()

}  // namespace quantbench
