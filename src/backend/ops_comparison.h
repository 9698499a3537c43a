// One op case on backends and on the reference, with fresh random inputs (the seed is printed; QB_SEED repeats one) and
// outputs poisoned before the run. For tests.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "backend/ops_fixture.h"

namespace quantbench {

struct Candidate {
  std::string name;
  std::unique_ptr<Backend> backend;
  Activations activations = Activations::fp32;
};

void expect_agreement(const OpCase& c, const CaseSizes& sizes, const std::vector<Candidate>& candidates,
                      Numbers numbers = Numbers::any);

// Those whose int32 sums can be held to the reference's by Numbers::small_sums.
std::vector<OpCase> int8_products(const std::vector<OpCase>& cases);

std::string op_test_name(const testing::TestParamInfo<OpCase>& info);

}  // namespace quantbench
