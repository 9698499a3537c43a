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

// --- LLM.int8 ---
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
QB_DEVICE void mark_outliers(const Shared& m, int column, Half2 pair) {
  const uint32_t bits = (is_outlier(pair) ? 1u : 0u) | (is_outlier(pair >> 16) ? 2u : 0u);
  set_bits(m.pointer<uint32_t>(m.at.outliers) + column / kWarpSize, bits << column % kWarpSize);
}
// Of the row, from the same of each warp: in the lower half the largest magnitude that is no outlier, above it whether
// there is one. No outlier is marked yet.
QB_DEVICE uint32_t largest_of_block(const Shared& m, int k, uint32_t most_of_warp) {
  auto* const of_warps = m.pointer<uint32_t>(m.at.largest);
  if (lane_index() == 0) of_warps[warp_index()] = most_of_warp;
  if (thread_index() < k / kWarpSize) m.pointer<uint32_t>(m.at.outliers)[thread_index()] = 0;
  sync_consumers();
  uint32_t all = 0;
#pragma unroll
  for (int w = 0; w < kConsumerWarps; w += 4) {
    const Bytes16 four = load_shared16(shared_address(of_warps + w));
    all = larger_halves(
        all, larger_halves(larger_halves(four.word[0], four.word[1]), larger_halves(four.word[2], four.word[3])));
  }
  return all;
}
// pairs: this thread's part of the row, all of it that `is_there` says; put(i, code): where the codes of pair i go.
// first_of: the column of pair i.
template <int kPairs, typename There, typename First, typename Put>
QB_DEVICE Int8Row make_codes(const Shared& m, int k, Half2 (&pairs)[kPairs], const There& is_there,
                             const First& first_of, const Put& put) {
  const auto largest = [&](const auto& of) {
    uint32_t all = 0;  // the larger of each half of the pairs
#pragma unroll
    for (int i = 0; i < kPairs; ++i) all = larger_halves(all, of(pairs[i]) & kMagnitudes);  // 0 where there is none
    return warp_max((all & 0xffff) > all >> 16 ? all & 0xffff : all >> 16);
  };
  uint32_t most = largest([](Half2 pair) { return pair; });
  const bool warp_has = most >= kThresholdBits;
  if (warp_has) [[unlikely]]
    most = largest(without_outliers) | 0x10000;
  const uint32_t all = largest_of_block(m, k, most);
  const float absmax = float_of_half(static_cast<uint16_t>(all)), scale = code_scale(absmax);
  if (warp_has) [[unlikely]] {
    auto* const x16 = m.pointer<uint16_t>(m.at.x);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (!has_outlier(pairs[i])) continue;
      const int column = first_of(i);
      *reinterpret_cast<Half2*>(x16 + column) = pairs[i];
      mark_outliers(m, column, pairs[i]);
      pairs[i] = without_outliers(pairs[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    if (is_there(i)) put(i, two_codes(pairs[i], scale));
  }
  sync_consumers();
  return {absmax, all >= 0x10000 ? 1u : 0u};
}

// --- words ---
constexpr int kWordsAtOnce = 4;

// Two words each: pair i of a row of floats, or quad i of a row of halves; this thread's are begin + 512 i.
struct RowWords {
  TwoWords v[kWordsAtOnce] = {};
};
QB_DEVICE void ask_row(const Tagged* words, int begin, int count, RowWords& row) {
#pragma unroll
  for (int j = 0; j < kWordsAtOnce; ++j) {
    const int i = begin + j * kConsumers;
    if (i < count) row.v[j] = get_two_words(words + 2 * i);
  }
}
QB_DEVICE int row_word_count(const Step& s) { return s.in.source == Source::halves ? s.k / 4 : s.k / 2; }
// Until all that were asked for are of this launch, of the first kCount.
template <int kCount>
QB_DEVICE void wait_row(const Tagged* words, int begin, int count, const Wait& wait, RowWords& row) {
  const auto is_missing = [&](int j) {
    return begin + j * kConsumers < count && (static_cast<uint32_t>(row.v[j].first >> 32) != wait.epoch ||
                                              static_cast<uint32_t>(row.v[j].second >> 32) != wait.epoch);
  };
  stagger();
  for (uint32_t polls = 0;; ++polls) {
    bool missing = false;
#pragma unroll
    for (int j = 0; j < kCount; ++j) missing |= is_missing(j);
    if (!any_lane(missing)) return;
    if (polls > kMostPolls) give_up(wait.stuck, 3, *wait.step);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (is_missing(j)) row.v[j] = get_two_words(words + 2 * (begin + j * kConsumers));
    }
  }
}

// --- norms ---
// Into the first-level cache, a step before it is used: weights have streamed it out of the second-level cache.
QB_DEVICE void prefetch_norm(const RowNorm& norm, int count) {
  constexpr int kLine = 32;  // floats
  if (!norm.weight || thread_index() * kLine >= count) return;
  prefetch_to_l1(norm.weight + thread_index() * kLine);
  if (norm.bias) prefetch_to_l1(norm.bias + thread_index() * kLine);
}

// Of all consumers, the same in each.
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
// The same of doubles.
QB_DEVICE double sum_of_block(const Shared& m, double value) {
  auto* const sums = m.pointer<double>(m.at.sums);
  value = warp_sum(value);
  if (lane_index() == 0) sums[warp_index()] = value;
  sync_consumers();
  double total = 0;
#pragma unroll
  for (int w = 0; w < kConsumerWarps; w += 4) total += (sums[w] + sums[w + 1]) + (sums[w + 2] + sums[w + 3]);
  return total;
}
struct TwoSums {
  double first, second;
};
QB_DEVICE TwoSums sums_of_block(const Shared& m, TwoSums values) {
  auto* const sums = m.pointer<TwoSums>(m.at.sums);
  values = {warp_sum(values.first), warp_sum(values.second)};
  if (lane_index() == 0) sums[warp_index()] = values;
  sync_consumers();
  values = sums[lane_index() % kConsumerWarps];
  for (int mask = kConsumerWarps / 2; mask > 0; mask /= 2) {
    values.first += from_lane_xor(values.first, mask);
    values.second += from_lane_xor(values.second, mask);
  }
  return values;
}

// --- a row of floats, through the norm ---
// x: this thread's pairs thread + 512 i; 0 where there is none.
template <int kPairs>
QB_DEVICE void take_floats(const Shared& m, const Step& s, const Wait& wait, RowWords& words, float (&x)[2 * kPairs]) {
  static_assert(kPairs <= kWordsAtOnce);
  const int thread = thread_index(), pairs = s.k / 2;
  if (s.in.source == Source::table) {
    const auto* const from = reinterpret_cast<const Half2*>(s.in.table + static_cast<size_t>(*m.token()) * s.k);
    const float scale = s.in.scale;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int p = thread + j * kConsumers;
      const Half2 pair = p < pairs ? from[p] : 0;
      x[2 * j] = half_low(pair) * scale;
      x[2 * j + 1] = half_high(pair) * scale;
    }
    return;
  }
  wait_row<kPairs>(s.in.words, thread, pairs, wait, words);
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    x[2 * j] = as_float(static_cast<uint32_t>(words.v[j].first));
    x[2 * j + 1] = as_float(static_cast<uint32_t>(words.v[j].second));
  }
}

// x · weight · factor + bias, rounded once but for the last digits of a double: in two floats each.
struct TwoFloats {
  float high, low;
};
QB_DEVICE TwoFloats two_floats(double x) {
  const auto high = static_cast<float>(x);
  return {high, static_cast<float>(x - high)};
}
QB_DEVICE TwoFloats times(TwoFloats x, TwoFloats y) {
  const float high = mul_rn(x.high, y.high);
  return {high, fmaf(x.high, y.high, -high) + fmaf(x.high, y.low, x.low * y.high)};
}
QB_DEVICE TwoFloats sum(float x, float y) {  // exactly
  const float high = add_rn(x, y), of_y = add_rn(high, -x);
  return {high, add_rn(add_rn(x, -add_rn(high, -of_y)), add_rn(y, -of_y))};
}
QB_DEVICE float scaled(float x, float weight, TwoFloats factor) {
  const float product = mul_rn(x, weight);
  const TwoFloats all = times({product, fmaf(x, weight, -product)}, factor);
  return add_rn(all.high, all.low);
}
QB_DEVICE float scaled(float x, TwoFloats mean, float weight, float bias, TwoFloats factor) {
  const TwoFloats off = sum(x, -mean.high);
  const TwoFloats product = times(times({off.high, off.low - mean.low}, {weight, 0}), factor);
  const TwoFloats all = sum(product.high, bias);
  return add_rn(all.high, add_rn(all.low, product.low));
}

// k ≤ 2 · 512 · kPairs
template <WeightFormat kFormat, int kPairs>
QB_DEVICE Int8Row make_row_of_floats(const Shared& m, const Step& s, const Wait& wait, RowWords& words) {
  constexpr bool kInt8 = kFormat == WeightFormat::int8;
  const int thread = thread_index(), pairs = s.k / 2;
  const bool has_norm = s.norm.weight != nullptr, centered = s.norm.centered;
  const double inverse_k = s.inverse_k;
  const float eps = s.norm.eps;
  const auto is_there = [&](int j) { return thread + j * kConsumers < pairs; };
  const auto pair_at = [&](const float* from, int j) {
    return *reinterpret_cast<const Pair*>(from + 2 * (thread + j * kConsumers));
  };
  Pair weight[kPairs] = {};
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    if (has_norm && is_there(j)) weight[j] = pair_at(s.norm.weight, j);
  }
  float x[2 * kPairs];
  take_floats<kPairs>(m, s, wait, words, x);
  Half2 out[kPairs];
  if (!has_norm) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) out[j] = halves(x[2 * j], x[2 * j + 1]);
  } else if (centered) {  // a mean that is taken off needs the digits
    const float* const bias_from = s.norm.bias;
    TwoSums sums{};
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i) {
      sums.first += x[i];
      sums.second += static_cast<double>(x[i]) * x[i];
    }
    sums = sums_of_block(m, sums);
    const double mean = sums.first * inverse_k;
    const double variance = sums.second * inverse_k - mean * mean + static_cast<double>(eps);
    // LLM.int8 finds the reference's codes only if the norm is summed in double and rounded once.
    const TwoFloats two_means = two_floats(mean);
    const TwoFloats factor = kInt8 ? two_floats(inverse_sqrt(variance)) : TwoFloats{};
    const float factor32 = kInt8 ? 0 : inverse_sqrt(static_cast<float>(variance));
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      out[j] = 0;
      if (!is_there(j)) continue;
      const Pair bias = bias_from ? pair_at(bias_from, j) : Pair{0, 0};
      out[j] = kInt8 ? halves(scaled(x[2 * j], two_means, weight[j].x, bias.x, factor),
                              scaled(x[2 * j + 1], two_means, weight[j].y, bias.y, factor))
                     : halves(fmaf((x[2 * j] - two_means.high) * factor32, weight[j].x, bias.x),
                              fmaf((x[2 * j + 1] - two_means.high) * factor32, weight[j].y, bias.y));
    }
  } else if (kInt8) {
    double square = 0;
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i) square += static_cast<double>(x[i]) * x[i];
    const TwoFloats factor = two_floats(inverse_sqrt(sum_of_block(m, square) * inverse_k + static_cast<double>(eps)));
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      out[j] = halves(scaled(x[2 * j], weight[j].x, factor), scaled(x[2 * j + 1], weight[j].y, factor));
    }
  } else {
    float square = 0;
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i) square = fmaf(x[i], x[i], square);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) x[2 * j] *= weight[j].x, x[2 * j + 1] *= weight[j].y;
    const float factor = inverse_sqrt(fmaf(sum_of_block(m, square), static_cast<float>(inverse_k), eps));
#pragma unroll
    for (int j = 0; j < kPairs; ++j) out[j] = halves(x[2 * j] * factor, x[2 * j + 1] * factor);
  }
  if constexpr (kInt8) {
    std::byte* const codes = m.base + m.at.codes;
    const auto first_of = [&](int j) { return 2 * (thread + j * kConsumers); };
    return make_codes(m, s.k, out, is_there, first_of, [&](int j, uint32_t two) {
      *reinterpret_cast<uint16_t*>(codes + place_s8(first_of(j))) = static_cast<uint16_t>(two);
    });
  } else {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      if (is_there(j)) put_pair<kFormat>(m, 2 * (thread + j * kConsumers), out[j]);
    }
    sync_consumers();
    return {};
  }
}

// --- a row that comes as fp16 ---
// LLM.int8: k ≤ 4 · 512 · kQuads.
template <int kQuads>
QB_DEVICE Int8Row make_codes_of_halves(const Shared& m, const Step& s, const Wait& wait, RowWords& words) {
  constexpr int kAtOnce = kQuads < kWordsAtOnce ? kQuads : kWordsAtOnce;
  const int thread = thread_index(), count = s.k / 4;
  Half2 pairs[2 * kQuads];
#pragma unroll
  for (int first = 0; first < kQuads; first += kAtOnce) {
    const int begin = thread + first * kConsumers;
    if (first > 0) ask_row(s.in.words, begin, count, words);
    wait_row<kAtOnce>(s.in.words, begin, count, wait, words);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const bool there = begin + j * kConsumers < count;
      pairs[2 * (first + j)] = there ? static_cast<Half2>(words.v[j].first) : 0;
      pairs[2 * (first + j) + 1] = there ? static_cast<Half2>(words.v[j].second) : 0;
    }
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
}

// The same of longer rows: by way of shared memory and in loops that stay loops, as the instructions for 32 numbers of
// a thread, one by one, are fetched more slowly than they are carried out; and all is asked for before the first is
// there.
QB_DEVICE Int8Row make_codes_of_long_halves(const Shared& m, const Step& s, const Wait& wait, RowWords& words) {
  constexpr int kAtOnce = kWordsAtOnce * kConsumers;
  const int thread = thread_index(), count = s.k / 4;
  auto* const x16 = m.pointer<uint16_t>(m.at.x);
  uint32_t most = 0;
  bool own_has = false;
  const auto take = [&](int begin, RowWords& row) {
    wait_row<kWordsAtOnce>(s.in.words, begin, count, wait, row);
#pragma unroll
    for (int j = 0; j < kWordsAtOnce; ++j) {
      const int i = begin + j * kConsumers;
      if (i >= count) break;
      Half2 low = static_cast<Half2>(row.v[j].first), high = static_cast<Half2>(row.v[j].second);
      store8(x16 + 4 * i, {{low, high}});
      if (has_outlier(low) || has_outlier(high)) [[unlikely]] {
        own_has = true;
        low = without_outliers(low);
        high = without_outliers(high);
      }
      most = larger_halves(most, larger_halves(low & kMagnitudes, high & kMagnitudes));
    }
  };
#pragma unroll 1
  for (int begin = thread; begin - thread < count; begin += 2 * kAtOnce) {
    if (begin != thread) ask_row(s.in.words, begin, count, words);
    RowWords more;
    ask_row(s.in.words, begin + kAtOnce, count, more);
    take(begin, words);
    take(begin + kAtOnce, more);
  }
  most = warp_max((most & 0xffff) > most >> 16 ? most & 0xffff : most >> 16) | (any_lane(own_has) ? 0x10000 : 0);
  const uint32_t all = largest_of_block(m, s.k, most);
  const float absmax = float_of_half(static_cast<uint16_t>(all)), scale = code_scale(absmax);
  std::byte* const codes = m.base + m.at.codes;
#pragma unroll 1
  for (int i = thread; i < count; i += kConsumers) {  // what this thread has left there
    Bytes8 four = load8(x16 + 4 * i);
    if (own_has) [[unlikely]] {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (!has_outlier(four.word[j])) continue;
        mark_outliers(m, 4 * i + 2 * j, four.word[j]);
        four.word[j] = without_outliers(four.word[j]);
      }
    }
    *reinterpret_cast<uint32_t*>(codes + place_s8(4 * i)) =
        two_codes(four.word[0], scale) | two_codes(four.word[1], scale) << 16;
  }
  sync_consumers();
  return {absmax, all >= 0x10000 ? 1u : 0u};
}

template <WeightFormat kFormat>
QB_DEVICE Int8Row make_row_of_halves(const Shared& m, const Step& s, const Wait& wait, RowWords& words) {
  const int thread = thread_index(), count = s.k / 4;
  if constexpr (kFormat == WeightFormat::int8) {
    if (count <= kConsumers) return make_codes_of_halves<1>(m, s, wait, words);
    if (count <= 2 * kConsumers) return make_codes_of_halves<2>(m, s, wait, words);
    if (count <= 4 * kConsumers) return make_codes_of_halves<4>(m, s, wait, words);
    return make_codes_of_long_halves(m, s, wait, words);
  } else {
    const Tagged* const from = s.in.words;
    if (count <= kConsumers) {
      wait_row<1>(from, thread, count, wait, words);
      if (thread < count) {
        put_pair<kFormat>(m, 4 * thread, static_cast<Half2>(words.v[0].first));
        put_pair<kFormat>(m, 4 * thread + 2, static_cast<Half2>(words.v[0].second));
      }
      sync_consumers();
      return {};
    }
    for (int begin = thread; begin - thread < count; begin += kWordsAtOnce * kConsumers) {
      if (begin != thread) ask_row(from, begin, count, words);
      wait_row<kWordsAtOnce>(from, begin, count, wait, words);
#pragma unroll
      for (int j = 0; j < kWordsAtOnce; ++j) {
        const int i = begin + j * kConsumers;
        if (i >= count) break;
        put_pair<kFormat>(m, 4 * i, static_cast<Half2>(words.v[j].first));
        put_pair<kFormat>(m, 4 * i + 2, static_cast<Half2>(words.v[j].second));
      }
    }
    sync_consumers();
    return {};
  }
}

// --- a row of floats that stays as it is, for fp32 weights ---
QB_DEVICE void make_row_as_it_is(const Shared& m, const Step& s, const Wait& wait, RowWords& words) {
  const Tagged* const from = s.in.words;
  const int thread = thread_index(), count = s.k / 2;
  auto* const x = m.pointer<Pair>(m.at.x);
  for (int begin = thread; begin - thread < count; begin += kWordsAtOnce * kConsumers) {
    if (begin != thread) ask_row(from, begin, count, words);
    wait_row<kWordsAtOnce>(from, begin, count, wait, words);
#pragma unroll
    for (int j = 0; j < kWordsAtOnce; ++j) {
      const int i = begin + j * kConsumers;
      if (i >= count) break;
      x[i] = {as_float(static_cast<uint32_t>(words.v[j].first)), as_float(static_cast<uint32_t>(words.v[j].second))};
    }
  }
  sync_consumers();
}

// words: as asked for by ask_row, but for a row from a table.
template <WeightFormat kFormat>
QB_DEVICE Int8Row make_row(const Shared& m, const Step& s, const Wait& wait, RowWords& words) {
  if constexpr (kFormat == WeightFormat::f32) {
    make_row_as_it_is(m, s, wait, words);
    return {};
  }
  if (s.in.source == Source::halves) return make_row_of_halves<kFormat>(m, s, wait, words);
  if (s.k <= 2 * 2 * kConsumers) return make_row_of_floats<kFormat, 2>(m, s, wait, words);
  if (kFormat == WeightFormat::int8 && s.k <= 3 * 2 * kConsumers)
    return make_row_of_floats<kFormat, 3>(m, s, wait, words);
  return make_row_of_floats<kFormat, 4>(m, s, wait, words);
}

}  // namespace quantbench::QB_CUDA::persistent
#endif
