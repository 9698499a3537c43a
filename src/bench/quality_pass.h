// The worker's part of measuring quality: several models in one process, each on a backend of its own, read the same
// texts side by side, and are compared a few rows of logits at a time: the logits of a text are never all in memory.
#pragma once

#include <functional>

#include "backend/backend.h"
#include "bench/protocol.h"
#include "bench/quality.h"

namespace quantbench {

using ChooseDevice = std::function<ChosenDevice(std::string_view name, const BackendOptions&)>;

// Rows of logits that each model has ready at once, on its device and on the host: of 128,256 ids 16 MB.
constexpr int kScoredRows = 32;

// progress: 0 while models are loaded, then the share of texts that are done. Error out_of_memory, with the figures,
// where the models are not predicted to fit together; internal for logits that are not finite; else as of loading and
// of Session::force.
QualityReport measure_quality(const QualityRequest& request, const ChooseDevice& choose, const OnProgress& progress);

}  // namespace quantbench
