// Bounds on what a checkpoint may claim to hold, beside the format's own (kMaxSafetensorsHeaderBytes).
#pragma once

#include <cstddef>

namespace quantbench {

// Of a file, and of all shards together. Published models have up to some hundred thousand.
constexpr size_t kMaxTensors = size_t{1} << 18;

}  // namespace quantbench
