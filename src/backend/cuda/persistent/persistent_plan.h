// From a decode step's tape to the steps of the persistent kernel: which there are, who does what, what they exchange.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backend/cuda/persistent/step.h"
#include "backend/ops.h"

namespace quantbench::QB_CUDA {

struct MapShape {  // of a tensor map: the weight rows as [low and high][chunk][row][128 bytes]
  const void* w = nullptr;
  int rows = 0, chunks = 0, slot_chunks = 0;
  bool half = false;      // elements are fp16, else bytes
  size_t high_bytes = 0;  // from a unit's low rows to its high rows
};

struct PersistentPlan {
  std::vector<Step> steps;  // pointers into the exchange are offsets from null, made real by place()
  std::vector<MapShape> maps;
  size_t exchange_words = 0;
  PersistentArgs args;  // all but device pointers
  KernelKind kind;
  size_t shared_bytes = 0;
};

// Why a tape cannot be run so, a sentence, or nothing. Looks at shapes alone.
std::string persistent_obstacle(const Tape& tape, size_t shared_bytes);
// tape: one row, without an obstacle. exchange: exchange_words of device memory, or null to learn how many.
// memory_rate: as Runtime's.
PersistentPlan make_persistent_plan(const Tape& tape, int multiprocessors, size_t shared_bytes, Tagged* exchange,
                                    double memory_rate = 0);
// For records: "ring 9x10240, 6 on the way; pieces 5/1 8/2h": slots and their bytes, how many may be asked for, and for
// each kind of product the chunks of a slot and of a piece, h where a unit is eight rows.
std::string tuning_of(const PersistentPlan& plan);

}  // namespace quantbench::QB_CUDA
