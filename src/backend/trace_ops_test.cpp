#include "backend/trace_ops.h"

#include <gtest/gtest.h>

namespace quantbench {
namespace {

TEST(TraceOps, ShowsEachOutputInOrderAndRunsTheOpsAsTheyAre) {
  const auto backend = make_backend("reference", {});
  const std::vector<f16> rows = {to_f16(1), to_f16(2), to_f16(3), to_f16(-4)};
  const Matrix table = F16Matrix{2, 2, rows.data()};
  const Linear head{F16Matrix{2, 2, rows.data()}};
  std::vector<float> x(4), logits(4);
  std::vector<int32_t> token = {1, 0}, position = {0, 1}, sequence = {0, 0};
  const Rows two{token.data(), position.data(), sequence.data(), 2};
  const Tensor x_view{x.data(), DType::f32, 2, 2}, logits_view{logits.data(), DType::f32, 2, 2};

  std::vector<TracedOp> seen;
  TraceOps ops(*backend, [&](const TracedOp& op) { seen.push_back(op); });
  ops.embed({.x = x_view, .table = &table, .rows = two});
  ops.project({.y = logits_view, .x = x_view, .norm = nullptr, .w = &head});
  ops.next_token({.rows = two, .logits = logits_view});

  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0].name, "embed");
  EXPECT_EQ(seen[0].output, (std::vector<float>{3, -4, 1, 2}));
  EXPECT_EQ(seen[1].index, 1);
  EXPECT_EQ(seen[1].rows, 2);
  EXPECT_EQ(seen[1].output, (std::vector<float>{-5, 25, 5, -5}));
  EXPECT_EQ(seen[1].output, logits);
  EXPECT_EQ(seen[2].name, "next_token");
  EXPECT_EQ(seen[2].output, (std::vector<float>{1, 0}));
  EXPECT_EQ(position, (std::vector<int32_t>{1, 2}));
}

}  // namespace
}  // namespace quantbench
