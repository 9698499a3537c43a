// Attention of one token.
#pragma once

#include <cmath>

#include "backend/cuda/persistent/weight_stream.cuh"

#if defined(QB_HOPPER)
namespace quantbench::QB_CUDA::persistent {

// Positions [first, last) of one q head by the whole block: four lanes a position, each with every fourth piece of four
// numbers; 128 positions at a time. A lane keeps its own softmax, and all are brought together at the end. part: where
// what they give goes instead of into the head's output, or null where they are all.
template <int kPieces>
QB_DEVICE void attend_head(const Step& s, float* scratch, int position, int sequence, Wait wait, int head, int first,
                           int last, Tagged* part_out) {
  const int thread = thread_index();
  constexpr int kLanes = 4, kAtOnce = kConsumers / kLanes, kHeadDim = kPieces * 16;
  const int group = s.q_heads / s.kv.heads, kv_head = head / group;
  const int t = thread % kLanes, own = thread / kLanes;
  const size_t cache = (static_cast<size_t>(sequence) * s.kv.heads + kv_head) * s.kv.positions * kHeadDim;
  const uint16_t* const keys = s.kv.k + cache;
  const uint16_t* const values = s.kv.v + cache;
  int p = first + own;
  // The cache was streamed out of the second-level cache since the last token; it does not depend on this step.
  constexpr int kRowBytes = kHeadDim * 2, kLine = 128, kLines = (kRowBytes + kLine - 1) / kLine;
  if (p < last && p < position && t < 2 * kLines) {
    const auto* const row = reinterpret_cast<const std::byte*>(t % 2 == 0 ? keys : values);
    prefetch_to_l1(row + static_cast<size_t>(p) * kRowBytes + t / 2 * kLine);
  }
  // q, and this token's key and value, rounded as in the cache: each word is waited for by one thread.
  float* const q = scratch;
  auto* const new_key = reinterpret_cast<Half2*>(q + kHeadDim);
  Half2* const new_value = new_key + kHeadDim / 2;
  const int part = thread / (kHeadDim / 2), pair = thread % (kHeadDim / 2);
  TwoValues own_words{};
  if (part < 3) {
    const Tagged* const from = part == 0   ? s.in.words + head * kHeadDim
                               : part == 1 ? s.new_k + kv_head * kHeadDim
                                           : s.new_v + kv_head * kHeadDim;
    own_words = wait_two(wait, from + 2 * pair);
  }
  if (part == 0) {
    q[2 * pair] = as_float(own_words.first) * s.scale;
    q[2 * pair + 1] = as_float(own_words.second) * s.scale;
  } else if (part < 3) {
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
  float most = -INFINITY, total = 0, sum[kPieces * 4] = {};
#pragma unroll 1
  for (int begin = first; begin < last; begin += kAtOnce, p += kAtOnce) {
    Bytes8 key[kPieces], value[kPieces];
    load(keys, new_key, p, key);
    load(values, new_value, p, value);
    float score = 0;
    if (p < last) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const Quad four = load_shared_floats(shared_address(q + (i * kLanes + t) * 4));
        score = fmaf(four.at[0], half_low(key[i].word[0]), score);
        score = fmaf(four.at[1], half_high(key[i].word[0]), score);
        score = fmaf(four.at[2], half_low(key[i].word[1]), score);
        score = fmaf(four.at[3], half_high(key[i].word[1]), score);
      }
    }
    score += from_lane_xor(score, 1);
    score += from_lane_xor(score, 2);
    if (p < last) {
      const float now = score > most ? score : most, keep = expf(most - now), weight = expf(score - now);
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
  // Of the eight positions of a warp, then of the warps.
  float warp_most = most;
  for (int mask = kLanes; mask < kWarpSize; mask *= 2) {
    const float other = from_lane_xor(warp_most, mask);
    warp_most = other > warp_most ? other : warp_most;
  }
  const float keep = most == -INFINITY ? 0.0f : expf(most - warp_most);
  total *= keep;
  for (int mask = kLanes; mask < kWarpSize; mask *= 2) total += from_lane_xor(total, mask);
  constexpr int kStride = kHeadDim + 2;
  float* const parts = scratch + 2 * kHeadDim;
  float* const mine = parts + (thread / kWarpSize) * kStride;
#pragma unroll
  for (int i = 0; i < kPieces * 4; ++i) {
    float v = sum[i] * keep;
    for (int mask = kLanes; mask < kWarpSize; mask *= 2) v += from_lane_xor(v, mask);
    if ((thread % kWarpSize) < kLanes) mine[2 + (i / 4 * kLanes + t) * 4 + i % 4] = v;
  }
  if ((thread % kWarpSize) == 0) {
    mine[0] = warp_most;
    mine[1] = total;
  }
  sync_consumers();
  // Sixteen lanes a pair of dimensions, each with the sums of one warp.
  for (int own_pair = thread / kConsumerWarps; own_pair < kHeadDim / 2; own_pair += kConsumers / kConsumerWarps) {
    const float* const of_warp = parts + thread % kConsumerWarps * kStride;
    float all_most = of_warp[0];
    for (int mask = kConsumerWarps / 2; mask > 0; mask /= 2) {
      const float other = from_lane_xor(all_most, mask);
      all_most = other > all_most ? other : all_most;
    }
    const float factor = of_warp[0] == -INFINITY ? 0.0f : expf(of_warp[0] - all_most);
    float all = of_warp[1] * factor, first_sum = of_warp[2 + 2 * own_pair] * factor,
          second_sum = of_warp[3 + 2 * own_pair] * factor;
    for (int mask = kConsumerWarps / 2; mask > 0; mask /= 2) {
      all += from_lane_xor(all, mask);
      first_sum += from_lane_xor(first_sum, mask);
      second_sum += from_lane_xor(second_sum, mask);
    }
    if (thread % kConsumerWarps == 0 && part_out) {
      if (own_pair == 0) {
        put_word(part_out, tagged(bits_of_float(all_most), wait.epoch));
        put_word(part_out + 1, tagged(bits_of_float(all), wait.epoch));
      }
      put_word(part_out + kPartHead + 2 * own_pair, tagged(bits_of_float(first_sum), wait.epoch));
      put_word(part_out + kPartHead + 2 * own_pair + 1, tagged(bits_of_float(second_sum), wait.epoch));
    } else if (thread % kConsumerWarps == 0) {
      put_word(s.out + head * (kHeadDim / 2) + own_pair, tagged(halves(first_sum / all, second_sum / all), wait.epoch));
    }
  }
  sync_consumers();  // the scratch is used up
}

// Brings a head's parts together, a thread those of a pair of dimensions.
template <int kPieces>
QB_DEVICE void join_parts(const Step& s, const Wait& wait, int head, int parts) {
  constexpr int kHeadDim = kPieces * 16, kWords = kPartHead + kHeadDim;
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
        const float keep = expf(most - now), weight = expf(own - now);
        total = total * keep + as_float(static_cast<uint32_t>(heads[i].second)) * weight;
        first = first * keep + as_float(static_cast<uint32_t>(sums[i].first)) * weight;
        second = second * keep + as_float(static_cast<uint32_t>(sums[i].second)) * weight;
        most = now;
      }
    }
    put_word(s.out + head * (kHeadDim / 2) + pair, tagged(halves(first / total, second / total), wait.epoch));
  }
}

template <int kPieces>
QB_DEVICE void attend(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  constexpr int kWords = kPartHead + kPieces * 16;
  const int position = *m.position(), sequence = a.sequence[0], length = position + 1;
  const int wanted = (length + kPartPositions - 1) / kPartPositions;
  const int parts = wanted < s.most_parts ? wanted : s.most_parts;
  const int share = (wanted + parts - 1) / parts * kPartPositions;
  // Parts that are left without positions would be waited for in vain.
  const int used = (length + share - 1) / share;
  float* const scratch = m.pointer<float>(m.at.x);
  for (int unit = first_unit(s); unit < s.units * used; unit += blocks_x()) {
    const int head = unit / used, part = unit % used, first = part * share;
    const int last = first + share < length ? first + share : length;
    Tagged* const part_out = used == 1 ? nullptr : s.parts + (static_cast<size_t>(head) * s.most_parts + part) * kWords;
    attend_head<kPieces>(s, scratch, position, sequence, wait, head, first, last, part_out);
  }
  if (used == 1) return;
  // Behind all parts that this block owes others, so that no block waits for one that waits for it.
  for (int head = first_unit(s); head < s.units; head += blocks_x()) join_parts<kPieces>(s, wait, head, used);
}

}  // namespace quantbench::QB_CUDA::persistent
#endif
