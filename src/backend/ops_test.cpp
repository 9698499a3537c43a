// Every op × format of the case table on every backend, and on every instruction set that this machine has, against the
// reference.
#include <gtest/gtest.h>

#include "backend/ops_comparison.h"
#include "backend/test_backends.h"
#include "core/error.h"

namespace quantbench {
namespace {

// Every backend but the reference; the cpu backend once for each instruction set that runs here.
std::vector<Candidate> candidates() {
  std::vector<Candidate> list;
  for (const std::string& name : backend_names()) {
    if (name == "reference") continue;
    if (name == "cuda") {
      if (tests_cuda()) list.push_back({name, make_backend(name, {}), Activations::fp16});
      continue;
    }
    for (const char* isa : {"avx2", "avx512"}) {
      try {
        list.push_back({name + "/" + isa, make_backend(name, {.threads = 2, .isa = isa})});
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::device) throw;
      }
    }
  }
  return list;
}

class OpsTest : public testing::TestWithParam<OpCase> {};

TEST_P(OpsTest, AgreesWithTheReference) {
  const std::vector<Candidate> others = candidates();  // made for each case: a backend keeps the weights that it packed
  expect_agreement(GetParam(), test_sizes(GetParam()), others);
}

using Int8SumsTest = OpsTest;
TEST_P(Int8SumsTest, AreThoseOfTheReferenceToTheBit) {
  expect_agreement(GetParam(), test_sizes(GetParam()), candidates(), Numbers::small_sums);
}

INSTANTIATE_TEST_SUITE_P(Ops, OpsTest, testing::ValuesIn(op_cases()), op_test_name);
INSTANTIATE_TEST_SUITE_P(Ops, Int8SumsTest, testing::ValuesIn(int8_products(op_cases())), op_test_name);

}  // namespace
}  // namespace quantbench
