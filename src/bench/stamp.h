// Whether a cell's figures may be believed, and why not.
#pragma once

#include "bench/cell.h"
#include "bench/cell_data.h"
#include "bench/environment.h"
#include "bench/measure.h"
#include "bench/summary.h"

namespace quantbench {

// More of the machine's CPU time than this going to other processes during the timed runs is worth a flag.
constexpr double kOtherCpuLimit = 0.10;
// The backend may round each matrix up (alignment, padding of rows); a second copy of anything is far above this.
constexpr double kResidentTolerance = 0.01;
constexpr size_t kResidentSlackBytes = size_t{256} << 10;

Stamp judge(const Cell& cell, const CellData& data, const MeasureOptions& options, const BuildInfo& build);

}  // namespace quantbench
