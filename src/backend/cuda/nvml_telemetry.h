// Telemetry of NVIDIA's cards, from the library that comes with the driver; opened at run time and never linked.
#pragma once

#include <string>

#include "backend/telemetry.h"

namespace quantbench::cuda {

// uuid: of a card or a MIG slice, as CUDA tells it. A slice has clocks, temperature and slowdowns in common with its
// card, and no power or energy of its own: those are not told.
OpenedTelemetry open_nvml_telemetry(const std::string& uuid, const std::string& library = "libnvidia-ml.so.1");

}  // namespace quantbench::cuda
