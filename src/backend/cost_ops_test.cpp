#include "backend/cost_ops.h"

#include <gtest/gtest.h>

namespace quantbench {
namespace {

TEST(CostOps, CountsWeightsCacheAndFlopsOfAStep) {
  const Norm norm;
  const Linear q{Int8Matrix{64, 32}}, kv{Nf4Matrix{32, 64}}, o{F16Matrix{32, 64}, nullptr, true},
      head{F16Matrix{100, 32}};
  const Matrix table = F16Matrix{100, 32};
  const Tensor x{nullptr, DType::f32, 1, 32}, wide{nullptr, DType::f32, 1, 64};
  const KvLayer cache{nullptr, nullptr, 1, 10, 2, 16};
  TapeOps tape;
  tape.embed({.x = x, .table = &table});
  tape.qkv({.q = wide, .kv = cache, .x = x, .norm = &norm, .wq = &q, .wk = &kv, .wv = &kv, .rope = nullptr});
  tape.attend({.a = wide, .q = wide, .kv = cache});
  tape.add_linear({.x = x, .a = wide, .w = &o});
  tape.project({.y = {}, .x = x, .norm = &norm, .w = &head});
  tape.next_token({});
  const CostTable cost = cost_of(tape.tape(), 7);
  EXPECT_EQ(cost[CostOf::embedding].weight_bytes, 64u);
  // A norm, int8 with a scale a row, twice 32·64 nibbles with 32 block scales of one byte and one nested fp32.
  EXPECT_EQ(cost[CostOf::qkv].weight_bytes, 128u + 64 * 32 + 64 * 4 + 2 * (32 * 64 / 2 + 32 + 4));
  EXPECT_EQ(cost[CostOf::qkv].kv_bytes, 2u * 32 * 2);
  EXPECT_EQ(cost[CostOf::attention].kv_bytes, 2u * 7 * 32 * 2);
  EXPECT_EQ(cost[CostOf::attention].flops, 4.0 * 7 * 64);
  EXPECT_EQ(cost[CostOf::output_linear].weight_bytes, 32u * 64 * 2 + 32 * 4);
  EXPECT_EQ(cost[CostOf::mlp].bytes(), 0u);
  EXPECT_EQ(cost[CostOf::head].weight_bytes, 100u * 32 * 2 + 128);
  EXPECT_EQ(cost[CostOf::head].flops, 2.0 * 100 * 32);
  EXPECT_EQ(cost.total().kv_bytes, 2u * 32 * 2 + 2u * 7 * 32 * 2);
}

}  // namespace
}  // namespace quantbench
