#include "backend/ops_comparison.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <iostream>
#include <random>

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

void expect_near(const std::vector<float>& got, const std::vector<float>& expected, Tolerance t,
                 const std::string& who) {
  ASSERT_EQ(got.size(), expected.size()) << who;
  size_t first = 0;
  const size_t wrong = count_wrong(got, expected, t, &first);
  EXPECT_EQ(wrong, 0u) << who << ": of " << got.size() << " outputs; the first is " << first << ": " << got[first]
                       << " instead of " << expected[first];
}

// Of an attention: queries, then what it gives, as many of each.
void expect_attention_near(const std::vector<float>& got, const std::vector<float>& expected, Tolerance queries,
                           Tolerance averages, const std::string& who) {
  const auto half = static_cast<std::ptrdiff_t>(expected.size() / 2);
  expect_near({got.begin(), got.begin() + half}, {expected.begin(), expected.begin() + half}, queries,
              who + ", queries");
  expect_near({got.begin() + half, got.end()}, {expected.begin() + half, expected.end()}, averages, who);
}

}  // namespace

void expect_agreement(const OpCase& c, const CaseSizes& sizes, const std::vector<Candidate>& candidates,
                      Numbers numbers) {
  const auto reference = make_backend("reference", {});
  const CaseData data(c, sizes, seed(), reference->host_pool(), numbers);
  std::vector<Sampling> samplings = {{}};
  if (c.kind == OpKind::next_token) {
    samplings.push_back({0.8f, seed()});
    samplings.push_back({8, seed(), 5});  // so hot that each of those that stay is drawn by some row
    samplings.push_back({0.8f, seed(), 0, 0.3});
    samplings.push_back({2, seed(), 50, 0.5});
  }
  for (const Sampling& sampling : samplings) {
    CaseRun expected(data, *reference, 1, sampling);
    expected.run();
    const std::vector<float> first = expected.outputs();
    std::vector<float> next;
    if (c.kind == OpKind::attention) {
      expected.run_next_step();
      next = expected.outputs();
    }
    for (const Candidate& candidate : candidates) {
      const Tolerance tolerance = tolerance_of(c, sizes, candidate.activations, numbers);
      CaseRun run(data, *candidate.backend, 1, sampling);
      run.run();
      if (c.kind == OpKind::attention && numbers == Numbers::small_sums) {
        // A backend may average values with weights rounded to fp16, which says nothing of sums.
        constexpr Tolerance kAverages{2e-3, 0x1p-9};
        expect_attention_near(run.outputs(), first, tolerance, kAverages, candidate.name + " " + c.name());
        run.run_next_step();
        expect_attention_near(run.outputs(), next, tolerance, kAverages,
                              candidate.name + " " + c.name() + ", the step after");
        continue;
      }
      expect_near(run.outputs(), first, tolerance, candidate.name + " " + c.name());
      if (c.kind == OpKind::attention) {
        run.run_next_step();
        expect_near(run.outputs(), next, tolerance, candidate.name + " " + c.name() + ", the step after");
      }
    }
  }
}

std::vector<OpCase> int8_products(const std::vector<OpCase>& cases) {
  std::vector<OpCase> out;
  std::copy_if(cases.begin(), cases.end(), std::back_inserter(out),
               [](const OpCase& c) { return c.format == Format::int8; });
  return out;
}

std::string op_test_name(const testing::TestParamInfo<OpCase>& info) {
  std::string name = info.param.name();
  for (char& ch : name) {
    if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
  }
  return name;
}

}  // namespace quantbench
