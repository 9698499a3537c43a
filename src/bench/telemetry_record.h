// The parts of a record that say what the device told of itself and what energy a token took.
#pragma once

#include <string>

#include "bench/cell_data.h"
#include "bench/record.h"

namespace quantbench {

Record run_telemetry_part(const std::optional<RunTelemetry>& telemetry);  // of one run
// Of the cell, over its timed runs. missing: why a device was not watched.
Record telemetry_part(const CellData& data, const std::string& missing);
Record energy_part(const std::optional<EnergyReport>& energy);

}  // namespace quantbench
