// The kernels of the CUDA backend, run on the host by the emulator, against the reference: every op × format of the
// case table that is small enough for that.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "backend/ops_comparison.h"
#include "backend/test_backends.h"

namespace quantbench {
namespace {

std::vector<OpCase> small_cases() {
  std::vector<OpCase> cases;
  for (const OpCase& c : op_cases()) {
    if (c.rows <= 33 || (c.rows <= 130 && c.shape.hidden % 64 == 0) || c.rows == kLongContext) cases.push_back(c);
  }
  return cases;
}

// The emulator runs a few million lanes a second.
CaseSizes emulated_sizes(const OpCase& c) {
  CaseSizes s = test_sizes(c);
  if (c.shape.hidden < 1024) return s;
  s.heads = std::max(s.heads / 4, 1) / std::max(s.kv_heads / 4, 1) * std::max(s.kv_heads / 4, 1);
  s.kv_heads = std::max(s.kv_heads / 4, 1);
  if (c.kind != OpKind::add_linear) s.ff = 83;
  return s;
}

class EmulatedOpsTest : public testing::TestWithParam<OpCase> {};

TEST_P(EmulatedOpsTest, AgreesWithTheReference) {
  std::vector<Candidate> emulated;
  emulated.push_back({"cuda, emulated", make_test_backend(kEmulatedCuda), Activations::fp16});
  expect_agreement(GetParam(), emulated_sizes(GetParam()), emulated);
}

using EmulatedInt8SumsTest = EmulatedOpsTest;
TEST_P(EmulatedInt8SumsTest, AreThoseOfTheReferenceToTheBit) {
  std::vector<Candidate> emulated;
  emulated.push_back({"cuda, emulated", make_test_backend(kEmulatedCuda), Activations::fp16});
  expect_agreement(GetParam(), emulated_sizes(GetParam()), emulated, Numbers::small_sums);
}

TEST(EmulatedReadProbe, TakesBytesThatAreNoWholeNumberOfPieces) {
  const auto backend = make_test_backend(kEmulatedCuda);
  constexpr size_t kBytes = 200'000;  // no whole number of pieces
  const auto probe = backend->read_probe(kBytes);
  EXPECT_GT(probe->measure(), 0);
  EXPECT_THAT(probe->kernel(), testing::HasSubstr("16-byte loads"));
}

// What a batch or a prompt takes on a machine without cuBLASLt.
class EmulatedOpsWithoutLibraryTest : public testing::TestWithParam<OpCase> {};

struct LibraryOff {
  LibraryOff() { setenv("QUANTBENCH_CUBLASLT", "off", 1); }
  ~LibraryOff() { unsetenv("QUANTBENCH_CUBLASLT"); }
};

TEST_P(EmulatedOpsWithoutLibraryTest, AgreesWithTheReference) {
  const LibraryOff off;
  std::vector<Candidate> emulated;
  emulated.push_back({"cuda, emulated, without a library", make_test_backend(kEmulatedCuda), Activations::fp16});
  expect_agreement(GetParam(), emulated_sizes(GetParam()), emulated);
}

std::vector<OpCase> prompts() {
  std::vector<OpCase> cases;
  for (const OpCase& c : op_cases()) {
    if ((c.rows == 5 || c.rows == 17 || c.rows == 33) && c.shape.hidden == kSmall.hidden) cases.push_back(c);
  }
  return cases;
}

// Hopper's tensor products, of tiles that are whole and of such as are not, and of one that two blocks share.
class EmulatedTensorProductsTest : public testing::TestWithParam<OpCase> {};

TEST_P(EmulatedTensorProductsTest, AgreeWithTheReference) {
  const LibraryOff off;  // which would be preferred for some
  std::vector<Candidate> emulated;
  emulated.push_back({"cuda, emulated Hopper", cuda_emulated::make_backend({.gpu = cuda_emulated::kEmulatedHopper}),
                      Activations::fp16});
  expect_agreement(GetParam(), test_sizes(GetParam()), emulated);
}

std::vector<OpCase> tensor_cases() {
  constexpr OpShape kWhole = {"whole", 512, 4, 2, 64, 64, 768, 4096, false, true, Act::silu};
  constexpr OpShape kParts = {"parts", 304, 5, 5, 80, 32, 1104, 1000, true, true, Act::gelu_tanh};
  std::vector<OpCase> cases;
  for (const OpShape& shape : {kWhole, kParts}) {
    for (const OpKind kind : {OpKind::add_linear, OpKind::gated_up, OpKind::project, OpKind::attention}) {
      for (const Format format : {Format::f16, Format::int8, Format::nf4}) {
        for (const int rows : {65, 128, 201}) cases.push_back({kind, shape, format, rows});
        if (format == Format::f16 && kind != OpKind::gated_up) cases.push_back({kind, shape, Format::bf16, 65});
        // Turned: a tile of 272 rows. (NF4's 65, 128 and 201 are tiles of 256.)
        if (kind == OpKind::gated_up && format != Format::int8) cases.push_back({kind, shape, format, 263});
      }
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Prompts, EmulatedTensorProductsTest, testing::ValuesIn(tensor_cases()), op_test_name);
INSTANTIATE_TEST_SUITE_P(Prompts, EmulatedOpsWithoutLibraryTest, testing::ValuesIn(prompts()), op_test_name);
INSTANTIATE_TEST_SUITE_P(Ops, EmulatedInt8SumsTest, testing::ValuesIn(int8_products(small_cases())), op_test_name);
INSTANTIATE_TEST_SUITE_P(Ops, EmulatedOpsTest, testing::ValuesIn(small_cases()), op_test_name);

}  // namespace
}  // namespace quantbench
