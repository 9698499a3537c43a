// A decode step as one launch of the persistent kernel.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/cuda/runtime.h"
#include "backend/ops.h"

namespace quantbench::QB_CUDA {

// Bytes of device memory that a program for this tape takes, which has no obstacle (persistent_plan.h).
size_t persistent_program_bytes(const Tape& tape, int multiprocessors, size_t shared_bytes);
// memory: that many bytes. stuck: four words on the host that the device can write (PersistentArgs). stalls: for tests,
// makes a step wait for what only a later one gives; the tape then has two attentions.
std::unique_ptr<Program> make_persistent_program(Runtime& runtime, const Tape& tape, const Tables& tables,
                                                 std::byte* memory, uint32_t* stuck, bool stalls);

}  // namespace quantbench::QB_CUDA
