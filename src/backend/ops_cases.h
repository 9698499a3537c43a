// The one table of cases for every op: ops_test compares each with the reference, ops_bench times each. Shapes are
// those of real models and odd ones that nothing divides.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "backend/ops.h"

namespace quantbench {

struct OpShape {
  const char* name;
  int hidden, heads, kv_heads, head_dim, rope_dims, ff, vocab;
  bool layer_norm, biased;
  Act act;
};
constexpr OpShape kLlama1B = {"llama-3.2-1b", 2048, 32, 8, 64, 64, 8192, 128256, false, false, Act::silu};
constexpr OpShape kPhi2 = {"phi-2", 2560, 32, 32, 80, 32, 10240, 51200, true, true, Act::gelu_tanh};
constexpr OpShape kSmall = {"small", 256, 4, 2, 64, 64, 768, 4096, false, true, Act::silu};
constexpr OpShape kOdd = {"odd", 203, 6, 3, 20, 14, 331, 1009, true, true, Act::gelu_tanh};
// One for each further head size that a backend may have kernels of its own for.
constexpr OpShape kHeads[] = {{"heads-72", 64, 2, 2, 72, 72, 64, 512, true, true, Act::relu},
                              {"heads-80", 64, 4, 2, 80, 32, 64, 512, false, true, Act::silu},
                              {"heads-96", 64, 2, 2, 96, 96, 64, 512, false, false, Act::silu},
                              {"heads-128", 64, 4, 1, 128, 128, 64, 512, false, false, Act::silu},
                              {"heads-256", 64, 2, 1, 256, 256, 64, 512, false, false, Act::silu}};

enum class OpKind : uint8_t {
  embed,
  attention,  // qkv, then attend: the cache's order is the backend's own, so only both together can be compared
  add_linear,
  gated_up,
  project,
  next_token,
};
inline const char* name_of(OpKind kind) {
  switch (kind) {
    case OpKind::embed: return "embed";
    case OpKind::attention: return "attention";
    case OpKind::add_linear: return "add_linear";
    case OpKind::gated_up: return "gated_up";
    case OpKind::project: return "project";
    case OpKind::next_token: return "next_token";
  }
  return "?";
}

// Of attention: what a row sees.
enum class Sight : uint8_t {
  before,  // positions up to its own
  all,     // of its sequence
  stored,  // all, of keys and values that store_kv put there instead of qkv
};

struct OpCase {
  OpKind kind;
  OpShape shape;
  Format format;
  int rows;
  bool double_quantized = true;  // nf4
  Sight sight = Sight::before;
  bool by_distance = false;  // attention with a bias by distance

  std::string name() const {
    const char* const seen = sight == Sight::all ? "-all" : sight == Sight::stored ? "-stored" : "";
    return fmt::format("{}{}{}/{}{}/{}/{}", name_of(kind), seen, by_distance ? "-by_distance" : "",
                       quantbench::name_of(format), double_quantized ? "" : "-plain", shape.name, rows);
  }
};

constexpr int kLongContext = 777;  // rows of a case whose next step reads further than one block of a GPU does

inline std::vector<OpCase> op_cases() {
  std::vector<OpCase> cases;
  const OpKind products[] = {OpKind::attention, OpKind::add_linear, OpKind::gated_up, OpKind::project};
  for (const OpShape& shape : {kLlama1B, kPhi2, kSmall, kOdd}) {
    const bool is_small = shape.hidden < 1024;
    // 512 rows of the odd shape would only repeat what 33 show; the real ones are compared where paths differ.
    const std::vector<int> rows = is_small ? std::vector{1, 2, 5, 11, 17, 32, 33, 130} : std::vector{1, 5, 512};
    for (const int r : rows) {
      for (const OpKind kind : products) {
        for (const Format format : {Format::f16, Format::int8, Format::nf4}) cases.push_back({kind, shape, format, r});
        if (is_small) {
          cases.push_back({kind, shape, Format::f32, r});
          cases.push_back({kind, shape, Format::bf16, r});
          cases.push_back({kind, shape, Format::nf4, r, false});
        }
      }
      cases.push_back({OpKind::embed, shape, Format::f16, r});
      if (is_small) cases.push_back({OpKind::embed, shape, Format::bf16, r});
      if (r <= 5) cases.push_back({OpKind::next_token, shape, Format::f16, r});
    }
    if (!is_small) continue;
    // int8, whose keys and values are the same to the bit, so that a rounded key does not move a sharp softmax.
    cases.push_back({OpKind::attention, shape, Format::int8, kLongContext});
    for (const Format format : {Format::f16, Format::int8, Format::nf4}) {
      cases.push_back({OpKind::gated_up, shape, format, 512});
    }
  }
  for (const OpShape& shape : kHeads) {
    for (const int r : {1, 77, 130}) cases.push_back({OpKind::attention, shape, Format::int8, r});
  }
  for (const OpShape& shape : {kSmall, kOdd, kHeads[0]}) {
    for (const int r : {1, 6, 33, 130}) {
      const auto attention = [&](Format format, Sight sight, bool by_distance) {
        cases.push_back({OpKind::attention, shape, format, r, true, sight, by_distance});
      };
      attention(Format::int8, Sight::before, true);
      attention(Format::int8, Sight::all, false);
      attention(Format::int8, Sight::all, true);
      for (const Format format : {Format::f16, Format::int8, Format::nf4}) attention(format, Sight::stored, false);
    }
  }
  for (const int r : {1, 33}) cases.push_back({OpKind::project, kHeads[0], Format::f16, r});  // relu
  // Rows of whole words whose blocks of NF4 straddle them, as SigLIP's of 4304.
  constexpr OpShape kStraddling = {"straddling", 136, 2, 2, 64, 64, 200, 512, true, true, Act::gelu_tanh};
  for (const OpKind kind : {OpKind::add_linear, OpKind::project, OpKind::gated_up}) {
    for (const int r : {1, 5, 33, 130}) cases.push_back({kind, kStraddling, Format::nf4, r});
  }
  // fp16 rows of whole 8 bytes, as SigLIP's patches of 588 numbers.
  constexpr OpShape kPatches = {"patches", 136, 2, 2, 64, 64, 204, 512, true, true, Act::gelu_tanh};
  for (const int r : {1, 33, 130}) cases.push_back({OpKind::add_linear, kPatches, Format::f16, r});
  return cases;
}

}  // namespace quantbench
