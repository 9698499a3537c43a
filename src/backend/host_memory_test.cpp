#include "backend/host_memory.h"

#include <gtest/gtest.h>

namespace quantbench {
namespace {

TEST(HostMemory, BooksWhatItGivesOutAndTakesBack) {
  HostMemory memory;
  const float* kept = memory.keep_array<float>(Use::weights, 100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(kept) % kPieceAlignment, 0u);
  EXPECT_EQ(kept[99], 0.0f);
  EXPECT_EQ(memory.use()[Use::weights], piece_bytes(400));
  {
    const auto buffer = memory.allocate(Use::activations, 1000);
    EXPECT_EQ(buffer->bytes(), 1000u);
    EXPECT_EQ(memory.use()[Use::activations], piece_bytes(1000));
    EXPECT_EQ(memory.use().total(), piece_bytes(400) + piece_bytes(1000));
  }
  EXPECT_EQ(memory.use()[Use::activations], 0u);
}

TEST(HostMemory, PiecesDoNotOverlapAcrossBlocks) {
  HostMemory memory;
  constexpr size_t kLarge = size_t{40} << 20;  // two of them do not fit one block
  auto* a = memory.keep_array<std::byte>(Use::weights, kLarge);
  auto* b = memory.keep_array<std::byte>(Use::weights, kLarge);
  a[kLarge - 1] = std::byte{1};
  b[0] = std::byte{2};
  EXPECT_EQ(a[kLarge - 1], std::byte{1});
  EXPECT_TRUE(b >= a + kLarge || a >= b + kLarge);
}

TEST(HostMemory, WhatIsExpectedLiesInOneBlock) {
  HostMemory memory;
  constexpr size_t kPiece = size_t{40} << 20;
  for (int model = 0; model < 2; ++model) {
    std::byte* before = nullptr;
    for (int i = 0; i < 4; ++i) {
      memory.expect(4 * kPiece);  // every time, as a backend does
      auto* const piece = memory.keep_array<std::byte>(Use::weights, kPiece);
      EXPECT_TRUE(i == 0 || piece == before + kPiece) << i;
      before = piece;
    }
  }
  EXPECT_EQ(memory.use()[Use::weights], 8 * kPiece);
  memory.expect(0);
  EXPECT_NE(memory.keep(Use::weights, 1), nullptr);
}

struct TinyStep {
  Norm norm, layer_norm{nullptr, nullptr, 1e-5f, true};
  Linear q{Nf4Matrix{128, 64}}, k{Nf4Matrix{64, 64}}, v{Int8Matrix{64, 64}}, o{F16Matrix{64, 128}};
  Linear head{F16Matrix{1000, 64}};
  Tensor x{nullptr, DType::f32, 1, 64};
  Matrix untied = F16Matrix{1000, 64};

  Tape tape(bool tied) {
    TapeOps ops;
    ops.embed({.x = x, .table = tied ? &head.weight : &untied});
    ops.qkv({.x = x, .norm = &norm, .wq = &q, .wk = &k, .wv = &v, .rope = nullptr});
    ops.add_linear({.x = x, .a = {}, .w = &o});
    ops.project({.y = {}, .x = x, .norm = &layer_norm, .w = &head});
    ops.next_token({});
    return ops.tape();
  }
};

TEST(WeightBytes, FollowTheFormatsAndCountATiedTableOnce) {
  TinyStep step;
  step.q.biased = true;
  const MemoryUse use = weight_bytes(step.tape(true));
  EXPECT_EQ(use[Use::weights], 128u * 64 / 2 + 64 * 64 / 2 + 64 * 64 + 64 * 128 * 2);
  // Nested nf4: one byte a block, one fp32 per 256 blocks, each in whole cache lines; int8: one fp32 a row.
  EXPECT_EQ(use[Use::scales], 128u + 64 + 64 + 64 + 64 * 4);
  // head, the RMSNorm, the LayerNorm with its bias, q's bias
  EXPECT_EQ(use[Use::unquantized], 1000u * 64 * 2 + 64 * 4 + 2 * 64 * 4 + 128 * 4);
  EXPECT_EQ(weight_bytes(step.tape(false))[Use::unquantized], use[Use::unquantized] + size_t{1000} * 64 * 2);
}

TEST(WeightBytes, PlainScalesOfNf4AreFourBytesABlock) {
  TinyStep step;
  std::get<Nf4Matrix>(step.q.weight).double_quantized = false;
  EXPECT_EQ(weight_bytes(step.tape(true))[Use::scales], 128u * 4 + 64 + 64 + 64 * 4);
}

TEST(Factory, RefusesAnUnknownBackendAndListsThoseBuiltIn) {
  try {
    make_backend("abacus", {});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_NE(std::string(error.what()).find("reference"), std::string::npos);
  }
}

}  // namespace
}  // namespace quantbench
