#include "backend/cpu/features.h"

#include <gtest/gtest.h>

#include "backend/backend.h"
#include "core/error.h"

namespace quantbench::cpu {
namespace {

constexpr Features kNehalem{};
constexpr Features kHaswell{.avx2 = true, .fma = true, .f16c = true};
constexpr Features kSkylakeX{.avx2 = true, .fma = true, .f16c = true, .avx512 = true};
constexpr Features kZen5{.avx2 = true, .fma = true, .f16c = true, .avx512 = true, .vnni = true};

std::string refusal(std::string_view requested, const Features& features, ErrorKind kind) {
  try {
    select_isa(requested, features);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  return "accepted";
}

TEST(SelectIsa, NamedSetsAreTakenWhereTheyRun) {
  EXPECT_EQ(select_isa("avx2", kZen5), Isa::avx2);
  EXPECT_EQ(select_isa("avx512", kZen5), Isa::avx512);
  EXPECT_EQ(select_isa("avx2", kHaswell), Isa::avx2);
}

TEST(SelectIsa, Avx512WithoutVnniFallsToAvx2AndIsRefusedByName) {
  EXPECT_FALSE(can_run(Isa::avx512, kSkylakeX));
  EXPECT_TRUE(can_run(Isa::avx2, kSkylakeX));
  EXPECT_NE(refusal("avx512", kSkylakeX, ErrorKind::device).find("VNNI"), std::string::npos);
}

TEST(SelectIsa, ACpuWithoutAvx2IsToldWhatIsMissingAndWhatToDo) {
  const std::string text = refusal("auto", kNehalem, ErrorKind::device);
  for (const char* part : {"AVX2, FMA, F16C", "reference"}) EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(SelectIsa, AnUnknownNameIsAMistakeOfTheUser) {
  EXPECT_NE(refusal("sse9", kZen5, ErrorKind::usage).find("sse9"), std::string::npos);
}

TEST(ReadProbe, MeasuresSomethingPlausibleAndNamesItsLoop) {
  const auto backend = make_backend("cpu", {.threads = 1});
  const auto probe = backend->read_probe(size_t{8} << 20);
  const double rate = probe->measure();
  EXPECT_GT(rate, 1e7);   // slower than 10 MB/s: not reading but faulting
  EXPECT_LT(rate, 2e12);  // faster than any cache: the loop was left out
  EXPECT_NE(probe->kernel().find("-bit loads"), std::string::npos);
}

}  // namespace
}  // namespace quantbench::cpu
