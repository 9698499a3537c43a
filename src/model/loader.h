// Fills a model: reads each tensor once, converts, quantises (on all threads, or on the device where the backend can)
// and packs straight into place.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/random_weights.h"
#include "checkpoint/weight_source.h"
#include "model/model.h"

namespace quantbench {

struct LoadReport {
  int64_t duration_ns = 0;
  int64_t bytes_read = 0;  // of the source's tensors, as stored
  MemoryUse resident;      // what loading took; equal to the plan's prediction
};

// done and total in bytes of the source; called from the loading thread, a few times a matrix.
using LoadProgress = std::function<void(int64_t done, int64_t total)>;

// Everything that can be known before a byte is read: the source's tensors are those of the model (none missing or
// unknown, shapes and types right), and those that were saved quantised are those that should be. Error bad_model,
// naming them.
void check_fits(std::span<const WeightSlot> slots, const WeightSource& source);

// What random weights a model takes: those that are not tied to another.
std::vector<RandomTensor> random_tensors(Model& model);

// `plan` is backend.plan of this model's decode step. Refuses, before anything is packed, a source whose tensors are
// not those of the model (missing, unknown, other shape or type), naming them. Beside what stays, at most one matrix is
// held at a time. Error bad_model, disk, out_of_memory.
LoadReport load(Model& model, const WeightSource& source, Backend& backend, const Plan& plan,
                const LoadProgress& progress = {});

}  // namespace quantbench
