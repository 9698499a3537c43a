// Everything that touches each number of a row once: norms, rounding, LLM.int8's quantisation of activations, RoPE,
// writing keys, biases, activations, arg-max, packing.
#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kDoubles = 8;
using F64 = __m512d;
QB_INLINE F64 zero_f64() { return _mm512_setzero_pd(); }
QB_INLINE F64 set1_f64(double x) { return _mm512_set1_pd(x); }
QB_INLINE F64 load_f64(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
QB_INLINE void store_f64(float* p, F64 x) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(x)); }
QB_INLINE F64 add_f64(F64 a, F64 b) { return _mm512_add_pd(a, b); }
QB_INLINE F64 sub_f64(F64 a, F64 b) { return _mm512_sub_pd(a, b); }
QB_INLINE F64 mul_f64(F64 a, F64 b) { return _mm512_mul_pd(a, b); }
QB_INLINE double sum_f64(F64 a) { return _mm512_reduce_add_pd(a); }
#else
constexpr int kDoubles = 4;
using F64 = __m256d;
QB_INLINE F64 zero_f64() { return _mm256_setzero_pd(); }
QB_INLINE F64 set1_f64(double x) { return _mm256_set1_pd(x); }
QB_INLINE F64 load_f64(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
QB_INLINE void store_f64(float* p, F64 x) { _mm_storeu_ps(p, _mm256_cvtpd_ps(x)); }
QB_INLINE F64 add_f64(F64 a, F64 b) { return _mm256_add_pd(a, b); }
QB_INLINE F64 sub_f64(F64 a, F64 b) { return _mm256_sub_pd(a, b); }
QB_INLINE F64 mul_f64(F64 a, F64 b) { return _mm256_mul_pd(a, b); }
QB_INLINE double sum_f64(F64 a) {
  const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
  return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}
#endif

QB_INLINE F32 apply(F32 x, Activation act) {
  switch (act) {
    case Activation::none: return x;
    case Activation::silu: return silu(x);
    case Activation::gelu_tanh: return gelu_tanh(x);
    case Activation::relu: return max(x, zero());
  }
  return x;
}

QB_INLINE F32 load_some(const float* p, int count) { return count == kLanes ? load(p) : load_first(p, count); }
QB_INLINE void store_some(float* p, F32 x, int count) {
  if (count == kLanes)
    store(p, x);
  else
    store_first(p, x, count);
}
QB_INLINE F32 biased(const float* x, const float* bias, int at, int count) {
  const F32 v = load_some(x + at, count);
  return bias ? add(v, load_some(bias + at, count)) : v;
}

template <Activation kAct>
void store_activated(float* y, const float* tile, const float* bias, int count) {
  for (int i = 0; i < count; i += kLanes) {
    const int left = least(kLanes, count - i);
    store_some(y + i, apply(biased(tile, bias, i, left), kAct), left);
  }
}

template <Activation kAct>
void store_gated(float* h, const float* gate, const float* gate_bias, const float* up, const float* up_bias,
                 int count) {
  for (int i = 0; i < count; i += kLanes) {
    const int left = least(kLanes, count - i);
    const F32 open = apply(biased(gate, gate_bias, i, left), kAct);
    store_some(h + i, mul(open, biased(up, up_bias, i, left)), left);
  }
}

}  // namespace

void normalize(float* out, const float* x, int d, const float* weight, const float* bias, float eps, bool centered) {
  constexpr int kSums = 4;  // sums side by side hide the latency of the addition
  const int whole = d / kDoubles * kDoubles;
  const auto sum_of = [&](auto term) {
    F64 acc[kSums];
    for (F64& a : acc) a = zero_f64();
    int i = 0;
    for (; i + kSums * kDoubles <= whole; i += kSums * kDoubles) {
      for (int s = 0; s < kSums; ++s) {
        acc[s] = add_f64(acc[s], term(load_f64(x + i + static_cast<size_t>(s) * kDoubles)));
      }
    }
    for (; i < whole; i += kDoubles) acc[0] = add_f64(acc[0], term(load_f64(x + i)));
    return sum_f64(add_f64(add_f64(acc[0], acc[1]), add_f64(acc[2], acc[3])));
  };
  double mean = 0;
  if (centered) {
    mean = sum_of([](F64 v) { return v; });
    for (int i = whole; i < d; ++i) mean += double{x[i]};
    mean /= d;
  }
  const F64 centre = set1_f64(mean);
  double square = sum_of([centre](F64 v) {
    const F64 distance = sub_f64(v, centre);
    return mul_f64(distance, distance);
  });
  for (int i = whole; i < d; ++i) square += (double{x[i]} - mean) * (double{x[i]} - mean);
  const double factor = 1 / __builtin_sqrt(square / d + double{eps});
  const F64 factors = set1_f64(factor);
  for (int i = 0; i < whole; i += kDoubles) {
    F64 v = mul_f64(mul_f64(sub_f64(load_f64(x + i), centre), factors), load_f64(weight + i));
    if (bias) v = add_f64(v, load_f64(bias + i));
    store_f64(out + i, v);
  }
  for (int i = whole; i < d; ++i) {
    out[i] = static_cast<float>((double{x[i]} - mean) * factor * double{weight[i]} + (bias ? double{bias[i]} : 0.0));
  }
}

void round_half(float* out, const float* x, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, round_to_half(load(x + i)));
  const int left = static_cast<int>(count - i);
  if (left > 0) store_first(out + i, round_to_half(load_first(x + i, left)), left);
}

void narrow(uint16_t* out, const float* x, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store_half(out + i, to_half(load(x + i)));
  const int left = static_cast<int>(count - i);
  if (left > 0) store_half_first(out + i, to_half(load_first(x + i, left)), left);
}

void widen(float* out, const uint16_t* x, size_t count, float scale) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, mul(to_f32(load_half(x + i)), set1(scale)));
  const int left = static_cast<int>(count - i);
  if (left > 0) store_first(out + i, mul(to_f32(load_half_first(x + i, left)), set1(scale)), left);
}

void widen_bf16(float* out, const Bf16* x, size_t count, float scale) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, mul(load_bf16(x + i), set1(scale)));
  const int left = static_cast<int>(count - i);
  if (left > 0) store_first(out + i, mul(load_bf16_first(x + i, left), set1(scale)), left);
}

bool mark_outliers(uint8_t* mask, const float* x, int k, float threshold) {
  bool any = false;
  for (int i = 0; i < k; i += kLanes) {
    const int left = least(kLanes, k - i);
    const F32 v = abs(load_some(x + i, left));
#if defined(__AVX512F__)
    unsigned found = _mm512_cmp_ps_mask(v, set1(threshold), _CMP_GE_OQ);
#else
    auto found = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(v, set1(threshold), _CMP_GE_OQ)));
#endif
    any |= found != 0;
    for (; found != 0; found &= found - 1) mask[i + __builtin_ctz(found)] = 1;
  }
  return any;
}

int32_t quantize_row(int8_t* codes, float* absmax, const float* x, int k, float threshold, const int32_t* columns,
                     int outliers) {
  const auto larger = [threshold](F32 most, F32 other) {
    const F32 v = abs(other);
#if defined(__AVX512F__)
    return _mm512_mask_max_ps(most, _mm512_cmp_ps_mask(v, set1(threshold), _CMP_LT_OQ), v, most);
#else
    return max(_mm256_and_ps(v, _mm256_cmp_ps(v, set1(threshold), _CMP_LT_OQ)), most);
#endif
  };
  constexpr int kChains = 4;  // side by side, for the latency of the comparison
  F32 chains[kChains];
  for (F32& most : chains) most = zero();
  int done = 0;
  for (; done + kChains * kLanes <= k; done += kChains * kLanes) {
    for (int c = 0; c < kChains; ++c) chains[c] = larger(chains[c], load(x + done + static_cast<size_t>(c) * kLanes));
  }
  for (; done < k; done += kLanes) chains[0] = larger(chains[0], load_some(x + done, least(kLanes, k - done)));
  const F32 most = max(max(chains[0], chains[1]), max(chains[2], chains[3]));
  *absmax = largest(most);
  // An all-zero row has codes 0, not 0 · infinity.
  const F32 factor = set1(*absmax > 0 ? 127.0f * (1.0f / *absmax) : 0.0f);
  for (int i = 0; i < k; i += kLanes) {
    const int left = least(kLanes, k - i);
    const I32 rounded = to_i32(mul(load_some(x + i, left), factor));
#if defined(__AVX512F__)
    _mm512_mask_cvtepi32_storeu_epi8(codes + i, first_lanes(left), rounded);
#else
    alignas(32) int32_t lanes[kLanes];
    store_i32(lanes, rounded);
    for (int l = 0; l < left; ++l) codes[i + l] = static_cast<int8_t>(lanes[l]);
#endif
  }
  for (int o = 0; o < outliers; ++o) codes[columns[o]] = 0;
  for (int i = k; i % 64 != 0; ++i) codes[i] = 0;
  int32_t total = 0;
  for (int i = 0; i < k; ++i) total += codes[i];
  return total;
}

void rotate(float* head, const float* cos, const float* sin, int dims) {
  const int half = dims / 2;
  for (int i = 0; i < half; i += kLanes) {
    const int left = least(kLanes, half - i);
    const F32 a = load_some(head + i, left), b = load_some(head + half + i, left);
    const F32 c = load_some(cos + i, left), s = load_some(sin + i, left);
    store_some(head + i, sub(mul(a, c), mul(b, s)), left);
    store_some(head + half + i, add(mul(b, c), mul(a, s)), left);
  }
}

void store_key(uint16_t* keys, const float* head, int position, int positions, int head_dim) {
  const int first = position / kTile * kTile, width = least(kTile, positions - first);
  uint16_t* to = keys + static_cast<size_t>(first) * head_dim + (position - first);
  for (int i = 0; i < head_dim; i += kLanes) {
    const int left = least(kLanes, head_dim - i);
    alignas(32) uint16_t half[kLanes];
    store_half(half, to_half(load_some(head + i, left)));
    for (int l = 0; l < left; ++l) to[static_cast<size_t>(i + l) * width] = half[l];
  }
}

void finish_store(float* y, const float* tile, const float* bias, int count, Activation act) {
  switch (act) {
    case Activation::none: return store_activated<Activation::none>(y, tile, bias, count);
    case Activation::silu: return store_activated<Activation::silu>(y, tile, bias, count);
    case Activation::gelu_tanh: return store_activated<Activation::gelu_tanh>(y, tile, bias, count);
    case Activation::relu: return store_activated<Activation::relu>(y, tile, bias, count);
  }
}

void finish_add(float* y, const float* tile, const float* bias, int count) {
  for (int i = 0; i < count; i += kLanes) {
    const int left = least(kLanes, count - i);
    store_some(y + i, add(load_some(y + i, left), biased(tile, bias, i, left)), left);
  }
}

void finish_gate(float* h, const float* gate, const float* gate_bias, const float* up, const float* up_bias, int count,
                 Activation act) {
  switch (act) {
    case Activation::none: return store_gated<Activation::none>(h, gate, gate_bias, up, up_bias, count);
    case Activation::silu: return store_gated<Activation::silu>(h, gate, gate_bias, up, up_bias, count);
    case Activation::gelu_tanh: return store_gated<Activation::gelu_tanh>(h, gate, gate_bias, up, up_bias, count);
    case Activation::relu: return store_gated<Activation::relu>(h, gate, gate_bias, up, up_bias, count);
  }
}

int arg_max(const float* x, int count, float* value) {
  // The largest number first, then the first place where it stands. A NaN wins neither: it is the second operand of the
  // comparison only where it is dropped.
  F32 most = set1(-__builtin_inff());
  for (int i = 0; i < count; i += kLanes) {
    const int left = least(kLanes, count - i);
    if (left == kLanes) {
      most = max(load(x + i), most);
    } else {
      for (int l = 0; l < left; ++l) most = max(set1(x[i + l]), most);
    }
  }
  *value = largest(most);
  if (*value == -__builtin_inff()) return -1;
  for (int i = 0; i < count; ++i) {
    if (x[i] == *value) return i;
  }
  return -1;
}

void pack_panel(float* out, const float* x, size_t ldx, int rows, int k) {
  for (int r = 0; r < kTile; r += 4) {
    int j = 0;
    for (; j + 4 <= k; j += 4) {
      __m128 in[4];
      for (int i = 0; i < 4; ++i) in[i] = r + i < rows ? _mm_loadu_ps(x + (r + i) * ldx + j) : _mm_setzero_ps();
      _MM_TRANSPOSE4_PS(in[0], in[1], in[2], in[3]);
      for (int i = 0; i < 4; ++i) _mm_storeu_ps(out + static_cast<size_t>(j + i) * kTile + r, in[i]);
    }
    for (; j < k; ++j) {
      for (int i = 0; i < 4; ++i) out[static_cast<size_t>(j) * kTile + r + i] = r + i < rows ? x[(r + i) * ldx + j] : 0;
    }
  }
}

}  // namespace quantbench::cpu::QB_ISA
