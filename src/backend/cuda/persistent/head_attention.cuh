// Attention of one token.
#pragma once

#include <cmath>

#include "backend/cuda/persistent/weight_stream.cuh"
#include "backend/cuda/sum_by_halves.cuh"

#if defined(QB_HOPPER)
namespace quantbench::QB_CUDA::persistent {

constexpr float kLog2OfE = 1.442695041f;

// What distances add to the scores of a head, in exponents of 2.
struct HeadBias {
  const float* values;
  const int32_t* bucket;
  int heads, reach, position;
  QB_DEVICE float at(int key) const {
    int distance = key - position;
    distance = distance < -reach ? -reach : distance > reach ? reach : distance;
    return load_now(values + load_now(bucket + distance + reach) * heads) * kLog2OfE;
  }
};

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
QB_DEVICE void attend_head(const Step& s, float* scratch, const Sight& sight, Wait wait, int head, int first, int last,
                           Tagged* part_out) {
  const int thread = thread_index(), position = sight.own;
  constexpr int kLanes = lanes_of_position(kHeadDim), kAtOnce = part_positions(kHeadDim),
                kPieces = kHeadDim / (4 * kLanes);
  const int group = s.q_heads / s.kv.heads, kv_head = head / group;
  const int t = thread % kLanes, own = thread / kLanes;
  const size_t cache = (static_cast<size_t>(sight.sequence) * s.kv.heads + kv_head) * s.kv.positions * kHeadDim;
  const uint16_t* const keys = s.kv.k + cache;
  const uint16_t* const values = s.kv.v + cache;
  int p = first + own;
  // The cache was streamed out of the second-level cache since the last token; it does not depend on this step.
  constexpr int kRowBytes = kHeadDim * 2, kLine = 128, kLines = (kRowBytes + kLine - 1) / kLine;
  if (p < last && p != position) {
    static_assert(2 * kLines <= kLanes);
    if (t < 2 * kLines) {
      const auto* const row = reinterpret_cast<const std::byte*>(t % 2 == 0 ? keys : values);
      prefetch_to_l1(row + static_cast<size_t>(p) * kRowBytes + t / 2 * kLine);
    }
  }
  HeadBias bias{};
  float bias_here = 0;  // of position p, known before its score
  if constexpr (kForT5) {
    if (s.bias.values) {
      bias = {s.bias.values + head, s.bias.bucket, s.q_heads, s.bias.reach, sight.position};
      if (p < last) bias_here = bias.at(p);
    }
  }
  // q, and this token's key and value, rounded as in the cache: each word is waited for by one thread.
  float* const q = scratch;
  auto* const new_key = reinterpret_cast<Half2*>(q + kHeadDim);
  Half2* const new_value = new_key + kHeadDim / 2;
  const int part = thread / (kHeadDim / 2), pair = thread % (kHeadDim / 2), waited = position < 0 ? 1 : 3;
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
  const auto load = [&](const uint16_t* rows, const Half2* own_row, int at, Bytes8(&to)[kPieces]) {
    if (at >= last) return;
    const auto* const row =
        at == position ? own_row : reinterpret_cast<const Half2*>(rows + static_cast<size_t>(at) * kHeadDim);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) to[i] = *reinterpret_cast<const Bytes8*>(row + (i * kLanes + t) * 2);
  };
  constexpr int kStride = kHeadDim + 2, kWarpPositions = kWarpSize / kLanes;
  float* const parts = scratch + 2 * kHeadDim;
  const int positions = last - first < kAtOnce ? last - first : kAtOnce;
  const int warps = (positions + kWarpPositions - 1) / kWarpPositions;  // the others have no position
  if (warp_index() < warps) {
    float most = -INFINITY, total = 0, sum[kPieces * 4] = {};
#pragma unroll 1
    for (int begin = first; begin < last; begin += kAtOnce, p += kAtOnce) {
      Bytes8 key[kPieces], value[kPieces];
      load(keys, new_key, p, key);
      load(values, new_value, p, value);
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
        all += bias_here;
        if (bias.values && p + kAtOnce < last) bias_here = bias.at(p + kAtOnce);
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
    float all = is_there ? of_warp[1] * factor : 0.0f, value = 0;
#pragma unroll
    for (int mask = kConsumerWarps / 2; mask > 0; mask /= 2) all += from_lane_xor(all, mask);
    const int dimension = thread < kHeadDim ? thread : kHeadDim - 1;
#pragma unroll 4
    for (int w = 0; w < warps; ++w) value = fmaf(parts[w * kStride + 2 + dimension], from_lane(factor, w), value);
    const float next = from_lane_down(value, 1);
    if (part_out) {
      if (thread == 0) {
        put_word(part_out, tagged(bits_of_float(all_most), wait.epoch));
        put_word(part_out + 1, tagged(bits_of_float(all), wait.epoch));
      }
      if (thread < kHeadDim) put_word(part_out + kPartHead + thread, tagged(bits_of_float(value), wait.epoch));
    } else if (thread < kHeadDim && thread % 2 == 0) {
      put_word(s.out + head * (kHeadDim / 2) + thread / 2, tagged(halves(value / all, next / all), wait.epoch));
    }
  }
  sync_consumers();  // the scratch is used up
}

// Brings a head's parts together, a thread those of a pair of dimensions.
template <int kHeadDim>
QB_DEVICE void join_parts(const Step& s, const Wait& wait, int head, int parts) {
  constexpr int kWords = kPartHead + kHeadDim;
  const Tagged* const from = s.parts + static_cast<size_t>(head) * s.most_parts * kWords;
  for (int pair = thread_index(); pair < kHeadDim / 2; pair += kConsumers) {
    float most = -INFINITY, total = 0, first = 0, second = 0;
    constexpr int kAtOnce = 2;
    for (int begin = 0; begin < parts; begin += kAtOnce) {
      TwoWords heads[kAtOnce], sums[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (begin + i >= parts) break;
        heads[i] = get_two_words(from + (begin + i) * kWords);
        sums[i] = get_two_words(from + (begin + i) * kWords + kPartHead + 2 * pair);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {  // in their order
        if (begin + i >= parts) break;
        wait_two(wait, from + (begin + i) * kWords, &heads[i]);
        wait_two(wait, from + (begin + i) * kWords + kPartHead + 2 * pair, &sums[i]);
        const float own = as_float(static_cast<uint32_t>(heads[i].first)), now = own > most ? own : most;
        const float keep = power_of_two(most - now), weight = power_of_two(own - now);
        total = total * keep + as_float(static_cast<uint32_t>(heads[i].second)) * weight;
        first = first * keep + as_float(static_cast<uint32_t>(sums[i].first)) * weight;
        second = second * keep + as_float(static_cast<uint32_t>(sums[i].second)) * weight;
        most = now;
      }
    }
    put_word(s.out + head * (kHeadDim / 2) + pair, tagged(halves(first / total, second / total), wait.epoch));
  }
}

template <int kHeadDim, bool kForT5>
QB_DEVICE void attend(const Shared& m, const Step& s, const Wait& wait) {
  constexpr int kWords = kPartHead + kHeadDim, kAtOnce = part_positions(kHeadDim);
  const int position = *m.position(), length = s.length ? *s.length : position + 1;
  const Sight sight{position, s.new_k ? position : -1, *m.sequence(), length};
  const int wanted = (length + kAtOnce - 1) / kAtOnce;
  const int parts = wanted < s.most_parts ? wanted : s.most_parts;
  const int share = (wanted + parts - 1) / parts * kAtOnce;
  // Parts that are left without positions would be waited for in vain.
  const int used = (length + share - 1) / share;
  float* const scratch = m.pointer<float>(m.at.x);
  for (int unit = first_unit(s); unit < s.units * used; unit += blocks_x()) {
    const int head = unit / used, part = unit % used, first = part * share;
    const int last = first + share < length ? first + share : length;
    Tagged* const part_out = used == 1 ? nullptr : s.parts + (static_cast<size_t>(head) * s.most_parts + part) * kWords;
    attend_head<kHeadDim, kForT5>(s, scratch, sight, wait, head, first, last, part_out);
  }
  if (used == 1) return;
  // Behind all parts that this block owes others, so that no block waits for one that waits for it.
  for (int head = first_unit(s); head < s.units; head += blocks_x()) join_parts<kHeadDim>(s, wait, head, used);
}

}  // namespace quantbench::QB_CUDA::persistent
#endif
