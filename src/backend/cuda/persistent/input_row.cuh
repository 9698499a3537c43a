// The row that a step multiplies, from the words of the step before to where the products read it: norm, rounding,
// LLM.int8's codes and outliers.
#pragma once

#include <type_traits>

#include "backend/cuda/persistent/waits.cuh"
#include "backend/cuda/row.cuh"

#if defined(QB_HOPPER)
namespace quantbench::QB_CUDA::persistent {

// Offset in bytes of number k (even) in the order in which a lane takes its part of a product: of 16 numbers of fp16,
// lane t has 2t, 2t + 1, 2t + 8, 2t + 9.
QB_DEVICE int place_f16(int k) { return (k / 16) * 32 + (k % 8) / 2 * 8 + (k % 16) / 8 * 4; }
// Of 64 numbers of nf4's input: lane t has 8t … 8t + 7 and 32 more each, pairs at the same place of both side by side.
QB_DEVICE int place_nf4(int k) { return (k / 64) * 128 + (k % 32) / 2 * 8 + (k % 64) / 32 * 4; }
// Codes, 32 of them: lane t has 4t … 4t + 3 and 4t + 16 … 4t + 19.
QB_DEVICE int place_s8(int k) { return (k / 32) * 32 + (k % 16) / 4 * 8 + (k % 32) / 16 * 4 + k % 4; }

// LLM.int8: what beside the codes belongs to the row.
struct Int8Row {
  float absmax;
  bool has_outliers;  // their columns are the bits set in m.outliers
};

template <WeightFormat kFormat>
QB_DEVICE void put_pair(const Shared& m, int k, Half2 pair) {
  std::byte* const x = m.base + m.at.x;
  *reinterpret_cast<Half2*>(x + (kFormat == WeightFormat::f16   ? place_f16(k)
                                 : kFormat == WeightFormat::nf4 ? place_nf4(k)
                                                                : 2 * k)) = pair;
}

QB_DEVICE void look_for_outlier(float value, float* most, bool* found) {
  const float magnitude = fabsf(value);
  if (magnitude >= kThreshold)
    *found = true;
  else if (magnitude > *most)
    *most = magnitude;
}

// x16 lies in m.x, in order; most and found are this thread's.
QB_DEVICE Int8Row make_codes(const Shared& m, int k, float most, bool found) {
  const int thread = thread_index();
  float* const sums = m.pointer<float>(m.at.sums);
  most = warp_max(most);
  found = any_lane(found);
  if ((thread % kWarpSize) == 0) {
    sums[2 * (thread / kWarpSize)] = most;
    sums[2 * (thread / kWarpSize) + 1] = found ? 1.0f : 0.0f;
  }
  sync_consumers();
  bool any = false;
  for (int w = 0; w < kConsumerWarps; ++w) {
    most = sums[2 * w] > most ? sums[2 * w] : most;
    any |= sums[2 * w + 1] != 0;
  }
  const float scale = code_scale(most);
  const auto* const x = m.pointer<Half2>(m.at.x);
  std::byte* const codes = m.base + m.at.codes;
  const auto code = [scale](float value) {
    return fabsf(value) >= kThreshold ? 0u : static_cast<uint32_t>(round_to_int(mul_rn(value, scale))) & 255u;
  };
  for (int i = thread; i < k / 4; i += kConsumers) {
    const Half2 first = x[2 * i], second = x[2 * i + 1];
    *reinterpret_cast<uint32_t*>(codes + place_s8(4 * i)) = code(half_low(first)) | code(half_high(first)) << 8 |
                                                            code(half_low(second)) << 16 |
                                                            code(half_high(second)) << 24;
  }
  if (any) {
    auto* const masks = m.pointer<uint32_t>(m.at.outliers);
    const auto* const x16 = m.pointer<uint16_t>(m.at.x);
    for (int i = thread / kWarpSize; i < k / kWarpSize; i += kConsumerWarps) {
      const bool outlier = fabsf(float_of_half(x16[i * kWarpSize + thread % kWarpSize])) >= kThreshold;
      const uint32_t mask = lanes_where(outlier);
      if (thread % kWarpSize == 0) masks[i] = mask;
    }
  }
  sync_consumers();
  return {most, any};
}

// Of all consumers, the same in each.
template <typename... T>
QB_DEVICE void sum_of_block(const Shared& m, int thread, T*... values) {
  using Number = std::common_type_t<T...>;
  constexpr int kCount = sizeof...(T);
  Number* const sums = m.pointer<Number>(m.at.sums);
  int i = 0;
  ((*values = warp_sum(*values)), ...);
  if (thread % kWarpSize == 0) ((sums[kCount * (thread / kWarpSize) + i++] = *values), ...);
  sync_consumers();
  i = 0;
  ((*values = sums[kCount * (thread % kConsumerWarps) + i++]), ...);
  for (int mask = kConsumerWarps / 2; mask > 0; mask /= 2) ((*values += from_lane_xor(*values, mask)), ...);
}

// A row of floats, through the norm.
template <WeightFormat kFormat>
QB_DEVICE Int8Row make_row_of_floats(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  const int thread = thread_index();
  constexpr int kMostPairs = 4;  // k ≤ 4096
  constexpr bool kInt8 = kFormat == WeightFormat::int8;
  float x[2 * kMostPairs];
  const bool has_norm = s.norm.weight != nullptr, has_bias = s.norm.bias != nullptr;
  const int pairs = s.k / 2;
  constexpr int kLine = 32;  // floats
  if (has_norm && thread * kLine < s.k) {
    prefetch_to_l1(s.norm.weight + thread * kLine);
    if (has_bias) prefetch_to_l1(s.norm.bias + thread * kLine);
  }
  if (s.in.source == Source::table) {
    const auto* const from = reinterpret_cast<const Half2*>(s.in.table + static_cast<size_t>(*m.token()) * s.k);
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int p = thread + j * kConsumers;
      const Half2 pair = p < pairs ? from[p] : 0;
      x[2 * j] = half_low(pair) * s.in.scale;
      x[2 * j + 1] = half_high(pair) * s.in.scale;
    }
  } else {
    const Tagged* const words = s.in.words;
    if (a.one_waits) {
      const int last = thread + kWarpSize <= pairs ? thread + kWarpSize - 1 : pairs - 1;
      if (thread % kWarpSize == 0 && thread < pairs) wait_word(wait, words + (2 * last + 1));
      sync_warp();
    }
    TwoWords v[kMostPairs] = {};
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int p = thread + j * kConsumers;
      if (p < pairs) v[j] = get_two_words(words + 2 * p);
    }
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int p = thread + j * kConsumers;
      if (p < pairs) wait_two(wait, words + 2 * p, &v[j]);
      x[2 * j] = as_float(static_cast<uint32_t>(v[j].first));
      x[2 * j + 1] = as_float(static_cast<uint32_t>(v[j].second));
    }
  }
  // LLM.int8 finds the reference's codes only if its norm is summed in double and rounded once; a mean that is taken
  // off needs the digits, too.
  double mean = 0, factor = 1;
  if (has_norm) {
    if (kInt8 || s.norm.centered) {
      double sum = 0, square = 0;
#pragma unroll
      for (int i = 0; i < 2 * kMostPairs; ++i) {
        sum += x[i];
        square += static_cast<double>(x[i]) * x[i];
      }
      sum_of_block(m, thread, &sum, &square);
      mean = s.norm.centered ? sum * s.inverse_k : 0;
      factor = inverse_sqrt(square * s.inverse_k - mean * mean + static_cast<double>(s.norm.eps));
    } else {
      float square = 0;
#pragma unroll
      for (int i = 0; i < 2 * kMostPairs; ++i) square = fmaf(x[i], x[i], square);
      sum_of_block(m, thread, &square);
      factor = inverse_sqrt(square / static_cast<float>(s.k) + s.norm.eps);
    }
  }
  if (kInt8 && has_norm) sync_consumers();  // `sums` is read
  float most = 0;
  bool found = false;
#pragma unroll
  for (int j = 0; j < kMostPairs; ++j) {
    const int p = thread + j * kConsumers;
    if (p >= pairs) continue;
    float y[2] = {x[2 * j], x[2 * j + 1]};
    if (has_norm) {
      const Pair weight = *reinterpret_cast<const Pair*>(s.norm.weight + 2 * p);
      const Pair bias = has_bias ? *reinterpret_cast<const Pair*>(s.norm.bias + 2 * p) : Pair{0, 0};
      if (kInt8) {
        y[0] = static_cast<float>((y[0] - mean) * factor * weight.x + bias.x);
        y[1] = static_cast<float>((y[1] - mean) * factor * weight.y + bias.y);
      } else {
        const auto mean32 = static_cast<float>(mean), factor32 = static_cast<float>(factor);
        y[0] = fmaf((y[0] - mean32) * factor32, weight.x, bias.x);
        y[1] = fmaf((y[1] - mean32) * factor32, weight.y, bias.y);
      }
    }
    const Half2 pair = halves(y[0], y[1]);
    put_pair<kFormat>(m, 2 * p, pair);
    if (kInt8) {
      look_for_outlier(half_low(pair), &most, &found);
      look_for_outlier(half_high(pair), &most, &found);
    }
  }
  if constexpr (kInt8) return make_codes(m, s.k, most, found);
  sync_consumers();
  return {};
}

// A row that comes as fp16.
template <WeightFormat kFormat>
QB_DEVICE Int8Row make_row_of_halves(const PersistentArgs& a, const Shared& m, const Step& s, const Wait& wait) {
  const int thread = thread_index();
  constexpr int kAtOnce = 4;
  const int count = s.k / 4;
  const Tagged* const words = s.in.words;
  float most = 0;
  bool found = false;
  for (int begin = thread; begin - thread < count; begin += kAtOnce * kConsumers) {
    if (a.one_waits) {
      const int last = begin + (kAtOnce - 1) * kConsumers < count ? begin + (kAtOnce - 1) * kConsumers : begin;
      if (thread % kWarpSize == 0 && last < count) wait_word(wait, words + 2 * last);
      sync_warp();
    }
    TwoWords v[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = begin + j * kConsumers;
      if (i < count) v[j] = get_two_words(words + 2 * i);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = begin + j * kConsumers;
      if (i < count) wait_two(wait, words + 2 * i, &v[j]);
    }

#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = begin + j * kConsumers;
      if (i >= count) continue;
      const auto first = static_cast<Half2>(v[j].first), second = static_cast<Half2>(v[j].second);
      put_pair<kFormat>(m, 4 * i, first);
      put_pair<kFormat>(m, 4 * i + 2, second);
      if (kFormat == WeightFormat::int8) {
        look_for_outlier(half_low(first), &most, &found);
        look_for_outlier(half_high(first), &most, &found);
        look_for_outlier(half_low(second), &most, &found);
        look_for_outlier(half_high(second), &most, &found);
      }
    }
  }
  if constexpr (kFormat == WeightFormat::int8) return make_codes(m, s.k, most, found);
  sync_consumers();
  return {};
}

}  // namespace quantbench::QB_CUDA::persistent
#endif
