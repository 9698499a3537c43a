// How the device's copy engine finds boxes of a weight matrix.
#pragma once

#include "backend/cuda/persistent/persistent_plan.h"

namespace quantbench::QB_CUDA {

// Boxes of twice kUnitRows / 2 rows and slot_chunks chunks, swizzled over 128 bytes. Error device.
TensorMap make_tensor_map(const MapShape& shape);

}  // namespace quantbench::QB_CUDA
