// One row on its way into a product: norm, rounding to fp16, LLM.int8's codes. Shared by the kernels that prepare rows
// and by those that do it for themselves.
#pragma once

#include <cmath>
#include <type_traits>

#include "backend/cuda/block.cuh"
#include "backend/cuda/kernels.h"

namespace quantbench::QB_CUDA {

constexpr float kThreshold = 6.0f;       // kInt8Threshold
constexpr uint16_t kMagnitude = 0x7fff;  // of an fp16 number: without its sign

template <bool kExact>
using NormReal = std::conditional_t<kExact, double, float>;
template <bool kExact>
struct NormFactors {
  NormReal<kExact> mean = 0, factor = 1;
};
// From sum(value): Σ value(x[i]) over x [k], the same in all threads. Exact: in double and rounded once, as the
// reference does, so that LLM.int8 finds the same codes; else in fp32.
template <bool kExact, typename Sum>
QB_DEVICE NormFactors<kExact> norm_factors(const Sum& sum, int k, const RowNorm& norm) {
  using Real = NormReal<kExact>;
  NormFactors<kExact> f;
  if (!norm.weight) return f;
  const Real count = static_cast<Real>(k);
  const Real of_one = 1 / count;
  if (norm.centered) f.mean = sum([](float x) { return static_cast<Real>(x); }) * of_one;
  const Real square = sum([&](float x) { return (static_cast<Real>(x) - f.mean) * (static_cast<Real>(x) - f.mean); });
  f.factor = inverse_sqrt(square * of_one + static_cast<Real>(norm.eps));
  return f;
}
template <bool kExact>
QB_DEVICE float normed(float x, const NormFactors<kExact>& f, float weight, float bias) {
  if constexpr (kExact) return static_cast<float>((x - f.mean) * f.factor * weight + static_cast<double>(bias));
  return fmaf((x - f.mean) * f.factor, weight, bias);
}

// A row, or a part of it, in a block's registers: kQuads times four numbers a thread, zeros behind its end.
template <int kThreads, int kCount>
struct HeldRow {
  static constexpr int kQuads = kCount, kNumbers = 4 * kThreads * kQuads;
  Quad quad[kQuads];
  static QB_DEVICE int column(int q) { return (q * kThreads + thread_index()) * 4; }
  QB_DEVICE void load(const float* x, int k) {  // k: a multiple of 4
#pragma unroll
    for (int q = 0; q < kQuads; ++q) quad[q] = column(q) < k ? *reinterpret_cast<const Quad*>(x + column(q)) : Quad{};
  }
  template <typename Real, typename Value>
  QB_DEVICE Real own_sum(int k, const Value& value) const {
    Real total[4] = {};  // so that no addition waits for the one before
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      for (int i = 0; i < 4; ++i) total[i] += column(q) < k ? value(quad[q].at[i]) : Real{0};
    }
    return (total[0] + total[1]) + (total[2] + total[3]);
  }
};

// The factor of a row's codes: 127 · (1 / absmax), as quant/int8.h.
QB_DEVICE float code_scale(float absmax) { return absmax > 0 ? mul_rn(127.0f, reciprocal_rn(absmax)) : 0.0f; }
QB_DEVICE int8_t code_of(uint16_t half, float scale) {
  return static_cast<int8_t>(round_to_int(mul_rn(float_of_half(half), scale)));
}

QB_DEVICE void mark(uint8_t* marks, uint16_t half) {  // all who write here write the same
  if (fabsf(float_of_half(half)) >= kThreshold) *marks = 1;
}
// Numbers `column` (even) and the one after it of a row, also as the next product wants them.
QB_DEVICE void leave_ready(const ReadyRows& ready, int row, int column, float x, float y) {
  if (!ready.x16) return;
  const uint16_t first = half_of_float(x), second = half_of_float(y);
  *reinterpret_cast<uint32_t*>(ready.x16 + static_cast<size_t>(row) * ready.stride + column) = first | uint32_t{second}
                                                                                                           << 16;
  if (!ready.marks) return;
  mark(ready.marks + column, first);
  mark(ready.marks + column + 1, second);
}

// The same of one number.
QB_DEVICE void leave_ready(const ReadyRows& ready, int row, int column, float x) {
  if (!ready.x16) return;
  const uint16_t half = half_of_float(x);
  ready.x16[static_cast<size_t>(row) * ready.stride + column] = half;
  if (ready.marks) mark(ready.marks + column, half);
}

// Where a block keeps a row of its own, in dynamic shared memory.
struct OwnRow {
  uint16_t* x16;      // [stride]
  int8_t* codes;      // [stride], int8 only
  int32_t* outliers;  // [1 + k], int8 only
  uint32_t* bits;     // [stride / 32] set where there is an outlier, int8 only
};
// offset: of what lies before it there.
QB_DEVICE OwnRow own_row(int stride, size_t offset = 0) {
  std::byte* const at = dynamic_shared() + offset;
  const size_t count = static_cast<size_t>(stride), halves_bytes = count * sizeof(uint16_t);
  std::byte* const bits = at + halves_bytes + count;
  return {reinterpret_cast<uint16_t*>(at), reinterpret_cast<int8_t*>(at + halves_bytes),
          reinterpret_cast<int32_t*>(bits + count / 8), reinterpret_cast<uint32_t*>(bits)};
}

QB_DEVICE bool is_outlier(uint16_t half) { return fabsf(float_of_half(half)) >= kThreshold; }

constexpr uint32_t kBothMagnitudes = kMagnitude | uint32_t{kMagnitude} << 16;
constexpr uint32_t kThresholdHalf = 0x4600, kInfinityHalf = 0x7c00;  // 6 and ∞ in fp16

// Numbers `column` … `column` + 3 of a row, rounded, into `to`. Returns `most`, in its lower half the largest magnitude
// so far that is no outlier, in fp16, in its upper half whether there was an outlier, with theirs (int8).
template <bool kInt8>
QB_DEVICE uint32_t put_halves(const OwnRow& to, int column, const Bytes8& pairs, uint32_t most) {
  store8(to.x16 + column, pairs);
  if constexpr (kInt8) {
    const uint32_t largest = larger_halves(pairs.word[0] & kBothMagnitudes, pairs.word[1] & kBothMagnitudes);
    const uint32_t low = largest & 0xffff, high = largest >> 16;
    if (low < kThresholdHalf && high < kThresholdHalf) return larger_halves(most, low > high ? low : high);
    for (int i = 0; i < 4; ++i) {
      const uint32_t magnitude = pairs.word[i / 2] >> (i % 2 * 16) & kMagnitude;
      if (magnitude < kThresholdHalf) {
        most = larger_halves(most, magnitude);
      } else if (magnitude <= kInfinityHalf) {  // not what is no number
        most |= uint32_t{1} << 16;
        set_bits(to.bits + column / 32, uint32_t{1} << (column + i) % 32);
      }
    }
  }
  return most;
}
QB_DEVICE Bytes8 rounded(const Quad& four) {
  return {{halves(four.at[0], four.at[1]), halves(four.at[2], four.at[3])}};
}
// LLM.int8's codes of the numbers `column` … `column` + 3, 0 for an outlier.
QB_DEVICE void put_codes(const OwnRow& to, int column, float scale, bool has_outliers) {
  constexpr float kWhole = 12582912.0f;  // 1.5 · 2^23: what is added to it is rounded to whole numbers, in its low bits
  const Bytes8 pairs = load8(to.x16 + column);
  uint32_t codes = 0;
  for (int i = 0; i < 4; ++i) {
    const uint16_t half = static_cast<uint16_t>(pairs.word[i / 2] >> (i % 2 * 16));
    const uint32_t code = bits_of_float(add_rn(mul_rn(float_of_half(half), scale), kWhole)) & 255;
    codes |= (has_outliers && is_outlier(half) ? 0u : code) << (i * 8);
  }
  *reinterpret_cast<uint32_t*>(to.codes + column) = codes;
}

// x16 [k], rounded already; or x [k], as it is or normed, rounded to fp16; into to.x16, with zeros from k to stride.
// Return as put_halves(). As many numbers are on the way at once as registers hold beside what the callers need.
template <int kThreads, bool kInt8>
QB_DEVICE uint32_t take_row(const OwnRow& to, const uint16_t* x16, int k, int stride) {
  constexpr int kTurns = 10;
  uint32_t most = 0;
  for (int first = 0; first < stride; first += kTurns * kThreads * 4) {
    Bytes8 pairs[kTurns];
    const auto column = [&](int turn) { return first + (turn * kThreads + thread_index()) * 4; };
#pragma unroll
    for (int i = 0; i < kTurns; ++i) pairs[i] = column(i) < k ? load8(x16 + column(i)) : Bytes8{};
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (column(i) < stride) most = put_halves<kInt8>(to, column(i), pairs[i], most);
    }
  }
  return most;
}
template <int kThreads, bool kInt8>
QB_DEVICE uint32_t round_row(const OwnRow& to, const float* x, int k, int stride) {
  using Held = HeldRow<kThreads, 4>;
  uint32_t most = 0;
  for (int first = 0; first < stride; first += Held::kNumbers) {
    Held row;
    row.load(x + first, k - first);
#pragma unroll
    for (int q = 0; q < Held::kQuads; ++q) {
      const int column = first + Held::column(q);
      if (column < stride) most = put_halves<kInt8>(to, column, rounded(row.quad[q]), most);
    }
  }
  return most;
}
template <int kThreads, bool kInt8, int kQuads>
QB_DEVICE uint32_t round_normed_row(const OwnRow& to, const float* x, int k, int stride, const RowNorm& norm) {
  using Real = NormReal<kInt8>;
  using Held = HeldRow<kThreads, kQuads>;
  Held row, weight;  // the weights are on the way with the row
  row.load(x, k);
  weight.load(norm.weight, k);
  const NormFactors<kInt8> factors = norm_factors<kInt8>(
      [&](auto value) {
        Real total = row.template own_sum<Real>(k, value);
        if (k > Held::kNumbers) {
          for (int first = Held::kNumbers; first < k; first += Held::kNumbers) {
            row.load(x + first, k - first);
            total += row.template own_sum<Real>(k - first, value);
          }
          row.load(x, k);
        }
        return block_sum<kThreads>(total);
      },
      k, norm);
  uint32_t most = 0;
  for (int first = 0; first < stride; first += Held::kNumbers) {
    if (first > 0) {
      row.load(x + first, k - first);
      weight.load(norm.weight + first, k - first);
    }
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      const int column = first + Held::column(q);
      if (column >= stride) break;
      const Quad bias = norm.bias && column < k ? *reinterpret_cast<const Quad*>(norm.bias + column) : Quad{};
      Quad& four = row.quad[q];
      for (int i = 0; i < 4; ++i) four.at[i] = normed<kInt8>(four.at[i], factors, weight.quad[q].at[i], bias.at[i]);
      most = put_halves<kInt8>(to, column, column < k ? rounded(four) : Bytes8{}, most);
    }
  }
  return most;
}

// Makes the row of `in`, x16 or x through the norm, ready in `to`; all threads may read it afterwards. k: a multiple
// of 4. A single row: its outliers are elements, not columns. Returns the absmax of the others.
template <int kThreads, bool kInt8>
QB_DEVICE float make_row(const OwnRow& to, const Input& in, const RowNorm& norm) {
  const float* const x = in.x;
  const int k = in.k, stride = in.stride;
  uint32_t most;
  if (kInt8) {
    for (int i = thread_index(); i < stride / 32; i += kThreads) to.bits[i] = 0;
    if (!norm.weight) sync_block();  // a norm has barriers of its own
  }
  if (in.x16)
    most = take_row<kThreads, kInt8>(to, in.x16, k, stride);
  else if (!norm.weight)
    most = round_row<kThreads, kInt8>(to, x, k, stride);
  else if (k <= HeldRow<kThreads, 2>::kNumbers)
    most = round_normed_row<kThreads, kInt8, 2>(to, x, k, stride, norm);
  else
    most = round_normed_row<kThreads, kInt8, 3>(to, x, k, stride, norm);
  if (!kInt8) {
    sync_block();
    return 0;
  }
  most = block_larger_halves<kThreads>(most);
  const float absmax = float_of_half(static_cast<uint16_t>(most & 0xffff)), scale = code_scale(absmax);
  for (int column = thread_index() * 4; column < stride; column += kThreads * 4)
    put_codes(to, column, scale, most >> 16 != 0);
  if (most >> 16) {
    if (warp_index() == kThreads / kWarpSize - 1) list_bits(to.outliers, to.bits, k);
  } else if (thread_index() == 0) {
    to.outliers[0] = 0;
  }
  sync_block();
  return absmax;
}

// Asks for the norm's weights before they are needed.
QB_DEVICE void prefetch_norm(const RowNorm& norm, int k, int threads) {
  constexpr int kLine = 128 / static_cast<int>(sizeof(float));
  for (int i = thread_index() * kLine; i < k; i += threads * kLine) {
    if (norm.weight) prefetch_to_l2(norm.weight + i);
    if (norm.bias) prefetch_to_l2(norm.bias + i);
  }
}

// What is added to a score of a q head of so many at a distance, key − query.
QB_DEVICE float bias_of(const ScoreBias& bias, int q_heads, int distance, int head) {
  const int reach = bias.reach, near = distance < -reach ? -reach : distance > reach ? reach : distance;
  return bias.values[static_cast<size_t>(bias.bucket[near + reach]) * static_cast<size_t>(q_heads) + head];
}

}  // namespace quantbench::QB_CUDA
