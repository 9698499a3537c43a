#include "backend/outlier_ops.h"

#include <gtest/gtest.h>

#include "backend/step_parts.h"

namespace quantbench {
namespace {

constexpr int kWidth = 4;
constexpr float kLargest = 5.996f;  // the fp16 below the threshold of 6; its neighbours are 1/256 apart

class OutlierOpsTest : public testing::Test {
 protected:
  OutlierOpsTest() {
    int8_.weight = Int8Matrix{kWidth, kWidth, codes_.data(), absmax_.data()};
    fp16_.weight = F16Matrix{kWidth, kWidth, halves_.data()};
  }
  Tensor view(std::vector<float>& values) const {
    return {values.data(), DType::f32, static_cast<int>(values.size()) / kWidth, kWidth};
  }
  OutlierCount of(StepPart part) const { return ops_.counts()[part]; }

  std::unique_ptr<Backend> backend_ = make_backend("reference", {});
  OutlierOps ops_{*backend_};
  std::vector<int8_t> codes_ = std::vector<int8_t>(size_t{kWidth} * kWidth, 1);
  std::vector<float> absmax_ = std::vector<float>(kWidth, 1);
  std::vector<f16> halves_ = std::vector<f16>(size_t{kWidth} * kWidth, to_f16(1));
  Linear int8_, fp16_;
};

TEST_F(OutlierOpsTest, CountsWhatReachesTheThresholdAfterRoundingToFp16AndRunsTheOp) {
  std::vector<float> a = {6, -7, kLargest, 5.9999f}, x(kWidth);  // the last rounds to 6
  ops_.add_linear({.x = view(x), .a = view(a), .w = &int8_});
  EXPECT_EQ(of(StepPart::output_linear), (OutlierCount{4, 3}));
  EXPECT_NE(x[0], 0) << "the op was run";
}

TEST_F(OutlierOpsTest, AColumnOfSeveralRowsIsCountedOnceForAllOfThem) {
  std::vector<float> a = {6, 0, 0, 0, -6, 0, 0, 8, 9, 0, 0, 0}, x(size_t{3} * kWidth);
  ops_.add_linear({.x = view(x), .a = view(a), .w = &int8_});
  EXPECT_EQ(of(StepPart::output_linear), (OutlierCount{4, 2}));
}

TEST_F(OutlierOpsTest, LooksAtInputsAsTheNormGivesThem) {
  // Mean square 1, so RMSNorm gives the input times the weight; LayerNorm the same, since the mean is 0; then the bias.
  std::vector<float> x = {1, -1, 1, -1}, y(kWidth), h(kWidth);
  const std::vector<float> weight = {6.1f, 1, 5, 32}, bias = {0, 0, 1.1f, 0};
  const Norm rms{weight.data(), nullptr, 0, false}, layer{weight.data(), bias.data(), 0, true};
  ops_.project({.y = view(y), .x = view(x), .norm = &rms, .w = &int8_});
  EXPECT_EQ(of(StepPart::mlp), (OutlierCount{4, 2}));
  ops_.gated_up({.h = view(h), .x = view(x), .norm = &layer, .gate = &int8_, .up = &int8_});
  EXPECT_EQ(of(StepPart::mlp), (OutlierCount{8, 5})) << "gate and up share an input, which counts once";
}

TEST_F(OutlierOpsTest, LinearsThatAreNotInt8HaveNone) {
  std::vector<float> a = {100, 100, 100, 100}, x(kWidth);
  ops_.add_linear({.x = view(x), .a = view(a), .w = &fp16_});
  EXPECT_EQ(ops_.counts(), ByPart<OutlierCount>{});
}

TEST(StepParts, AProjectionIsTheHeadsWhereTheChoiceFollows) {
  const Linear w{F16Matrix{8, 4, nullptr}};
  const Tensor x{nullptr, DType::f32, 1, 4};
  const Tape step = {Project{.y = {}, .x = x, .norm = nullptr, .w = &w}, AddLinear{.x = x, .a = x, .w = &w},
                     Project{.y = {}, .x = x, .norm = nullptr, .w = &w}, NextToken{}};
  const ByPart<Tape> parts = cut_by_part(step);
  EXPECT_EQ(parts[StepPart::mlp].size(), 1u);
  EXPECT_EQ(parts[StepPart::output_linear].size(), 1u);
  EXPECT_EQ(parts[StepPart::head].size(), 1u);
  EXPECT_EQ(parts[StepPart::choice].size(), 1u);
  const ByPart<PartBytes> bytes = bytes_by_part(step, 1);
  EXPECT_EQ(bytes[StepPart::head].weight_bytes, size_t{8} * 4 * sizeof(f16));
  EXPECT_EQ(bytes[StepPart::choice].weight_bytes, 0u);
}

}  // namespace
}  // namespace quantbench
