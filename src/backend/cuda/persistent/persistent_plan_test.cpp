#include "backend/cuda/persistent/persistent_plan.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace quantbench::cuda {
namespace {

constexpr size_t kShared = size_t{227} << 10;
constexpr int kProcessors = 132;

// A decoder of two layers as a tape: Llama's ops, and shapes that the kernel takes. No pointer is followed.
struct Decoder {
  static constexpr int kWidth = 512, kHeads = 8, kKvHeads = 2, kHeadDim = 64, kInner = 1024, kVocab = 4096;
  Linear wq, wk, wv, wo, gate, up, down, head;
  Matrix table = F16Matrix{kVocab, kWidth};
  Norm norm;
  Rope rope{.dims = kHeadDim};
  float x[4], q[4], a[4], h[4], logits[4];  // addresses alone count
  int rows = 1;
  Sampling sampling;
  int32_t stops[1] = {}, done[1] = {};

  template <typename M>
  static Linear linear(int n, int k) {
    return {.weight = M{n, k}};
  }
  template <typename M>
  void make() {
    wq = linear<M>(kHeads * kHeadDim, kWidth);
    wk = wv = linear<M>(kKvHeads * kHeadDim, kWidth);
    wo = linear<M>(kWidth, kHeads * kHeadDim);
    gate = up = linear<M>(kInner, kWidth);
    down = linear<M>(kWidth, kInner);
    head = linear<F16Matrix>(kVocab, kWidth);
  }
  Tape tape() {
    const Rows r{.count = rows};
    const auto tensor = [this](float* at, int cols) { return Tensor{at, DType::f32, rows, cols}; };
    const KvLayer kv{.sequences = 1, .positions = 64, .heads = kKvHeads, .head_dim = kHeadDim};
    TapeOps out;
    out.embed({tensor(x, kWidth), &table, 1, r});
    for (int layer = 0; layer < 2; ++layer) {
      out.qkv({tensor(q, kHeads * kHeadDim), kv, tensor(x, kWidth), &norm, &wq, &wk, &wv, &rope, r});
      out.attend({tensor(a, kHeads * kHeadDim), tensor(q, kHeads * kHeadDim), kv, 0.125f, r});
      out.add_linear({tensor(x, kWidth), tensor(a, kHeads * kHeadDim), &wo});
      out.gated_up({tensor(h, kInner), tensor(x, kWidth), &norm, &gate, &up, Act::silu});
      out.add_linear({tensor(x, kWidth), tensor(h, kInner), &down});
    }
    out.project({tensor(logits, kVocab), tensor(x, kWidth), &norm, &head, Act::none});
    out.next_token({r, tensor(logits, kVocab), sampling, nullptr, 0, stops, done});
    return out.tape();
  }
};

TEST(PersistentPlan, StepsFollowTheTapeAndReadWhatWasWrittenLast) {
  Decoder d;
  d.make<F16Matrix>();
  std::vector<Tagged> exchange(1 << 20);
  const PersistentPlan plan = make_persistent_plan(d.tape(), kProcessors, kShared, exchange.data());
  ASSERT_EQ(plan.steps.size(), 11u);
  const Step &qkv = plan.steps[0], &attend = plan.steps[1], &o = plan.steps[2], &gate = plan.steps[3],
             &down = plan.steps[4], &next = plan.steps[5], &head = plan.steps[10];
  EXPECT_EQ(qkv.in.source, Source::table);
  EXPECT_EQ(attend.in.words, qkv.out);
  EXPECT_EQ(attend.new_k, qkv.out + 512);
  EXPECT_EQ(attend.new_v, qkv.out + 512 + 128);
  EXPECT_EQ(o.in.words, attend.out);
  EXPECT_EQ(o.in.source, Source::halves);
  EXPECT_EQ(o.old.source, Source::table);
  EXPECT_EQ(gate.in.words, o.out);
  EXPECT_EQ(gate.in.source, Source::floats);
  EXPECT_EQ(down.in.words, gate.out);
  EXPECT_EQ(down.old.words, o.out);
  EXPECT_EQ(next.in.words, down.out);
  EXPECT_NE(next.out, qkv.out);
  EXPECT_EQ(head.logits, d.logits);
  EXPECT_EQ(plan.kind.head_dim, 64);
  EXPECT_FALSE(plan.kind.for_t5);
}

TEST(PersistentPlan, WorkGoesRoundWithoutAGap) {
  Decoder d;
  d.make<Nf4Matrix>();
  const PersistentPlan plan = make_persistent_plan(d.tape(), kProcessors, kShared, nullptr);
  int units = 0;
  for (const Step& step : plan.steps) {
    EXPECT_EQ(step.turn, units % kProcessors);
    units += step.units;
  }
  EXPECT_EQ(plan.steps[0].units, (512 + 128 + 128) / 16);
  EXPECT_EQ(plan.steps[3].units, 1024 / 8);  // eight rows of the gate and eight of what it gates
  EXPECT_EQ(plan.steps[10].units, 4096 / 16);
}

TEST(PersistentPlan, UnitsAreEightRowsWhereThatBalancesBetter) {
  Decoder d;
  d.make<F16Matrix>();
  const PersistentPlan few = make_persistent_plan(d.tape(), 32, kShared, nullptr);  // one unit of 16 rows for each
  const PersistentPlan many = make_persistent_plan(d.tape(), 24, kShared, nullptr);
  const Step &whole = few.steps[4], &halved = many.steps[4];
  EXPECT_FALSE(whole.halved);
  EXPECT_EQ(whole.units, 512 / 16);
  EXPECT_EQ(whole.chunks, 2 * 1024 / 128);
  EXPECT_TRUE(halved.halved);  // three of 8 rows at most instead of two of 16
  EXPECT_EQ(halved.units, 512 / 8);
  EXPECT_EQ(halved.chunks, whole.chunks / 2);
  EXPECT_EQ(many.maps[static_cast<size_t>(halved.segments[0].map)].chunks, whole.chunks);
  EXPECT_FALSE(many.steps[3].halved);  // nothing is added to
}

// Sixteen warps that follow their strides meet every piece once, in the slot and with the scales that are its own.
TEST(PersistentPlan, StridesMeetEveryPieceInItsSlot) {
  Decoder d;
  for (const int format : {0, 1, 2}) {
    if (format == 0) d.make<F16Matrix>();
    if (format == 1) d.make<Int8Matrix>();
    if (format == 2) d.make<Nf4Matrix>();
    const PersistentPlan plan = make_persistent_plan(d.tape(), kProcessors, kShared, nullptr);
    const int ring = plan.args.slots, areas = ring + 1;
    for (const Step& s : plan.steps) {
      if (s.kind != StepKind::product) continue;
      ASSERT_EQ(s.slots * s.slot_chunks, s.chunks);
      ASSERT_EQ(s.walk.pieces * s.walk.piece_chunks, s.chunks);
      ASSERT_EQ(s.walk.slot_pieces * s.walk.piece_chunks, s.slot_chunks);
      constexpr int kUnits = 70;  // several times round the ring
      std::vector<int> met(static_cast<size_t>(kUnits * s.walk.pieces));
      for (int warp = 0; warp < kConsumerWarps; ++warp) {
        const WarpStart start = s.starts[warp];
        if (start.unit == kNoUnit) continue;  // it has none
        int unit = start.unit, in_unit = start.piece, slot = start.slots % ring, in_slot = start.in_slot;
        int area = start.unit % areas, flips = start.slots / ring, area_flips = start.unit / areas;
        while (unit < kUnits) {
          const int piece = unit * s.walk.pieces + in_unit, slots = piece / s.walk.slot_pieces;
          ASSERT_LT(in_unit, s.walk.pieces);
          ++met[static_cast<size_t>(piece)];
          EXPECT_EQ(in_slot, piece % s.walk.slot_pieces);
          EXPECT_EQ(slot, slots % ring);
          EXPECT_EQ(flips % 2, slots / ring % 2);
          EXPECT_EQ(area, unit % areas);
          EXPECT_EQ(area_flips % 2, unit / areas % 2);
          // As the kernel goes on.
          int next_unit = unit + s.walk.on_units;
          in_unit += s.walk.on_pieces;
          if (in_unit >= s.walk.pieces) in_unit -= s.walk.pieces, ++next_unit;
          in_slot += s.walk.on_in_slot;
          slot += s.walk.on_slots;
          flips += s.walk.slots_flip;
          if (in_slot >= s.walk.slot_pieces) in_slot -= s.walk.slot_pieces, ++slot;
          if (slot >= ring) slot -= ring, ++flips;
          area += s.walk.on_areas + (next_unit - unit - s.walk.on_units);
          area_flips += s.walk.areas_flip;
          if (area >= areas) area -= areas, ++area_flips;
          unit = next_unit;
        }
      }
      EXPECT_EQ(std::count(met.begin(), met.end(), 1), std::ssize(met));
      // Else a warp takes a buffer of sums for free that is two rounds behind (part_barrier).
      EXPECT_LE(s.walk.on_units + (s.walk.on_pieces > 0 ? 1 : 0), kPartBuffers);
    }
  }
}

TEST(PersistentPlan, ARowThatIsThereIsNotMadeAgainAndANormIsFetchedAhead) {
  Decoder d;
  d.make<F16Matrix>();
  const std::vector<float> weight(Decoder::kWidth);
  d.norm.weight = weight.data();
  const PersistentPlan llama = make_persistent_plan(d.tape(), kProcessors, kShared, nullptr);
  EXPECT_EQ(llama.steps[2].next_norm.weight, weight.data());
  EXPECT_EQ(llama.steps[2].next_norm_count, Decoder::kWidth);
  EXPECT_EQ(llama.steps[3].next_norm.weight, nullptr);
  for (const Step& step : llama.steps) EXPECT_FALSE(step.same_row);
  // As in Phi: both from the same norm of the same numbers.
  const Rows r{.count = 1};
  const auto tensor = [&](float* at, int cols) { return Tensor{at, DType::f32, 1, cols}; };
  const KvLayer kv{.sequences = 1, .positions = 64, .heads = Decoder::kKvHeads, .head_dim = Decoder::kHeadDim};
  TapeOps out;
  out.embed({tensor(d.x, Decoder::kWidth), &d.table, 1, r});
  out.qkv({tensor(d.q, Decoder::kHeads * Decoder::kHeadDim), kv, tensor(d.x, Decoder::kWidth), &d.norm, &d.wq, &d.wk,
           &d.wv, &d.rope, r});
  out.project({tensor(d.h, Decoder::kInner), tensor(d.x, Decoder::kWidth), &d.norm, &d.gate, Act::gelu_tanh});
  out.add_linear({tensor(d.x, Decoder::kWidth), tensor(d.h, Decoder::kInner), &d.down});
  out.project({tensor(d.logits, Decoder::kVocab), tensor(d.x, Decoder::kWidth), &d.norm, &d.head, Act::none});
  out.next_token({r, tensor(d.logits, Decoder::kVocab), d.sampling, nullptr, 0, nullptr, nullptr});
  const PersistentPlan phi = make_persistent_plan(out.tape(), kProcessors, kShared, nullptr);
  ASSERT_EQ(phi.steps.size(), 4u);
  EXPECT_TRUE(phi.steps[1].same_row);
  EXPECT_FALSE(phi.steps[3].same_row);  // x has been added to
}

TEST(PersistentPlan, BuffersDoNotOverlapAndCountingNeedsNoMemory) {
  Decoder d;
  d.make<Int8Matrix>();
  const PersistentPlan counted = make_persistent_plan(d.tape(), kProcessors, kShared, nullptr);
  std::vector<Tagged> exchange(counted.exchange_words);
  const PersistentPlan plan = make_persistent_plan(d.tape(), kProcessors, kShared, exchange.data());
  EXPECT_EQ(plan.exchange_words, counted.exchange_words);
  std::set<const Tagged*> starts;
  for (const Step& step : plan.steps) {
    if (!step.out) continue;
    EXPECT_TRUE(starts.insert(step.out).second);
    EXPECT_EQ((step.out - exchange.data()) % 16, 0);  // on a line of its own
    EXPECT_LT(step.out, exchange.data() + exchange.size());
  }
  EXPECT_LE(plan.args.best + ptrdiff_t{2} * kProcessors, exchange.data() + exchange.size());
}

TEST(PersistentPlan, TheRingTakesWhatSharedMemoryLeaves) {
  Decoder d;
  d.make<F16Matrix>();
  const PersistentPlan fp16 = make_persistent_plan(d.tape(), kProcessors, kShared, nullptr);
  d.make<Nf4Matrix>();
  const PersistentPlan nf4 = make_persistent_plan(d.tape(), kProcessors, kShared, nullptr);
  EXPECT_GT(fp16.args.slots, nf4.args.slots);  // the table of codes takes 32 KB
  for (const PersistentPlan* plan : {&fp16, &nf4}) {
    EXPECT_LE(plan->shared_bytes, kShared);
    EXPECT_EQ(plan->args.at.ring % 1024, 0u);
    EXPECT_GE(plan->args.slots, plan->args.slots_on_the_way);
  }
}

TEST(PersistentPlan, FasterMemoryHasMoreOnTheWayOfInt8) {
  Decoder d;
  d.make<Int8Matrix>();
  const auto bytes = [&](double memory_rate) {
    const PersistentArgs args = make_persistent_plan(d.tape(), 132, kShared, nullptr, memory_rate).args;
    return args.slots_on_the_way * args.slot_bytes;
  };
  constexpr double kH100 = 3.352e12, kH200 = 4.917e12;  // bytes/s
  EXPECT_EQ(bytes(0), 32 << 10);
  EXPECT_EQ(bytes(kH100), 32 << 10);
  EXPECT_EQ(bytes(kH200), 48 << 10);
}

TEST(PersistentPlan, TellsWhatItWasCutBy) {
  Decoder d;
  const auto tuning = [&d](size_t shared_bytes, int processors) {
    return tuning_of(make_persistent_plan(d.tape(), processors, shared_bytes, nullptr));
  };
  d.make<F16Matrix>();
  const std::string fp16 = tuning(kShared, kProcessors);
  const PersistentPlan plan = make_persistent_plan(d.tape(), kProcessors, kShared, nullptr);
  EXPECT_THAT(fp16, testing::StartsWith(fmt::format("ring {}x{}, {} on the way; pieces 4/1", plan.args.slots,
                                                    plan.args.slot_bytes, plan.args.slots_on_the_way)));
  EXPECT_EQ(tuning(kShared, kProcessors), fp16);
  EXPECT_NE(tuning(kShared - (size_t{16} << 10), kProcessors), fp16) << "fewer slots";
  d.make<Nf4Matrix>();
  EXPECT_NE(tuning(kShared, kProcessors), fp16);
}

TEST(PersistentPlan, SaysWhatItCannotDo) {
  using testing::HasSubstr;
  Decoder d;
  d.make<F16Matrix>();
  EXPECT_EQ(persistent_obstacle(d.tape(), kShared), "");
  EXPECT_THAT(persistent_obstacle(d.tape(), size_t{64} << 10), HasSubstr("no room in shared memory"));
  d.rows = 2;
  EXPECT_THAT(persistent_obstacle(d.tape(), kShared), HasSubstr("does not take a batch of 2 sequences"));
  d.rows = 1;
  d.down = Decoder::linear<F16Matrix>(Decoder::kWidth, Decoder::kInner + 8);
  EXPECT_THAT(persistent_obstacle(d.tape(), kShared), HasSubstr("1032 inputs"));
  d.make<Nf4Matrix>();
  std::get<Nf4Matrix>(d.up.weight).double_quantized = false;
  EXPECT_THAT(persistent_obstacle(d.tape(), kShared), HasSubstr("without double quantisation"));
  d.make<Nf4Matrix>();
  d.wk = Decoder::linear<Int8Matrix>(128, 512);
  EXPECT_THAT(persistent_obstacle(d.tape(), kShared), HasSubstr("different formats"));
  EXPECT_THAT(persistent_obstacle({}, kShared), HasSubstr("not a token's"));
}

// T5's: a bias by distance, a cross-attention over what lies in a cache of its own, fp32 weights behind the gate.
TEST(PersistentPlan, TakesCrossAttentionAndFp32WeightsOfT5) {
  Decoder d;
  d.make<Int8Matrix>();
  d.down = Decoder::linear<F32Matrix>(Decoder::kWidth, Decoder::kInner);
  const Rows r{.count = 1};
  const auto tensor = [](float* at, int cols) { return Tensor{at, DType::f32, 1, cols}; };
  const int q = Decoder::kHeads * Decoder::kHeadDim;
  f16 own[1], stored[1];
  const KvLayer kv{.k = own, .v = own, .sequences = 1, .positions = 64, .heads = Decoder::kHeads, .head_dim = 64};
  const KvLayer cross{
      .k = stored, .v = stored, .sequences = 1, .positions = 9, .heads = Decoder::kHeads, .head_dim = 64};
  const int32_t lengths[1] = {};
  const float values[1] = {};
  const DistanceBias bias{.values = values, .reach = 4, .buckets = 8};
  const auto tape = [&](const DistanceBias* distances, int head_dim) {
    TapeOps out;
    KvLayer of_step = kv, of_encoder = cross;
    of_step.head_dim = of_encoder.head_dim = head_dim;
    out.embed({tensor(d.x, Decoder::kWidth), &d.table, 1, r});
    out.qkv({tensor(d.q, q), of_step, tensor(d.x, Decoder::kWidth), &d.norm, &d.wq, &d.wk, &d.wv, nullptr, r});
    out.attend({tensor(d.a, q), tensor(d.q, q), of_step, 1, r, nullptr, distances});
    out.add_linear({tensor(d.x, Decoder::kWidth), tensor(d.a, q), &d.wo});
    out.project({.y = tensor(d.q, q), .x = tensor(d.x, Decoder::kWidth), .norm = &d.norm, .w = &d.wq});
    out.attend({tensor(d.a, q), tensor(d.q, q), of_encoder, 1, r, lengths});
    out.gated_up({tensor(d.h, Decoder::kInner), tensor(d.x, Decoder::kWidth), &d.norm, &d.gate, &d.up, Act::silu});
    out.add_linear({tensor(d.x, Decoder::kWidth), tensor(d.h, Decoder::kInner), &d.down});
    out.project({tensor(d.logits, Decoder::kVocab), tensor(d.x, Decoder::kWidth), &d.norm, &d.head, Act::none});
    out.next_token({r, tensor(d.logits, Decoder::kVocab), {}, nullptr, 0, nullptr, nullptr});
    return out.tape();
  };
  EXPECT_EQ(persistent_obstacle(tape(&bias, 64), kShared), "");
  std::vector<Tagged> exchange(1 << 20);
  const PersistentPlan plan = make_persistent_plan(tape(&bias, 64), kProcessors, kShared, exchange.data());
  ASSERT_EQ(plan.steps.size(), 8u);
  const Step &attend = plan.steps[1], &query = plan.steps[3], &cross_attend = plan.steps[4], &gate = plan.steps[5],
             &down = plan.steps[6];
  EXPECT_TRUE(plan.kind.for_t5);
  EXPECT_EQ(plan.kind.format, WeightFormat::int8);
  EXPECT_TRUE(attend.biased);
  EXPECT_EQ(plan.args.bias.values, values);
  EXPECT_EQ(attend.length, nullptr);
  EXPECT_NE(attend.new_k, nullptr);
  EXPECT_EQ(query.finish, Finish::qkv);  // floats, as attention reads them
  EXPECT_EQ(cross_attend.in.words, query.out);
  EXPECT_EQ(cross_attend.in.source, Source::floats);
  EXPECT_EQ(cross_attend.new_k, nullptr);
  EXPECT_EQ(cross_attend.length, lengths);
  EXPECT_FALSE(cross_attend.biased);
  EXPECT_TRUE(gate.floats);
  EXPECT_EQ(down.format, WeightFormat::f32);
  EXPECT_EQ(down.in.source, Source::floats);
  EXPECT_EQ(down.chunks * (down.halved ? 2 : 1), Decoder::kInner * 4 / 128);
  EXPECT_GE(plan.args.at.codes - plan.args.at.x, Decoder::kInner * sizeof(float));
  EXPECT_GE(plan.args.at.x - plan.args.at.bias, (8 * Decoder::kHeads + 2 * 4 + 1) * sizeof(float));
  // Its bias lies in shared memory once.
  const DistanceBias other = bias;
  Tape two = tape(&bias, 64);
  std::get<Attend>(two[5]).bias = &other;
  EXPECT_THAT(persistent_obstacle(two, kShared), testing::HasSubstr("different biases"));
  // There is one kernel for it.
  EXPECT_THAT(persistent_obstacle(tape(&bias, 128), kShared), testing::HasSubstr("heads of 128 dimensions beside"));
  // fp32 weights of something else than what the op before them leaves.
  d.wo = Decoder::linear<F32Matrix>(Decoder::kWidth, q);
  EXPECT_THAT(persistent_obstacle(tape(nullptr, 64), kShared), testing::HasSubstr("fp32 weights"));
}

TEST(PersistentPlan, LeavesTheChoiceAmongSomeIdsToAKernelBehindIt) {
  Decoder d;
  d.make<F16Matrix>();
  const auto args = [&](const Sampling& sampling) {
    d.sampling = sampling;
    EXPECT_EQ(persistent_obstacle(d.tape(), kShared), "");
    return make_persistent_plan(d.tape(), kProcessors, kShared, nullptr).args;
  };
  EXPECT_TRUE(args({}).chooses);
  EXPECT_EQ(args({0.8f, 1}).temperature, 0.8f);
  EXPECT_TRUE(args({0, 1, 40, 0.9}).chooses);  // the largest stays
  EXPECT_TRUE(args({0.8f, 1, Decoder::kVocab}).chooses);
  EXPECT_FALSE(args({0.8f, 1, 40}).chooses);
  EXPECT_FALSE(args({0.8f, 1, 0, 0.9}).chooses);
  EXPECT_EQ(args({0.8f, 1, 0, 0.9}).temperature, 0);  // noise would be drawn for nothing
  EXPECT_EQ(args({}).done, d.done);
  EXPECT_EQ(args({}).stops, d.stops);
}

}  // namespace
}  // namespace quantbench::cuda
