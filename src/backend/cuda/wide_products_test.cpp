#include "backend/cuda/wide_products.h"

#include <gtest/gtest.h>

#include "backend/cuda/cuda.h"

namespace quantbench::cuda_emulated {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

size_t scratch_bytes(size_t cache_bytes, int k) { return expanded_at_once(cache_bytes, k) * sizeof(uint16_t); }

TEST(ExpandedNf4, IsOfThirtyTwoMiBWhereItWasMeasured) {
  for (const size_t cache : {50 * kMiB, 60 * kMiB, 96 * kMiB}) EXPECT_EQ(scratch_bytes(cache, 8192), 32 * kMiB);
  EXPECT_EQ(scratch_bytes(0, 8192), 32 * kMiB) << "a cache that is not told";
}

TEST(ExpandedNf4, StaysInASmallerCache) {
  EXPECT_EQ(scratch_bytes(6 * kMiB, 2048), 4 * kMiB) << "a Quadro RTX 8000";
  EXPECT_EQ(scratch_bytes(40 * kMiB, 8192), 40 * kMiB * 2 / 3) << "an A100";
}

TEST(ExpandedNf4, HoldsAtLeastATile) {
  EXPECT_EQ(expanded_at_once(kMiB, 14336), size_t{128} * 14336);
  EXPECT_EQ(expanded_at_once(50 * kMiB, 1 << 20), size_t{128} << 20);
}

// Of a step with one product of NF4: two cards differ in their scratch and in nothing else.
TEST(ExpandedNf4, IsWhatAPlanPredictsAndTheWorkspaceTakes) {
  constexpr int kRows = 40, kK = 256, kN = 1024;
  const Linear linear{Nf4Matrix{kN, kK}, nullptr};
  Tape step;
  step.emplace_back(AddLinear{{nullptr, DType::f32, kRows, kN}, {nullptr, DType::f32, kRows, kK}, &linear});
  const WideShape small = wide_shape(step, kRows, 48 << 10, false), large = wide_shape(step, kRows, 50 * kMiB, false);
  EXPECT_EQ(small.scratch_numbers, size_t{128} * kK) << "a tile, since two thirds of the cache are less";
  EXPECT_EQ(large.scratch_numbers, size_t{kN} * kK) << "all of it";
  const auto turing = make_backend({}), hopper = make_backend({.gpu = kEmulatedHopper});
  const auto predicted = [&](Backend& backend) { return backend.plan(step, kRows).predicted[Use::workspace]; };
  EXPECT_EQ(predicted(*hopper) - predicted(*turing), size_t{kN - 128} * kK * sizeof(uint16_t));
}

}  // namespace
}  // namespace quantbench::cuda_emulated
