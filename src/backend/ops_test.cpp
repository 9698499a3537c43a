// Every op × format of the case table on every backend, and on every instruction set that this machine has, against the
// reference: fresh random inputs (seed printed; QB_SEED repeats one), outputs poisoned before the run.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <random>

#include "backend/ops_fixture.h"
#include "core/error.h"
#include "core/os.h"

namespace quantbench {
namespace {

uint64_t seed() {
  static const uint64_t kSeed = [] {
    const auto given = os::environment("QB_SEED");
    const uint64_t value = given ? std::strtoull(given->c_str(), nullptr, 10) : std::random_device{}();
    std::cout << "QB_SEED=" << value << '\n';
    return value;
  }();
  return kSeed;
}

struct Candidate {
  std::string name;
  std::unique_ptr<Backend> backend;
};

// Every backend but the reference; the cpu backend once for each instruction set that runs here.
std::vector<Candidate> candidates() {
  std::vector<Candidate> list;
  for (const std::string& name : backend_names()) {
    if (name == "reference") continue;
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

void expect_near(const std::vector<float>& got, const std::vector<float>& expected, Tolerance t,
                 const std::string& who) {
  ASSERT_EQ(got.size(), expected.size()) << who;
  size_t first = 0;
  const size_t wrong = count_wrong(got, expected, t, &first);
  EXPECT_EQ(wrong, 0u) << who << ": of " << got.size() << " outputs; the first is " << first << ": " << got[first]
                       << " instead of " << expected[first];
}

class OpsTest : public testing::TestWithParam<OpCase> {};

TEST_P(OpsTest, AgreesWithTheReference) {
  const OpCase& c = GetParam();
  const CaseSizes sizes = test_sizes(c);
  // Made for each case: a backend keeps the weights that it packed.
  const auto reference = make_backend("reference", {});
  const std::vector<Candidate> others = candidates();
  const CaseData data(c, sizes, seed(), reference->host_pool());
  const Tolerance tolerance = tolerance_of(c, sizes);
  for (const float temperature : {0.0f, 0.8f}) {
    if (temperature > 0 && c.kind != OpKind::next_token) break;
    const Sampling sampling{temperature, seed()};
    CaseRun expected(data, *reference, 1, sampling);
    expected.run();
    const std::vector<float> first = expected.outputs();
    std::vector<float> next;
    if (c.kind == OpKind::attention) {
      expected.run_next_step();
      next = expected.outputs();
    }
    for (const Candidate& candidate : others) {
      CaseRun run(data, *candidate.backend, 1, sampling);
      run.run();
      expect_near(run.outputs(), first, tolerance, candidate.name + " " + c.name());
      if (c.kind == OpKind::attention) {
        run.run_next_step();
        expect_near(run.outputs(), next, tolerance, candidate.name + " " + c.name() + ", the step after");
      }
    }
  }
}

std::string test_name(const testing::TestParamInfo<OpCase>& info) {
  std::string name = info.param.name();
  for (char& ch : name) {
    if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
  }
  return name;
}
INSTANTIATE_TEST_SUITE_P(Ops, OpsTest, testing::ValuesIn(op_cases()), test_name);

}  // namespace
}  // namespace quantbench
