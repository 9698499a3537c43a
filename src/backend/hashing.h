// A hash of words in their order that may be added up in any order, the same on every backend: what checks hold
// thousands of steps to, where keeping their logits would be out of the question.
#pragma once

#include <cstdint>

#include "backend/sampling.h"

namespace quantbench {

// Of one word at its place; of several, the sum.
QB_ANYWHERE constexpr uint64_t hash_term(uint32_t word, uint32_t place) { return mix64(uint64_t{place} << 32 | word); }
// That sum added to the hash of what came before.
QB_ANYWHERE constexpr uint64_t fold_hash(uint64_t before, uint64_t sum) { return mix64(mix64(before) ^ sum); }

}  // namespace quantbench
