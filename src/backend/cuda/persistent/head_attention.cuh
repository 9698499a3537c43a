// Attention of one token.
#pragma once

#include <cmath>

#include "backend/cuda/persistent/weight_stream.cuh"
#include "backend/cuda/sum_by_halves.cuh"

#if defined(QB_HOPPER)
namespace quantbench::QB_CUDA::persistent {

constexpr float kLog2OfE = 1.442695041f;

// What distances add to scores lies in shared memory: values [buckets, heads], then the bucket of each distance.
QB_DEVICE void copy_bias(const PersistentArgs& a, const Shared& m) {
  if (!a.bias.values) return;
  float* const values = m.pointer<float>(m.at.bias);
  auto* const buckets = reinterpret_cast<int32_t*>(values + a.bias_values);
  for (int i = thread_index(); i < a.bias_values; i += kConsumers) values[i] = a.bias.values[i];
  for (int i = thread_index(); i < 2 * a.bias.reach + 1; i += kConsumers) buckets[i] = a.bias.bucket[i];
}
// In exponents of 2.
QB_DEVICE float bias_of(const PersistentArgs& a, const Shared& m, int heads, int head, int distance) {
  const int reach = a.bias.reach;
  distance = distance < -reach ? -reach : distance > reach ? reach : distance;
  const float* const values = m.pointer<float>(m.at.bias);
  const auto* const buckets = reinterpret_cast<const int32_t*>(values + a.bias_values);
  return values[buckets[distance + reach] * heads + head] * kLog2OfE;
}

// What of attention is the same for all heads.
struct Sight {
  int position;  // the token's
  int own;       // its place among the keys, whose key and value this step makes; -1: none
  int sequence, length;
};

// Positions [first, last) of one q head by the whole block: kLanes lanes a position, each with every so many fourth of
// the dimensions by four; 512 / kLanes positions at a time. A lane keeps its own softmax, and all are brought together
// at the end; exponents are of 2. part: where what they give goes instead of into the head's output, or null where they
// are all.
template <int kHeadDim, bool kForT5>
QB_DEVICE void attend_head(const PersistentArgs& a, const Shared& m, const Step& s, const Sight& sight, Wait wait,
                           int head, int first, int last, Tagged* part_out) {
  float* const scratch = m.pointer<float>(m.at.x);
  const int thread = thread_index(), position = sight.own;
  constexpr int kLanes = kLanesOfPosition<kHeadDim>, kAtOnce = kPartPositions<kHeadDim>,
                kPieces = kHeadDim / (4 * kLanes);
  const int group = s.q_heads / s.kv.heads, kv_head = head / group;
  const int t = thread % kLanes, own = thread / kLanes;
  const size_t cache = (static_cast<size_t>(sight.sequence) * s.kv.heads + kv_head) * s.kv.positions * kHeadDim;
  const uint16_t* const keys = s.kv.k + cache;
  const uint16_t* const values = s.kv.v + cache;
  int p = first + own;
  // Keys and values are asked for before q is there: the cache was streamed out of the second-level cache since the
  // last token, and memory takes longer to answer than the blocks before this one to do their part. Of large heads they
  // would not fit into the first-level cache, so they come into registers.
  constexpr bool kInRegisters = kLanes > 4;
  Bytes8 asked_key[kInRegisters ? kPieces : 1] = {}, asked_value[kInRegisters ? kPieces : 1] = {};
  const auto ask = [&] {
    if (p >= last || p == position) return;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const size_t at = static_cast<size_t>(p) * kHeadDim + static_cast<size_t>((i * kLanes + t) * 4);
      asked_key[i] = load8_once(keys + at);
      asked_value[i] = load8_once(values + at);
    }
  };
  if constexpr (kInRegisters) {
    ask();
  } else {
    constexpr int kRowBytes = kHeadDim * 2, kLine = 128, kLines = (kRowBytes + kLine - 1) / kLine;
    static_assert(2 * kLines <= kLanes);
    if (p < last && p != position && t < 2 * kLines) {
      const auto* const row = reinterpret_cast<const std::byte*>(t % 2 == 0 ? keys : values);
      prefetch_to_l1(row + static_cast<size_t>(p) * kRowBytes + t / 2 * kLine);
    }
  }
  float bias = 0;  // of position p
  if constexpr (kForT5) {
    if (s.biased && p < last) bias = bias_of(a, m, s.q_heads, head, p - sight.position);
  }
  // q, and this token's key and value, rounded as in the cache: each word is waited for by one thread.
  float* const q = scratch;
  auto* const new_key = reinterpret_cast<Half2*>(q + kHeadDim);
  Half2* const new_value = new_key + kHeadDim / 2;
  const int part = thread / (kHeadDim / 2), pair = thread % (kHeadDim / 2), waited = kForT5 && position < 0 ? 1 : 3;
  TwoValues own_words{};
  if (part < waited) {
    const Tagged* const from = part == 0   ? s.in.words + head * kHeadDim
                               : part == 1 ? s.new_k + kv_head * kHeadDim
                                           : s.new_v + kv_head * kHeadDim;
    own_words = wait_two(wait, from + 2 * pair);
  }
  if (part == 0) {
    const float scale = s.scale * kLog2OfE;
    q[2 * pair] = as_float(own_words.first) * scale;
    q[2 * pair + 1] = as_float(own_words.second) * scale;
  } else if (part < waited) {
    (part == 1 ? new_key : new_value)[pair] = halves(as_float(own_words.first), as_float(own_words.second));
  }
  sync_consumers();
  const auto load_row = [&](const Half2* row, Bytes8(&to)[kPieces]) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) to[i] = *reinterpret_cast<const Bytes8*>(row + (i * kLanes + t) * 2);
  };
  constexpr int kStride = kHeadDim + 2, kWarpPositions = kWarpSize / kLanes;
  float* const parts = scratch + 2 * kHeadDim;
  const int positions = last - first < kAtOnce ? last - first : kAtOnce;
  const int warps = (positions + kWarpPositions - 1) / kWarpPositions;  // the others have no position
  if (warp_index() < warps) {
    float most = -INFINITY, total = 0, sum[kPieces * 4] = {};
    const auto take = [&](const Bytes8(&key)[kPieces], const Bytes8(&value)[kPieces]) {
      float score[2] = {};
      if (p < last) {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
          const Quad four = load_shared_floats(shared_address(q + (i * kLanes + t) * 4));
          score[0] = fmaf(four.at[0], half_low(key[i].word[0]), score[0]);
          score[1] = fmaf(four.at[1], half_high(key[i].word[0]), score[1]);
          score[0] = fmaf(four.at[2], half_low(key[i].word[1]), score[0]);
          score[1] = fmaf(four.at[3], half_high(key[i].word[1]), score[1]);
        }
      }
      float all = score[0] + score[1];
#pragma unroll
      for (int mask = 1; mask < kLanes; mask *= 2) all += from_lane_xor(all, mask);
      if constexpr (kForT5) {
        all += bias;
        if (s.biased && p + kAtOnce < last) bias = bias_of(a, m, s.q_heads, head, p + kAtOnce - sight.position);
      }
      if (p < last) {
        const float now = all > most ? all : most, keep = power_of_two(most - now), weight = power_of_two(all - now);
        total = fmaf(total, keep, weight);
        most = now;
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            sum[4 * i + 2 * j] = fmaf(weight, half_low(value[i].word[j]), sum[4 * i + 2 * j] * keep);
            sum[4 * i + 2 * j + 1] = fmaf(weight, half_high(value[i].word[j]), sum[4 * i + 2 * j + 1] * keep);
          }
        }
      }
    };
#pragma unroll 1
    for (int begin = first; begin < last; begin += kAtOnce, p += kAtOnce) {
      if constexpr (kInRegisters) {
        if (begin != first) ask();
        if (p == position) {
          load_row(new_key, asked_key);
          load_row(new_value, asked_value);
        }
        take(asked_key, asked_value);
      } else {
        // From either place by the same loads, and of this turn alone: what stays from turn to turn takes registers
        // that other steps need (NF4 with heads of 80: 4 % of a token's time).
        Bytes8 key[kPieces], value[kPieces];
        const size_t row = static_cast<size_t>(p) * kHeadDim;
        if (p < last) {
          load_row(p == position ? new_key : reinterpret_cast<const Half2*>(keys + row), key);
          load_row(p == position ? new_value : reinterpret_cast<const Half2*>(values + row), value);
        }
        take(key, value);
      }
    }
    // Of the positions of a warp.
    float warp_most = most;
#pragma unroll
    for (int mask = kLanes; mask < kWarpSize; mask *= 2) {
      const float other = from_lane_xor(warp_most, mask);
      warp_most = other > warp_most ? other : warp_most;
    }
    const float keep = power_of_two(most - warp_most);  // a warp has a position at least; 0 of a lane without
    total *= keep;
#pragma unroll
    for (int i = 0; i < kPieces * 4; ++i) sum[i] *= keep;
#pragma unroll
    for (int mask = kLanes; mask < kWarpSize; mask *= 2) total += from_lane_xor(total, mask);
    float* const mine = parts + warp_index() * kStride;
    const int from = sum_by_halves<kPieces * 4, kLanes>(sum);
#pragma unroll
    for (int i = 0; i < kLeft<kPieces * 4, kLanes>; ++i) {
      const int at = from + i;
      mine[2 + (at / 4 * kLanes + t) * 4 + at % 4] = sum[i];  // where two lanes have it, they have the same
    }
    if (lane_index() == 0) {
      mine[0] = warp_most;
      mine[1] = total;
    }
  }
  sync_consumers();
  // Of the warps, a lane a dimension.
  const int lane = lane_index();
  if (thread < (kHeadDim + kWarpSize - 1) / kWarpSize * kWarpSize) {
    const float* const of_warp = parts + lane % kConsumerWarps * kStride;
    const bool is_there = lane % kConsumerWarps < warps;
    const float own_most = is_there ? of_warp[0] : -INFINITY;
    float all_most = own_most;
#pragma unroll
    for (int mask = kConsumerWarps / 2; mask > 0; mask /= 2) {
      const float other = from_lane_xor(all_most, mask);
      all_most = other > all_most ? other : all_most;
    }
    const float factor = power_of_two(own_most - all_most);
    float all = is_there ? of_warp[1] * factor : 0.0f, own_sum = 0;
#pragma unroll
    for (int mask = kConsumerWarps / 2; mask > 0; mask /= 2) all += from_lane_xor(all, mask);
    const int dimension = thread < kHeadDim ? thread : kHeadDim - 1;
#pragma unroll 4
    for (int w = 0; w < warps; ++w) own_sum = fmaf(parts[w * kStride + 2 + dimension], from_lane(factor, w), own_sum);
    const float next = from_lane_down(own_sum, 1);
    if (part_out) {
      if (thread == 0) {
        put_word(part_out, tagged(bits_of_float(all_most), wait.epoch));
        put_word(part_out + 1, tagged(bits_of_float(all), wait.epoch));
      }
      if (thread < kHeadDim) put_word(part_out + kPartHead + thread, tagged(bits_of_float(own_sum), wait.epoch));
    } else if (thread < kHeadDim && thread % 2 == 0) {
      put_word(s.out + head * (kHeadDim / 2) + thread / 2, tagged(halves(own_sum / all, next / all), wait.epoch));
    }
  }
  sync_consumers();  // the scratch is used up
}

// Brings a head's parts together: a thread those of a pair of dimensions, or as many of them as there are threads for
// the others; then all of these, in their order.
struct PartSum {
  float most = -INFINITY, total = 0, first = 0, second = 0;
  QB_DEVICE void add(const PartSum& part) {
    const float now = part.most > most ? part.most : most;
    const float keep = power_of_two(most - now), weight = power_of_two(part.most - now);
    total = total * keep + part.total * weight;
    first = first * keep + part.first * weight;
    second = second * keep + part.second * weight;
    most = now;
  }
};
template <int kHeadDim>
QB_DEVICE void join_parts(const Shared& m, const Step& s, const Wait& wait, int head, int parts) {
  constexpr int kWords = kPartHead + kHeadDim, kPairs = kHeadDim / 2, kAtOnce = 2;
  // Sharing takes registers that other steps need, so it is for heads that are few and large.
  constexpr int kMostShares = kHeadDim > 128 ? kConsumers / kPairs : 1;
  const Tagged* const from = s.parts + static_cast<size_t>(head) * s.most_parts * kWords;
  const int thread = thread_index(), pair = thread % kPairs, share = thread / kPairs;
  const int wanted = (parts + kAtOnce - 1) / kAtOnce,
            shares = kMostShares == 1 || wanted > kMostShares ? kMostShares : wanted;
  PartSum sum;
  for (int begin = share; share < shares && begin < parts; begin += kAtOnce * shares) {
    TwoWords heads[kAtOnce], sums[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const Tagged* const part = from + (begin + i * shares) * kWords;
      if (begin + i * shares >= parts) break;
      heads[i] = get_two_words(part);
      sums[i] = get_two_words(part + kPartHead + 2 * pair);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {  // in their order
      const Tagged* const part = from + (begin + i * shares) * kWords;
      if (begin + i * shares >= parts) break;
      wait_two(wait, part, &heads[i]);
      wait_two(wait, part + kPartHead + 2 * pair, &sums[i]);
      sum.add({as_float(static_cast<uint32_t>(heads[i].first)), as_float(static_cast<uint32_t>(heads[i].second)),
               as_float(static_cast<uint32_t>(sums[i].first)), as_float(static_cast<uint32_t>(sums[i].second))});
    }
  }
  if (kMostShares > 1 && shares > 1) {
    auto* const of_shares = m.pointer<PartSum>(m.at.x);
    of_shares[thread] = sum;
    sync_consumers();
    for (int i = 1; share == 0 && i < shares; ++i) sum.add(of_shares[i * kPairs + pair]);
  }
  if (share == 0) {
    put_word(s.out + head * kPairs + pair, tagged(halves(sum.first / sum.total, sum.second / sum.total), wait.epoch));
  }
  if (kMostShares > 1 && shares > 1) sync_consumers();  // the scratch is used up
}

template <int kHeadDim, bool kForT5>
QB_DEVICE void attend(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  constexpr int kWords = kPartHead + kHeadDim, kAtOnce = kPartPositions<kHeadDim>;
  const int position = *m.position(), seen = kForT5 && s.length ? *s.length : position + 1;
  const int length = seen > 0 ? seen : 1;  // with none, blocks would share out nothing and never end
  const Sight sight{position, !kForT5 || s.new_k ? position : -1, *m.sequence(), length};
  const int wanted = (length + kAtOnce - 1) / kAtOnce;
  const int parts = wanted < s.most_parts ? wanted : s.most_parts;
  const int share = (wanted + parts - 1) / parts * kAtOnce;
  // Parts that are left without positions would be waited for in vain.
  const int used = (length + share - 1) / share;
  for (int unit = first_unit(s); unit < s.units * used; unit += blocks_x()) {
    const int head = unit / used, part = unit % used, first = part * share;
    const int last = first + share < length ? first + share : length;
    Tagged* const part_out = used == 1 ? nullptr : s.parts + (static_cast<size_t>(head) * s.most_parts + part) * kWords;
    attend_head<kHeadDim, kForT5>(a, m, s, sight, wait, head, first, last, part_out);
  }
  if (used == 1) return;
  // Behind all parts that this block owes others, so that no block waits for one that waits for it.
  for (int head = first_unit(s); head < s.units; head += blocks_x()) join_parts<kHeadDim>(m, s, wait, head, used);
}

}  // namespace quantbench::QB_CUDA::persistent
#endif
