// The row that a step multiplies, from the words of the step before to where the products read it: norm, rounding,
// LLM.int8's codes and outliers.
#pragma once

#include "backend/cuda/persistent/waits.cuh"
#include "backend/cuda/row.cuh"

#if defined(QB_HOPPER)
namespace quantbench::QB_CUDA::persistent {

// Offset in bytes of number k (even) in the order in which a lane takes its part of a product, 16 bytes at a time. Of
// 32 numbers of fp16, lane t has 2t, 2t + 1, 2t + 8, 2t + 9, and the same 16 further on.
QB_DEVICE int place_f16(int k) { return (k / 32) * 64 + (k % 8) / 2 * 16 + (k % 32) / 16 * 8 + (k % 16) / 8 * 4; }
// Of 64 numbers of nf4's input: lane t has 8t … 8t + 7 and 32 more each, pairs at the same place of both side by side.
QB_DEVICE int place_nf4(int k) { return (k / 64) * 128 + (k % 32) / 2 * 8 + (k % 64) / 32 * 4; }
// Codes, 64 of them: lane t has 4t … 4t + 3 and 4t + 16 … 4t + 19, and the same 32 further on.
QB_DEVICE int place_s8(int k) {
  return (k / 64) * 64 + (k % 16) / 4 * 16 + (k % 64) / 32 * 8 + (k % 32) / 16 * 4 + k % 4;
}
template <WeightFormat kFormat>
QB_DEVICE void put_pair(const Shared& m, int k, Half2 pair) {
  *reinterpret_cast<Half2*>(m.base + m.at.x + (kFormat == WeightFormat::f16 ? place_f16(k) : place_nf4(k))) = pair;
}

// --- LLM.int8
// ---------------------------------------------------------------------------------------------------------
constexpr uint32_t kThresholdBits = 0x4600, kMagnitudes = 0x7fff7fff;  // 6 as fp16; of fp16 numbers, NaN the largest

QB_DEVICE bool is_outlier(uint32_t half) { return (half & 0x7fff) >= kThresholdBits; }
QB_DEVICE bool has_outlier(Half2 pair) { return is_outlier(pair) || is_outlier(pair >> 16); }
QB_DEVICE Half2 without_outliers(Half2 pair) {
  return (is_outlier(pair) ? 0 : pair & 0xffff) | (is_outlier(pair >> 16) ? 0 : pair & 0xffff0000);
}
// round(x · scale) of two numbers, in the lowest two bytes. Adding 1.5 · 2^23 rounds to a whole number, to nearest
// even.
QB_DEVICE uint32_t two_codes(Half2 pair, float scale) {
  constexpr float kRounds = 12582912.0f;
  const uint32_t low = bits_of_float(add_rn(mul_rn(half_low(pair), scale), kRounds));
  const uint32_t high = bits_of_float(add_rn(mul_rn(half_high(pair), scale), kRounds));
  return (low & 255) | (high & 255) << 8;
}
// pairs: this thread's part of the row, all of it that `is_there` says; put(i, code): where the codes of pair i go.
// first_of: the column of pair i.
template <int kPairs, typename There, typename First, typename Put>
QB_DEVICE Int8Row make_codes(const Shared& m, int k, Half2 (&pairs)[kPairs], const There& is_there,
                             const First& first_of, const Put& put) {
  const int thread = thread_index();
  uint32_t all = 0;  // the larger of each half of the pairs
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    if (is_there(i)) all = larger_halves(all, pairs[i] & kMagnitudes);
  }
  const bool own_outliers = has_outlier(all);
  uint32_t most = (all & 0xffff) > all >> 16 ? all & 0xffff : all >> 16;
  if (own_outliers) {
    most = 0;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (!is_there(i)) continue;
      const uint32_t rest = without_outliers(pairs[i]) & kMagnitudes;
      most = (rest & 0xffff) > most ? rest & 0xffff : most;
      most = rest >> 16 > most ? rest >> 16 : most;
    }
  }
  most = warp_max(most);
  auto* const sums = m.pointer<uint32_t>(m.at.sums);
  const bool warp_has = any_lane(own_outliers);
  if (thread % kWarpSize == 0) sums[thread / kWarpSize] = most | (warp_has ? 0x10000u : 0u);
  auto* const masks = m.pointer<uint32_t>(m.at.outliers);
  if (thread < k / kWarpSize) masks[thread] = 0;
  sync_consumers();
  bool any = false;
#pragma unroll
  for (int w = 0; w < kConsumerWarps; w += 4) {
    const Bytes16 four = load_shared16(shared_address(sums + w));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      any |= four.word[i] >= 0x10000;
      most = (four.word[i] & 0xffff) > most ? four.word[i] & 0xffff : most;
    }
  }
  const float absmax = float_of_half(static_cast<uint16_t>(most)), scale = code_scale(absmax);
  if (own_outliers) {
    auto* const x16 = m.pointer<uint16_t>(m.at.x);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (!is_there(i) || !has_outlier(pairs[i])) continue;
      const int column = first_of(i);
      *reinterpret_cast<Half2*>(x16 + column) = pairs[i];
      const uint32_t bits = (is_outlier(pairs[i]) ? 1u : 0u) | (is_outlier(pairs[i] >> 16) ? 2u : 0u);
      set_bits(masks + column / kWarpSize, bits << column % kWarpSize);
      pairs[i] = without_outliers(pairs[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    if (is_there(i)) put(i, two_codes(pairs[i], scale));
  }
  sync_consumers();
  return {absmax, any};
}

// --- norms
// ------------------------------------------------------------------------------------------------------------ Of all
// consumers, the same in each.
QB_DEVICE float sum_of_block(const Shared& m, float value) {
  float* const sums = m.pointer<float>(m.at.sums);
  value = warp_sum(value);
  if (lane_index() == 0) sums[warp_index()] = value;
  sync_consumers();
  float total = 0;
#pragma unroll
  for (int w = 0; w < kConsumerWarps; w += 4) {
    const Quad four = load_shared_floats(shared_address(sums + w));
    total += (four.at[0] + four.at[1]) + (four.at[2] + four.at[3]);
  }
  return total;
}
struct TwoSums {
  double first, second;
};
template <bool kBoth>
QB_DEVICE TwoSums sums_of_block(const Shared& m, TwoSums values) {
  auto* const sums = m.pointer<TwoSums>(m.at.sums);
  if (kBoth) values.first = warp_sum(values.first);
  values.second = warp_sum(values.second);
  if (lane_index() == 0) sums[warp_index()] = values;
  sync_consumers();
  values = sums[lane_index() % kConsumerWarps];
  for (int mask = kConsumerWarps / 2; mask > 0; mask /= 2) {
    if (kBoth) values.first += from_lane_xor(values.first, mask);
    values.second += from_lane_xor(values.second, mask);
  }
  return values;
}

// --- a row of floats, through the norm
// --------------------------------------------------------------------------------
constexpr int kMostPairs = 4;  // of a thread: k ≤ 4096

// x: this thread's pairs thread + 512 i.
QB_DEVICE void take_floats(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait,
                           float (&x)[2 * kMostPairs]) {
  const int thread = thread_index(), pairs = s.k / 2;
  if (s.in.source == Source::table) {
    const auto* const from = reinterpret_cast<const Half2*>(s.in.table + static_cast<size_t>(*m.token()) * s.k);
    const float scale = s.in.scale;
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int p = thread + j * kConsumers;
      const Half2 pair = p < pairs ? from[p] : 0;
      x[2 * j] = half_low(pair) * scale;
      x[2 * j + 1] = half_high(pair) * scale;
    }
    return;
  }
  const Tagged* const words = s.in.words + 2 * thread;
  if (a.one_waits) {
    const int last = thread + kWarpSize <= pairs ? kWarpSize - 1 : pairs - 1 - thread;
    if (thread % kWarpSize == 0 && thread < pairs) wait_word(wait, words + (2 * last + 1));
    sync_warp();
  }
  TwoWords v[kMostPairs] = {};
#pragma unroll
  for (int j = 0; j < kMostPairs; ++j) {
    if (thread + j * kConsumers < pairs) v[j] = get_two_words(words + 2 * j * kConsumers);
  }
#pragma unroll
  for (int j = 0; j < kMostPairs; ++j) {
    if (thread + j * kConsumers < pairs) wait_two(wait, words + 2 * j * kConsumers, &v[j]);
    x[2 * j] = as_float(static_cast<uint32_t>(v[j].first));
    x[2 * j + 1] = as_float(static_cast<uint32_t>(v[j].second));
  }
}

template <WeightFormat kFormat>
QB_DEVICE Int8Row make_row_of_floats(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  constexpr bool kInt8 = kFormat == WeightFormat::int8;
  const int thread = thread_index(), pairs = s.k / 2;
  const bool has_norm = s.norm.weight != nullptr, has_bias = s.norm.bias != nullptr, centered = s.norm.centered;
  const double inverse_k = s.inverse_k;
  const float eps = s.norm.eps;
  const auto is_there = [&](int j) { return thread + j * kConsumers < pairs; };
  Pair weight[kMostPairs];  // asked for before the words are waited for
#pragma unroll
  for (int j = 0; j < kMostPairs; ++j) {
    if (!has_norm || !is_there(j)) continue;
    weight[j] = *reinterpret_cast<const Pair*>(s.norm.weight + 2 * (thread + j * kConsumers));
  }
  constexpr int kLine = 32;  // floats
  if (has_bias && thread * kLine < s.k) prefetch_to_l1(s.norm.bias + thread * kLine);
  float x[2 * kMostPairs];
  take_floats(a, m, s, wait, x);
  Half2 out[kMostPairs];
  if (!has_norm) {
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) out[j] = halves(x[2 * j], x[2 * j + 1]);
  } else if (kInt8) {
    // The reference's codes are found only if the norm is summed in double and rounded once.
    TwoSums sums{};
#pragma unroll
    for (int i = 0; i < 2 * kMostPairs; ++i) {
      if (centered) sums.first += x[i];
      sums.second += static_cast<double>(x[i]) * x[i];
    }
    sums = centered ? sums_of_block<true>(m, sums) : sums_of_block<false>(m, sums);
    const double mean = centered ? sums.first * inverse_k : 0;
    const double factor = inverse_sqrt(sums.second * inverse_k - mean * mean + static_cast<double>(eps));
    sync_consumers();  // `sums` is read
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      if (!is_there(j)) continue;
      const Pair bias = has_bias ? *reinterpret_cast<const Pair*>(s.norm.bias + 2 * (thread + j * kConsumers)) : Pair{};
      out[j] = halves(static_cast<float>((x[2 * j] - mean) * factor * weight[j].x + bias.x),
                      static_cast<float>((x[2 * j + 1] - mean) * factor * weight[j].y + bias.y));
    }
  } else {
    float mean = 0, factor = 0;
    if (centered) {  // a mean that is taken off needs the digits
      TwoSums sums{};
#pragma unroll
      for (int i = 0; i < 2 * kMostPairs; ++i) {
        sums.first += x[i];
        sums.second += static_cast<double>(x[i]) * x[i];
      }
      sums = sums_of_block<true>(m, sums);
      const double exact_mean = sums.first * inverse_k;
      mean = static_cast<float>(exact_mean);
      factor = inverse_sqrt(static_cast<float>(sums.second * inverse_k - exact_mean * exact_mean) + eps);
    } else {
      float square = 0;
#pragma unroll
      for (int i = 0; i < 2 * kMostPairs; ++i) square = fmaf(x[i], x[i], square);
      factor = inverse_sqrt(fmaf(sum_of_block(m, square), static_cast<float>(inverse_k), eps));
    }
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      if (!is_there(j)) continue;
      const Pair bias = has_bias ? *reinterpret_cast<const Pair*>(s.norm.bias + 2 * (thread + j * kConsumers)) : Pair{};
      out[j] = halves(fmaf((x[2 * j] - mean) * factor, weight[j].x, bias.x),
                      fmaf((x[2 * j + 1] - mean) * factor, weight[j].y, bias.y));
    }
  }
  if constexpr (kInt8) {
    std::byte* const codes = m.base + m.at.codes;
    const auto first_of = [&](int j) { return 2 * (thread + j * kConsumers); };
    return make_codes(m, s.k, out, is_there, first_of, [&](int j, uint32_t two) {
      *reinterpret_cast<uint16_t*>(codes + place_s8(first_of(j))) = static_cast<uint16_t>(two);
    });
  } else {
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      if (is_there(j)) put_pair<kFormat>(m, 2 * (thread + j * kConsumers), out[j]);
    }
    sync_consumers();
    return {};
  }
}

// --- a row that comes as fp16
// -----------------------------------------------------------------------------------------
constexpr int kQuadsAtOnce = 4;

// Four numbers each of this thread's: quads begin + 512 i.
QB_DEVICE void take_quads(const PersistentArgs& a, const Tagged* words, int begin, int count, const Wait& wait,
                          Half2 (&pairs)[2 * kQuadsAtOnce]) {
  if (a.one_waits) {
    const int thread = thread_index();
    const int ahead = begin + (kQuadsAtOnce - 1) * kConsumers;
    const int last = ahead < count ? ahead : begin;
    if (thread % kWarpSize == 0 && last < count) wait_word(wait, words + 2 * last);
    sync_warp();
  }
  TwoWords v[kQuadsAtOnce];
#pragma unroll
  for (int j = 0; j < kQuadsAtOnce; ++j) {
    const int i = begin + j * kConsumers;
    if (i < count) v[j] = get_two_words(words + 2 * i);
  }
#pragma unroll
  for (int j = 0; j < kQuadsAtOnce; ++j) {
    const int i = begin + j * kConsumers;
    if (i < count) wait_two(wait, words + 2 * i, &v[j]);
    pairs[2 * j] = static_cast<Half2>(v[j].first);
    pairs[2 * j + 1] = static_cast<Half2>(v[j].second);
  }
}

template <WeightFormat kFormat>
QB_DEVICE Int8Row make_row_of_halves(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  const int thread = thread_index(), count = s.k / 4;
  const Tagged* const words = s.in.words;
  if constexpr (kFormat == WeightFormat::int8) {
    constexpr int kRounds = 2;  // k ≤ 16384
    Half2 pairs[kRounds * 2 * kQuadsAtOnce] = {};
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int begin = thread + round * kQuadsAtOnce * kConsumers;
      if (begin - thread >= count) break;
      Half2 own[2 * kQuadsAtOnce] = {};
      take_quads(a, words, begin, count, wait, own);
#pragma unroll
      for (int i = 0; i < 2 * kQuadsAtOnce; ++i) pairs[round * 2 * kQuadsAtOnce + i] = own[i];
    }
    std::byte* const codes = m.base + m.at.codes;
    uint32_t first_two = 0;
    return make_codes(
        m, s.k, pairs, [&](int i) { return thread + i / 2 * kConsumers < count; },
        [&](int i) { return 4 * (thread + i / 2 * kConsumers) + i % 2 * 2; },
        [&](int i, uint32_t two) {
          if (i % 2 == 0)
            first_two = two;
          else
            *reinterpret_cast<uint32_t*>(codes + place_s8(4 * (thread + i / 2 * kConsumers))) = first_two | two << 16;
        });
  } else {
    for (int begin = thread; begin - thread < count; begin += kQuadsAtOnce * kConsumers) {
      Half2 pairs[2 * kQuadsAtOnce] = {};
      take_quads(a, words, begin, count, wait, pairs);
#pragma unroll
      for (int j = 0; j < kQuadsAtOnce; ++j) {
        const int i = begin + j * kConsumers;
        if (i >= count) continue;
        put_pair<kFormat>(m, 4 * i, pairs[2 * j]);
        put_pair<kFormat>(m, 4 * i + 2, pairs[2 * j + 1]);
      }
    }
    sync_consumers();
    return {};
  }
}

template <WeightFormat kFormat>
QB_DEVICE Int8Row make_row(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  return s.in.source == Source::halves ? make_row_of_halves<kFormat>(a, m, s, wait)
                                       : make_row_of_floats<kFormat>(a, m, s, wait);
}

}  // namespace quantbench::QB_CUDA::persistent
#endif
