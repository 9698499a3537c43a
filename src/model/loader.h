// Fills a model: reads each tensor once, converts, quantises on all threads and packs straight into place.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/weight_source.h"
#include "model/model.h"

namespace quantbench {

struct LoadReport {
  int64_t duration_ns = 0;
  int64_t bytes_read = 0;            // of the source's tensors, as stored
  MemoryUse resident;                // what loading took; equal to the plan's prediction
  std::vector<std::string> skipped;  // linears left in fp16 where others are quantised: "lm_head"
};

// done and total in bytes of the source; called from the loading thread, a few times a matrix.
using LoadProgress = std::function<void(int64_t done, int64_t total)>;

// `plan` is backend.plan of this model's decode step. Refuses, before anything is packed, a source whose tensors are
// not those of the model (missing, unknown, other shape or type), naming them. Beside what stays, at most one matrix is
// held at a time. Error bad_model, disk, out_of_memory.
LoadReport load(Model& model, const WeightSource& source, Backend& backend, const Plan& plan,
                const LoadProgress& progress = {});

}  // namespace quantbench
