// What becomes of a unit's sums, by warps of their own: they know beforehand what a unit's outputs need beside its sums
// and where they go, so that little is left to do when the sums are there; and at the end they choose the next token.
#pragma once

#include <cmath>

#include "backend/cuda/finish.cuh"
#include "backend/cuda/persistent/unit_products.cuh"
#include "backend/sampling.h"

#if defined(QB_HOPPER)
namespace quantbench::QB_CUDA::persistent {

struct Best {
  float score = -INFINITY;
  int32_t id = 0;
};
QB_DEVICE Best better(Best a, Best b) { return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a; }
QB_DEVICE Best best_of_warp(Best best) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    best = better(best, {from_lane_xor(best.score, mask), from_lane_xor(best.id, mask)});
  }
  return best;
}
QB_DEVICE_CALL float noisy_score(float logit, float temperature, uint64_t seed, int position, int id) {
  return sampling_score(logit, temperature, seed, position, id);
}

// What lane i's output needs beside its sum, asked for while the sums are made. Of lanes i < 16: row low + i, or
// high + i - 8; lanes from 16 on do the same as those but for leaving it anywhere.
// Flags say which of the pointers are there. (Where a pointer that is null unless set was its own flag, the code that
// CUDA 13.0 made followed null on an H100: it compared the registers five cycles after they had been cleared.)
struct Ahead {
  int n = 0;
  bool rotates = false, has_bias = false, from_table = false, leaves = false, is_cached = false;
  const float *bias_at = nullptr, *absmax_at = nullptr;
  const uint16_t* table_at = nullptr;
  const Tagged* old_at = nullptr;
  float bias = 0, absmax = 0;
  float first = 0, second = 0;  // where it rotates: cos and sin; add: `first` is what is added to, if from a table
  Tagged old = 0;               // add: the word of what is added to, as it was when it was asked for
  Tagged* out = nullptr;        // where it leaves its output, if it does
  uint16_t* cached = nullptr;   // keys and values also go into the cache
};
template <WeightFormat kFormat, Finish kFinish>
QB_DEVICE void ask_ahead(const Step& s, Ahead& ahead) {
  if (ahead.has_bias) ahead.bias = *ahead.bias_at;
  if constexpr (kFormat == WeightFormat::int8) ahead.absmax = *ahead.absmax_at;
  if constexpr (kFinish == Finish::add) {
    if (ahead.from_table)
      ahead.first = float_of_half(*ahead.table_at) * s.old.scale;
    else
      ahead.old = get_word(ahead.old_at);
  }
}
template <WeightFormat kFormat, Finish kFinish, bool kForT5>
QB_DEVICE Ahead look_ahead(const Shared& m, const Step& s, int unit) {
  const int lane = lane_index(), i = lane % kUnitRows, segment = find_segment(s, &unit);
  const Tile tile = tile_of(s, segment, unit);
  const Segment& own = s.segments[kFinish == Finish::gate && i >= 8 ? 1 : segment];
  Ahead ahead;
  ahead.rotates = tile.rotates;
  const int n = ahead.n = i < 8 ? tile.low + i : tile.high + i - 8;
  ahead.has_bias = own.bias != nullptr;
  ahead.bias_at = own.bias + n;
  if constexpr (kFormat == WeightFormat::int8) ahead.absmax_at = own.w.absmax + n;
  bool leaves = lane < kUnitRows;
  const bool floats = kForT5 && s.floats;
  int word = n;
  if constexpr (kFinish == Finish::store) {
    leaves &= floats || i % 2 == 0;
    word = floats ? n : n / 2;
  } else if constexpr (kFinish == Finish::add) {
    leaves &= !s.halved || i < 8;
    ahead.from_table = s.old.source == Source::table;
    if (ahead.from_table)
      ahead.table_at = s.old.table + static_cast<size_t>(*m.token()) * own.w.n + n;
    else
      ahead.old_at = s.old.words + n;
  } else if constexpr (kFinish == Finish::gate) {
    leaves &= i < 8 && (floats || i % 2 == 0);
    word = floats ? n : n / 2;
  } else {
    if (tile.rotates) {
      const int half = s.rotation.dims / 2;
      const size_t angle = static_cast<size_t>(*m.position()) * half + tile.low % s.kv.head_dim + i % 8;
      ahead.first = s.rotation.cos[angle];
      ahead.second = s.rotation.sin[angle];
    }
    for (int j = 0; j < segment; ++j) word += s.segments[j].w.n;
    ahead.is_cached = leaves && segment > 0;
    if (ahead.is_cached) {
      const Cache& kv = s.kv;
      const unsigned head_dim = static_cast<unsigned>(kv.head_dim), own_head = static_cast<unsigned>(n) / head_dim;
      const size_t head = static_cast<size_t>(*m.sequence()) * kv.heads + own_head;
      ahead.cached =
          (segment == 1 ? kv.k : kv.v) + (head * kv.positions + *m.position()) * head_dim + n - own_head * head_dim;
    }
  }
  ahead.leaves = leaves;
  ahead.out = s.out + word;
  ask_ahead<kFormat, kFinish>(s, ahead);
  return ahead;
}
// So many rows of the matrix further on; of any step but qkv, whose units are not alike.
template <WeightFormat kFormat, Finish kFinish, bool kForT5>
QB_DEVICE void move_ahead(const Step& s, int rows, Ahead& ahead) {
  ahead.n += rows;
  ahead.bias_at += rows;
  if constexpr (kFormat == WeightFormat::int8) ahead.absmax_at += rows;
  if constexpr (kFinish == Finish::add) {
    ahead.table_at += rows;
    ahead.old_at += rows;
  }
  ahead.out += kFinish == Finish::add || (kForT5 && s.floats) ? rows : rows / 2;
  ask_ahead<kFormat, kFinish>(s, ahead);
}

// What all units of a step have in common.
struct StepFacts {
  int parts;
  Activation act;
  bool halved, activates_second, floats;
  float* logits;
};
// A number of each lane, of neighbours side by side as halves or each as a float.
template <bool kForT5>
QB_DEVICE void leave(const PersistentArgs& a, const StepFacts& facts, const Ahead& ahead, float value) {
  const float next = from_lane_down(value, 1);
  const uint32_t bits = kForT5 && facts.floats ? bits_of_float(value) : halves(value, next);
  if (ahead.leaves) put_word(ahead.out, tagged(bits, a.epoch));
}
// By one warp; lanes i and i + 16 have the same sum.
template <WeightFormat kFormat, Finish kFinish, bool kForT5>
QB_DEVICE void finish_unit(const PersistentArgs& a, const Shared& m, const StepFacts& facts, const Wait& wait,
                           const Ahead& ahead, SumOf<kFormat> sum, float outliers, const Int8Row& row, Best* best) {
  float value = 0;
  if constexpr (kFormat == WeightFormat::int8) {
    value = int8_output(sum, row.absmax, ahead.absmax, ahead.bias);
    if (row.has_outliers) value = float_of_half(half_of_float(add_rn(value, outliers)));
  } else {
    value = sum + ahead.bias;
  }
  if constexpr (kFinish == Finish::store) {
    value = activate(value, facts.act);
    if (facts.logits) {
      if (lane_index() >= kUnitRows) return;
      facts.logits[ahead.n] = value;
      const float score = a.temperature > 0 ? noisy_score(value, a.temperature, a.seed, *m.position(), ahead.n) : value;
      *best = better(*best, {score, ahead.n});
      return;
    }
    leave<kForT5>(a, facts, ahead, value);
  } else if constexpr (kFinish == Finish::add) {
    float old = ahead.first;
    if (!ahead.from_table) {
      const bool there = static_cast<uint32_t>(ahead.old >> 32) == a.epoch;
      old = as_float(there ? static_cast<uint32_t>(ahead.old) : wait_word(wait, ahead.old_at));
    }
    if (ahead.leaves) put_word(ahead.out, tagged(bits_of_float(old + value), a.epoch));
  } else if constexpr (kFinish == Finish::gate) {
    const float second = from_lane_down(value, 8);
    value = facts.activates_second ? activate(second, facts.act) * value : activate(value, facts.act) * second;
    leave<kForT5>(a, facts, ahead, value);
  } else {
    if (ahead.rotates) {
      const float other = from_lane_xor(value, 8);
      value = lane_index() % kUnitRows < 8 ? value * ahead.first - other * ahead.second
                                           : value * ahead.first + other * ahead.second;
    }
    if (ahead.leaves) put_word(ahead.out, tagged(bits_of_float(value), a.epoch));
    if (ahead.is_cached) *ahead.cached = half_of_float(value);
  }
}

// Its parts in their order, every other one by each half of the warp; then both halves.
template <int kLanes, typename Sum>
QB_DEVICE Sum sum_of_parts(const Sum* parts, int count) {
  const int lane = lane_index();
  const Sum* const own = parts + lane * kLanes;  // part lane / 16, row lane % 16
  Sum sum = 0;
  const auto add = [&](int i) {
    if (i + lane / kUnitRows >= count) return;
    if constexpr (kLanes == 2) {
      const Pair two = *reinterpret_cast<const Pair*>(own + i * kUnitRows * kLanes);
      sum += two.x + two.y;
    } else {
      sum += own[i * kUnitRows];
    }
  };
#pragma unroll
  for (int i = 0; i < kConsumerWarps / 2; i += 2) add(i);
  if (count > kConsumerWarps / 2) {
#pragma unroll
    for (int i = kConsumerWarps / 2; i < kConsumerWarps; i += 2) add(i);
  }
  return sum + from_lane_xor(sum, kUnitRows);
}

// Finisher `own`'s units of a step: those whose number in the block's stream is its own, counted round.
template <WeightFormat kFormat, Finish kFinish, bool kForT5>
QB_DEVICE void finish_units(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait, int own,
                            uint32_t first_number, int own_units, Best* best) {
  const int first = first_unit(s);
  int unit = static_cast<int>((static_cast<uint32_t>(own) + kFinishers - first_number % kFinishers) % kFinishers);
  if (unit >= own_units) return;
  const StepFacts facts{s.walk.parts, s.act, s.halved, s.activates_second, s.floats, s.logits};
  const int rows_on = kFinishers * blocks_x() * rows_of_unit(s);
  Ahead ahead = look_ahead<kFormat, kFinish, kForT5>(m, s, first + unit * blocks_x());
  while (true) {
    const uint32_t number = first_number + static_cast<uint32_t>(unit);
    const PartPlace at = part_place(number);
    wait_barrier(wait, part_barrier(m, at), at.turn % 2);
    Int8Row row{};
    if constexpr (kFormat == WeightFormat::int8) row = *m.row(s.index);
    SumOf<kFormat> sum = sum_of_parts<kLanesOfSum<kFormat>>(parts_at<kFormat>(m, at), facts.parts);
    float outliers = 0;
    if constexpr (kFormat == WeightFormat::int8)
      outliers = sum_of_parts<1>(outlier_parts_at(m, at), facts.parts);  // with outliers alone it is of this unit
    if constexpr (kFinish == Finish::add) {
      if (facts.halved) {
        sum += from_lane_xor(sum, kUnitRows / 2);
        outliers += from_lane_xor(outliers, kUnitRows / 2);
      }
    }
    finish_unit<kFormat, kFinish, kForT5>(a, m, facts, wait, ahead, sum, outliers, row, best);
    sync_warp();
    if (lane_index() == 0) put_count(finished_count(part_barrier(m, at)), at.turn + 1);
    unit += kFinishers;
    if (unit >= own_units) return;
    if constexpr (kFinish == Finish::qkv)
      ahead = look_ahead<kFormat, kFinish, kForT5>(m, s, first + unit * blocks_x());
    else
      move_ahead<kFormat, kFinish, kForT5>(s, rows_on, ahead);
  }
}
template <WeightFormat kFormat, bool kForT5>
QB_DEVICE void finish_step(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait, int own,
                           uint32_t first_number, int own_units, Best* best) {
  switch (s.finish) {
    case Finish::store:
      return finish_units<kFormat, Finish::store, kForT5>(a, m, s, wait, own, first_number, own_units, best);
    case Finish::add:
      return finish_units<kFormat, Finish::add, kForT5>(a, m, s, wait, own, first_number, own_units, best);
    case Finish::gate:
      return finish_units<kFormat, Finish::gate, kForT5>(a, m, s, wait, own, first_number, own_units, best);
    case Finish::qkv:
      return finish_units<kFormat, Finish::qkv, kForT5>(a, m, s, wait, own, first_number, own_units, best);
  }
}

// --- the next token -------------------------------------------------------------------------------
// By the first finisher, of what all have found.
QB_DEVICE void choose_token(const PersistentArgs& a, const Shared& m, Best best) {
  const int lane = lane_index();
  const int sequence = *m.sequence(), stop_count = a.done ? a.stops[0] : 0;
  const bool is_done = a.done && a.done[sequence] != 0;
  const Wait wait{a.stuck, a.epoch, &a.step_count};
  wait_barrier(wait, m.best_barrier(), 0);
  for (int f = 1; f < kFinishers; ++f) best = better(best, m.pointer<Best>(m.at.best)[f]);
  if (lane == 0) {
    put_word(a.best + 2 * block_x(), tagged(bits_of_float(best.score), a.epoch));
    put_word(a.best + 2 * block_x() + 1, tagged(static_cast<uint32_t>(best.id), a.epoch));
  }
  if (block_x() != 0) return;
  for (int i = lane; i < blocks_x(); i += kWarpSize) {
    const TwoValues v = wait_two(wait, a.best + 2 * i);
    best = better(best, {as_float(v.first), static_cast<int32_t>(v.second)});
  }
  sync_warp();
  best = best_of_warp(best);
  if (lane != 0 || is_done) return;
  const int next = *m.position() + 1;
  a.token[0] = best.id;
  a.position[0] = next;
  if (a.history && next < a.history_positions) {
    a.history[static_cast<size_t>(sequence) * a.history_positions + next] = best.id;
  }
  if (is_among(a.stops + 1, stop_count, best.id)) a.done[sequence] = 1;
}

// Warp `own` of the finishers.
template <WeightFormat kFormat, bool kForT5>
QB_DEVICE void finish(const PersistentArgs& a, const Shared& m, int own) {
  Step* const steps = m.pointer<Step>(m.at.finisher_steps) + 2 * own;
  Best best;
  uint32_t number = 0;
  fetch_step(a, steps, 0);
  for (int i = 0; i < a.step_count; ++i) {
    wait_for_copies();
    sync_warp();  // the step is there, and the one before it is used up
    fetch_step(a, steps + (i + 1) % 2, i + 1);
    const Step& s = steps[i % 2];
    if (s.kind != StepKind::product) continue;
    const Wait wait{a.stuck, a.epoch, &s.index};
    const int own_units = own_unit_count(s, first_unit(s));
    // What products with fp32 weights leave is as of fp16.
    if (kFormat == WeightFormat::f16 || s.format == WeightFormat::f16 || (kForT5 && s.format == WeightFormat::f32))
      finish_step<WeightFormat::f16, kForT5>(a, m, s, wait, own, number, own_units, &best);
    else
      finish_step<kFormat, kForT5>(a, m, s, wait, own, number, own_units, &best);
    number += static_cast<uint32_t>(own_units);
  }
  if (!a.chooses) return;
  sync_warp();
  best = best_of_warp(best);
  if (own == 0) return choose_token(a, m, best);
  if (lane_index() == 0) {
    m.pointer<Best>(m.at.best)[own] = best;
    barrier_arrive(m.best_barrier());
  }
}

}  // namespace quantbench::QB_CUDA::persistent
#endif
