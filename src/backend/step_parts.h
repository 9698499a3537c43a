// A decode step by what its ops are for: the rows in which its time, bytes and outliers are told.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "backend/cost_ops.h"
#include "backend/ops.h"

namespace quantbench {

// As CostOf, whose bytes these are, and the choice of the next token, which reads no weights.
enum class StepPart : uint8_t { embedding, qkv, attention, output_linear, mlp, head, choice };
constexpr int kStepParts = 7;
std::string_view name_of(StepPart part);

template <typename T>
struct ByPart {
  std::array<T, kStepParts> of{};
  T& operator[](StepPart part) { return of[static_cast<size_t>(part)]; }
  const T& operator[](StepPart part) const { return of[static_cast<size_t>(part)]; }
  bool operator==(const ByPart&) const = default;
};

// The ops of each part in the step's order. A projection is the head's where the choice follows, else the MLP's.
ByPart<Tape> cut_by_part(const Tape& step);

// What one step must read of a part; as CellLoad has it of all together.
struct PartBytes {
  size_t weight_bytes = 0;       // for all sequences
  size_t kv_position_bytes = 0;  // keys and values of one position of one sequence
  size_t kv_fixed_bytes = 0;     // those that are read whole whatever the context, of all sequences
  bool operator==(const PartBytes&) const = default;
};
// sequences: rows of the step.
ByPart<PartBytes> bytes_by_part(const Tape& step, int sequences);

}  // namespace quantbench
