#include "backend/cuda/persistent/persistent_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <functional>
#include <map>

#include "backend/cuda/views.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kMostSlots = 32;     // of the ring
constexpr int kLeastOnTheWay = 3;  // of those
constexpr int kMostNormed = 4096, kMostInput = 16384;

int row_bytes(WeightFormat format, int k) {
  switch (format) {
    case WeightFormat::f32: return 4 * k;
    case WeightFormat::bf16:
    case WeightFormat::f16: return 2 * k;
    case WeightFormat::int8: return k;
    case WeightFormat::nf4: break;
  }
  return k / 2;
}

// The largest divisor of n that is at most `most`.
int largest_part(int n, int most) {
  int part = std::min(n, most);
  while (n % part != 0) --part;
  return part;
}

bool same_row(const Step& a, const Step& b) {
  return a.kind == StepKind::product && a.format == b.format && a.k == b.k && a.in.source == b.in.source &&
         a.in.words == b.in.words && a.in.table == b.in.table && a.norm.weight == b.norm.weight &&
         a.norm.bias == b.norm.bias;
}

struct Needs : SharedNeeds {
  int most_stride = 0;  // slots from a warp's piece to its next one
};

bool has_f32_weights(const Op* op) {
  const auto* const add = op ? std::get_if<AddLinear>(op) : nullptr;
  return add && std::holds_alternative<F32Matrix>(add->w->weight);
}
// Whether what `op` writes to `tensor` is what the op after it multiplies fp32 weights with.
bool feeds_f32(const Op* next, const Tensor& tensor) {
  return has_f32_weights(next) && std::get<AddLinear>(*next).a.data == tensor.data;
}
bool feeds_attention(const Op* next, const Tensor& tensor) {
  const auto* const attend = next ? std::get_if<Attend>(next) : nullptr;
  return attend && attend->q.data == tensor.data;
}

// Warps that have pieces of a step: all but where units are of fewer pieces than a quarter of them. More would be
// further on than there are buffers of sums, and wait for one.
int warps_at_work(const Walk& walk) { return std::min(kConsumerWarps, kPartBuffers * walk.pieces); }
Walk walk_of(const Step& s, int piece_chunks) {
  Walk walk;
  walk.piece_chunks = static_cast<uint8_t>(piece_chunks);
  walk.piece_bytes = static_cast<uint16_t>(piece_chunks * kRowsChunkBytes / 2);
  walk.pieces = static_cast<uint16_t>(s.chunks / piece_chunks);
  walk.slot_pieces = static_cast<uint8_t>(s.slot_chunks / piece_chunks);
  walk.parts = static_cast<uint8_t>(std::min<int>(walk.pieces, kConsumerWarps));
  return walk;
}
void set_strides(Walk& walk, int ring_slots) {
  const auto small = [](int i) { return static_cast<uint8_t>(i); };
  const int warps = warps_at_work(walk), areas = ring_slots + 1;
  const int units = warps / walk.pieces, slots = warps / walk.slot_pieces;
  walk.on_units = small(units);
  walk.on_pieces = static_cast<uint16_t>(warps % walk.pieces);
  walk.on_slots = small(slots % ring_slots);
  walk.on_in_slot = small(warps % walk.slot_pieces);
  walk.on_areas = small(units % areas);
  walk.slots_flip = small(slots / ring_slots % 2);
  walk.areas_flip = small(units / areas % 2);
}

class Builder {
 public:
  Builder(int multiprocessors, Tagged* exchange) : multiprocessors_(multiprocessors), exchange_(exchange) {}

  void operator()(const Embed& o) {
    inputs_[o.x.data] = {
        .source = Source::table, .table = static_cast<const uint16_t*>(view(*o.table).w), .scale = o.scale};
    plan.args.token = o.rows.token;
    plan.args.position = o.rows.position;
    plan.args.sequence = o.rows.sequence;
  }
  void operator()(const Qkv& o) {
    Step s = product({o.wq, o.wk, o.wv}, o.x, o.norm, Finish::qkv);
    s.kv = view(o.kv);
    s.rotation = view(o.rope);
    const int q = rows_of(o.wq->weight), kv = rows_of(o.wk->weight);
    s.out = take(q + 2 * kv);
    inputs_[o.q.data] = {.source = Source::floats, .words = s.out};
    new_k_ = s.out + q;
    new_v_ = new_k_ + kv;
    written_ = o.kv.k;
    push(s);
  }
  void operator()(const StoreKv&) {}
  void operator()(const Attend& o) {
    Step s;
    s.kind = StepKind::attend;
    s.kv = view(o.kv);
    s.q_heads = s.units = o.q.cols / o.kv.head_dim;
    s.scale = o.scale;
    plan.kind.head_dim = needs.head_dim = o.kv.head_dim;
    s.in = inputs_[o.q.data];
    s.length = o.lengths;
    if (o.lengths) plan.kind.for_t5 = true;
    if (o.bias) {
      s.biased = plan.kind.for_t5 = true;
      plan.args.bias = view(o.bias);
      needs.bias_values = plan.args.bias_values = o.bias->buckets * s.q_heads;
      needs.bias_reach = o.bias->reach;
    }
    if (o.kv.k == written_) {
      s.new_k = new_k_;
      s.new_v = new_v_;
    }
    s.out = halves(o.a.data, o.q.cols);
    // As many as keep all blocks busy.
    s.most_parts = std::max(2, multiprocessors_ / s.q_heads);
    s.parts = take(s.q_heads * s.most_parts * (kPartHead + o.kv.head_dim));
    push(s);
  }
  void operator()(const AddLinear& o) {
    Step s = product({o.w}, o.a, nullptr, Finish::add);
    s.old = inputs_[o.x.data];
    s.out = take(rows_of(o.w->weight));
    inputs_[o.x.data] = {.source = Source::floats, .words = s.out};
    push(s);
  }
  void operator()(const GatedUp& o) {
    Step s = product({o.gate, o.up}, o.x, o.norm, Finish::gate);
    s.act = view(o.act);
    put_out(s, o.h.data, rows_of(o.gate->weight), feeds_f32(next, o.h));
    push(s);
  }
  void operator()(const Project& o) {
    const bool is_query = feeds_attention(next, o.y);  // as of qkv, without keys and values
    Step s = product({o.w}, o.x, o.norm, is_query ? Finish::qkv : Finish::store);
    s.act = view(o.act);
    if (&o == logits)
      s.logits = o.y.f32();
    else
      put_out(s, o.y.data, rows_of(o.w->weight), is_query || feeds_f32(next, o.y));
    push(s);
  }
  void operator()(const NextToken& o) {
    plan.args.history = o.history;
    plan.args.history_positions = o.history_positions;
    plan.args.stops = o.stops;
    plan.args.done = o.done;
    plan.args.chooses = !o.sampling.cuts(o.logits.cols);
    plan.args.temperature = plan.args.chooses ? o.sampling.temperature : 0;
    plan.args.seed = o.sampling.seed;
    plan.args.best = take(2 * multiprocessors_);
  }

  const Project* logits = nullptr;
  const Op* next = nullptr;  // the op after this one, or null
  PersistentPlan plan;
  Needs needs;

 private:
  // Every buffer begins on a line of its own.
  Tagged* take(int words) {
    constexpr size_t kLine = 128 / sizeof(Tagged);
    Tagged* const here = exchange_ + plan.exchange_words;
    plan.exchange_words += (static_cast<size_t>(words) + kLine - 1) / kLine * kLine;
    return here;
  }
  Tagged* halves(const void* tensor, int count) {
    Tagged* const words = take(count / 2);
    inputs_[tensor] = {.source = Source::halves, .words = words};
    return words;
  }
  void put_out(Step& s, const void* tensor, int count, bool floats) {
    s.floats = floats;
    if (!floats) {
      s.out = halves(tensor, count);
      return;
    }
    s.out = take(count);
    inputs_[tensor] = {.source = Source::floats, .words = s.out};
  }
  // Whether the multiprocessor with the most units has less to do where a unit is eight rows instead of sixteen.
  bool balances_by_halves(int n, int chunks) const {
    const auto most = [&](int units) { return (units + multiprocessors_ - 1) / multiprocessors_; };
    return chunks % 2 == 0 && most(n / (kUnitRows / 2)) < 2 * most(n / kUnitRows);
  }
  // How many chunks a warp takes at a time. What it does beside the products is then less, but its last piece longer:
  // of int8, whose products are short, two are better where a block has pieces enough for all its warps to go on.
  int piece_chunks(const Step& s) const {
    constexpr int kTwo = 2;
    const int units = (s.units + multiprocessors_ - 1) / multiprocessors_;
    return s.format == WeightFormat::int8 && s.slot_chunks % kTwo == 0 && s.chunks >= kTwo * kPartBuffers &&
                   units * s.chunks > kConsumerWarps
               ? kTwo
               : 1;
  }
  int add_map(const Step& s, const Weight& w, size_t high_bytes) {
    plan.maps.push_back({.w = w.w,
                         .rows = w.n,
                         .chunks = s.halved ? 2 * s.chunks : s.chunks,
                         .slot_chunks = s.slot_chunks,
                         .half = s.format == WeightFormat::f16,
                         .high_bytes = high_bytes});
    return static_cast<int>(plan.maps.size()) - 1;
  }
  void add_maps(Step& s) {
    constexpr size_t kHalfUnit = kUnitRows / 2;
    const auto row = static_cast<size_t>(row_bytes(s.format, s.k));
    if (s.finish == Finish::gate) {
      Segment &low = s.segments[0], &high = s.segments[1];
      s.activates_second = std::less<>{}(high.w.w, low.w.w);  // as the high rows must lie behind the low ones
      if (s.activates_second) {
        std::swap(low.w, high.w);
        std::swap(low.bias, high.bias);
      }
      low.map = add_map(s, low.w, reinterpret_cast<uintptr_t>(high.w.w) - reinterpret_cast<uintptr_t>(low.w.w));
      return;
    }
    for (int i = 0; i < s.segment_count; ++i) {
      Segment& segment = s.segments[i];
      segment.map = add_map(s, segment.w, s.halved ? row / 2 : kHalfUnit * row);
      if (s.finish == Finish::qkv && i < 2 && s.rotation.cos)
        segment.rotated_map = add_map(s, segment.w, static_cast<size_t>(s.rotation.dims / 2) * row);
    }
  }
  Step product(std::initializer_list<const Linear*> linears, Tensor x, const Norm* norm, Finish finish) {
    Step s;
    s.finish = finish;
    s.in = inputs_[x.data];
    s.norm = view(norm);
    for (const Linear* linear : linears) {
      Segment& segment = s.segments[s.segment_count++];
      segment.w = view(linear->weight);
      segment.bias = linear->bias;
      s.format = segment.w.format;
      s.k = segment.w.k;
      if (s.format == WeightFormat::f32)
        plan.kind.for_t5 = true;
      else if (s.format != WeightFormat::f16)
        plan.kind.format = s.format;
      s.inverse_k = 1.0 / s.k;
      const bool second_of_gate = finish == Finish::gate && s.segment_count == 2;
      s.halved = finish == Finish::add && balances_by_halves(segment.w.n, row_bytes(s.format, s.k) / kChunkBytes);
      segment.units =
          second_of_gate ? 0 : segment.w.n / (finish == Finish::gate || s.halved ? kUnitRows / 2 : kUnitRows);
      s.units += segment.units;
      s.chunks = row_bytes(s.format, s.k) / kChunkBytes / (s.halved ? 2 : 1);
      s.slot_chunks = largest_part(s.chunks, s.format == WeightFormat::nf4
                                                 ? kMostSlotChunks
                                                 : std::max(kFewSlotChunks, needs.slot_bytes / kRowsChunkBytes));
      s.slots = s.chunks / s.slot_chunks;
    }
    s.walk = walk_of(s, piece_chunks(s));
    for (int warp = 0; warp < kConsumerWarps; ++warp) {
      const auto small = [](int i) { return static_cast<uint8_t>(i); };
      const int pieces = s.walk.pieces, slot_pieces = s.walk.slot_pieces;
      s.starts[warp] = {small(warp / pieces), small(warp % pieces), small(warp / slot_pieces),
                        small(warp % slot_pieces)};
      if (warp >= warps_at_work(s.walk)) s.starts[warp].unit = kNoUnit;
    }
    if (!plan.steps.empty()) s.same_row = same_row(plan.steps.back(), s);
    needs.most_k = std::max(needs.most_k, s.k);
    constexpr int kHalf = 2, kFloat = 4;
    needs.row_bytes = std::max(needs.row_bytes, s.k * (s.format == WeightFormat::f32 ? kFloat : kHalf));
    needs.slot_bytes = std::max(needs.slot_bytes, s.slot_chunks * kRowsChunkBytes);
    needs.most_stride = std::max(needs.most_stride, warps_at_work(s.walk) / s.walk.slot_pieces);
    needs.int8 |= s.format == WeightFormat::int8;
    if (s.format == WeightFormat::nf4) {
      needs.nf4 = true;
      const int bytes = kScaleHeadBytes + kUnitRows * (s.k / 64) + 2 * kNestedBytes;
      needs.scale_bytes = std::max(needs.scale_bytes, (bytes + kChunkBytes - 1) / kChunkBytes * kChunkBytes);
    }
    return s;
  }
  void push(Step& s) {
    if (!plan.steps.empty() && !s.same_row) {
      plan.steps.back().next_norm = s.norm;
      plan.steps.back().next_norm_count = s.k;
    }
    if (s.kind == StepKind::product) add_maps(s);
    s.index = static_cast<int>(plan.steps.size());
    s.turn = turn_ % multiprocessors_;
    s.rounds = s.units / multiprocessors_;
    s.rest = s.units % multiprocessors_;
    turn_ += s.units;
    plan.steps.push_back(s);
  }

  int multiprocessors_, turn_ = 0;
  Tagged* exchange_;
  const Tagged *new_k_ = nullptr, *new_v_ = nullptr;
  const f16* written_ = nullptr;             // the keys that those go to
  std::map<const void*, StepInput> inputs_;  // where a tensor's values are now
};

// The ring takes what the rest leaves; 0 where that is too little.
int ring_slots(const Needs& needs, size_t shared_bytes) {
  for (int slots = kMostSlots; slots >= needs.most_stride + kLeastOnTheWay; --slots) {
    if (shared_layout(slots, needs).bytes <= shared_bytes) return slots;
  }
  return 0;
}

const Project* logits_of(const Tape& tape) {
  return tape.size() < 2 ? nullptr : std::get_if<Project>(&tape[tape.size() - 2]);
}

Builder build(const Tape& tape, int multiprocessors, Tagged* exchange) {
  Builder builder(multiprocessors, exchange);
  builder.logits = logits_of(tape);
  for (size_t i = 0; i < tape.size(); ++i) {
    builder.next = i + 1 < tape.size() ? &tape[i + 1] : nullptr;
    std::visit(builder, tape[i]);
  }
  return builder;
}

struct Obstacle {
  std::string operator()(const Embed& o) const {
    return std::holds_alternative<Bf16Matrix>(*o.table) ? "bf16 weights" : rows(o.rows.count);
  }
  std::string operator()(const Qkv& o) const {
    if (!can_place_qkv(view(o.kv), view(o.rope))) return "heads whose rotated dimensions are not whole tiles";
    return product({o.wq, o.wk, o.wv}, o.norm, kUnitRows);
  }
  std::string operator()(const StoreKv&) const { return "keys and values that are not a token's"; }
  std::string operator()(const Attend& o) const {
    // With or without what T5 has: which kernel it is, all of the tape decides.
    if (o.bias && o.bias != bias) return "attentions with different biases by distance";
    if (o.kv.head_dim == head_dim && has_persistent_kernel(head_dim, for_t5)) return {};
    return fmt::format("heads of {} dimensions{}", o.kv.head_dim,
                       has_persistent_kernel(o.kv.head_dim, false) ? " beside fp32 weights or other heads" : "");
  }
  std::string operator()(const AddLinear& o) const { return product({o.w}, nullptr, kUnitRows, follows_f32_input); }
  std::string operator()(const GatedUp& o) const { return product({o.gate, o.up}, o.norm, kUnitRows / 2); }
  std::string operator()(const Project& o) const { return product({o.w}, o.norm, kUnitRows); }
  std::string operator()(const NextToken& o) const { return rows(o.rows.count); }

  static std::string rows(int count) { return count == 1 ? "" : fmt::format("a batch of {} sequences", count); }
  // May fp32 weights be: where the op before leaves what they are multiplied with.
  static std::string product(std::initializer_list<const Linear*> linears, const Norm* norm, int unit_rows,
                             bool may_be_f32 = false) {
    const Weight first = view((*linears.begin())->weight);
    for (const Linear* linear : linears) {
      const Weight w = view(linear->weight);
      if (w.format != first.format) return "matrices of one op in different formats";
      if (w.format == WeightFormat::f32 && !may_be_f32) return "fp32 weights";
      if (w.format == WeightFormat::bf16) return "bf16 weights";
      const auto* nf4 = std::get_if<Nf4Matrix>(&linear->weight);
      if (nf4 && !nf4->double_quantized) return "NF4 without double quantisation";
      if (w.n % unit_rows != 0) return fmt::format("products of {} outputs", w.n);
      if (w.k % 64 != 0 || row_bytes(w.format, w.k) % kChunkBytes != 0 || w.k > kMostInput ||
          (norm && w.k > kMostNormed)) {
        return fmt::format("products of {} inputs", w.k);
      }
      constexpr int kPairOfRowScales = 2 * 64;  // so that the scales of eight rows are whole 16 bytes
      if (nf4 && w.k % kPairOfRowScales != 0) return fmt::format("products of {} inputs", w.k);
    }
    return {};
  }

  int head_dim = 0;
  bool for_t5 = false;
  const DistanceBias* bias = nullptr;
  bool follows_f32_input = false;  // the op before this one writes what fp32 weights can take
};

// What of a tape is not taken, or nothing.
std::string part_not_taken(const Tape& tape, size_t shared_bytes) {
  if (tape.size() < 3 || !std::get_if<Embed>(&tape.front()) || !std::get_if<NextToken>(&tape.back()) ||
      !logits_of(tape)) {
    return "a step that is not a token's";
  }
  Obstacle of_op;
  for (const Op& op : tape) {
    of_op.for_t5 |= has_f32_weights(&op);
    if (const auto* const attend = std::get_if<Attend>(&op)) {
      of_op.head_dim = attend->kv.head_dim;
      of_op.for_t5 |= attend->bias != nullptr || attend->lengths != nullptr;
      if (attend->bias) of_op.bias = attend->bias;
    }
  }
  for (size_t i = 0; i < tape.size(); ++i) {
    const auto* const gate = i > 0 ? std::get_if<GatedUp>(&tape[i - 1]) : nullptr;
    const auto* const project = i > 0 ? std::get_if<Project>(&tape[i - 1]) : nullptr;
    of_op.follows_f32_input = (gate && feeds_f32(&tape[i], gate->h)) || (project && feeds_f32(&tape[i], project->y));
    std::string obstacle = std::visit(of_op, tape[i]);
    if (!obstacle.empty()) return obstacle;
  }
  const Needs needs = build(tape, 1, nullptr).needs;
  if (needs.int8 && needs.nf4) return "matrices in more than two formats";
  if (ring_slots(needs, shared_bytes) == 0) return "rows that leave no room in shared memory";
  return {};
}

}  // namespace

std::string persistent_obstacle(const Tape& tape, size_t shared_bytes) {
  const std::string part = part_not_taken(tape, shared_bytes);
  return part.empty() ? part : fmt::format("the persistent engine does not take {}", part);
}

PersistentPlan make_persistent_plan(const Tape& tape, int multiprocessors, size_t shared_bytes, Tagged* exchange,
                                    double memory_rate) {
  Builder builder = build(tape, multiprocessors, exchange);
  PersistentPlan plan = std::move(builder.plan);
  const Needs& needs = builder.needs;
  PersistentArgs& args = plan.args;
  args.step_count = static_cast<int>(plan.steps.size());
  args.nf4 = needs.nf4;
  args.slot_bytes = needs.slot_bytes;
  args.scale_bytes = needs.scale_bytes;
  args.slots = ring_slots(needs, shared_bytes);
  // As measured on an H100; int8 also on an H200, whose faster memory wants more (docs/performance.md).
  constexpr int kLeastInt8Bytes = 32 << 10;
  constexpr double kInt8Seconds = 1.35e-6;  // of what memory can give a multiprocessor
  const int int8_bytes = std::max(kLeastInt8Bytes, static_cast<int>(memory_rate * kInt8Seconds / multiprocessors));
  const int wanted = plan.kind.format == WeightFormat::nf4    ? (48 << 10) / args.slot_bytes
                     : plan.kind.format == WeightFormat::int8 ? int8_bytes / args.slot_bytes
                                                              : 6;
  // A warp may not meet a slot again before it has been filled in between.
  args.slots_on_the_way = std::min(wanted, args.slots - needs.most_stride);
  for (Step& step : plan.steps) {
    if (step.kind == StepKind::product) set_strides(step.walk, args.slots);
  }
  args.at = shared_layout(args.slots, needs);
  plan.shared_bytes = args.at.bytes;
  return plan;
}

std::string tuning_of(const PersistentPlan& plan) {
  std::string kinds;
  for (const Step& s : plan.steps) {
    if (s.kind != StepKind::product) continue;
    const std::string kind =
        fmt::format(" {}/{}{}", s.slot_chunks, static_cast<int>(s.walk.piece_chunks), s.halved ? "h" : "");
    if ((kinds + " ").find(kind + " ") == std::string::npos) kinds += kind;
  }
  const PersistentArgs& args = plan.args;
  return fmt::format("ring {}x{}, {} on the way; pieces{}", args.slots, args.slot_bytes, args.slots_on_the_way, kinds);
}

}  // namespace quantbench::QB_CUDA
