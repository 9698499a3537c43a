// What follows the sums of a product: scales, bias, LLM.int8's roundings and outliers, activation, and where it goes.
#pragma once

#include <cmath>

#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/row.cuh"

namespace quantbench::QB_CUDA {

QB_DEVICE float activate(float x, Activation act) {
  switch (act) {
    case Activation::none: return x;
    case Activation::relu: return x > 0 ? x : 0.0f;
    case Activation::silu: return divide(x, 1 + expf(-x));
    case Activation::gelu_tanh: {  // 0.5x(1 + tanh(u)) = x · σ(2u)
      const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
      return divide(x, 1 + expf(-2 * u));
    }
  }
  return x;
}

// As activate(), with the shortest exponential; to a few units in the last place of fp32.
template <Activation kAct>
QB_DEVICE float activated(float x) {
  if constexpr (kAct == Activation::none) return x;
  if constexpr (kAct == Activation::relu) return x > 0 ? x : 0.0f;
  constexpr float kLog2E = 1.4426950408889634f;
  float u = x;
  if constexpr (kAct == Activation::gelu_tanh) u = 1.5957691216f * fmaf(0.044715f * x * x, x, x);  // 2 √(2 / π)
  return divide(x, 1 + power_of_two(-kLog2E * u));
}

constexpr float kOutputScale = 6.200012e-05f;         // kInt8OutputScale
constexpr float kInverse127 = 7.874015718698502e-3f;  // of an outlier column's fp16 weight, code · absmax / 127

QB_DEVICE float int8_output(int32_t acc, float row_absmax, float absmax, float bias) {
  const float scaled = mul_rn(mul_rn(static_cast<float>(acc), row_absmax), absmax);
  return float_of_half(half_of_float(fmaf(scaled, kOutputScale, bias)));
}
QB_DEVICE float outlier_weight(int code, float absmax) {
  return float_of_half(half_of_float(mul_rn(mul_rn(static_cast<float>(code), absmax), kInverse127)));
}
// LLM.int8's output `n` of row `row` from its int32 sum: half(fma((acc · row_absmax) · absmax, 1/127², bias)), then the
// outlier columns' fp32 sum, in the order of the columns, and the second rounding.
QB_DEVICE float finish_int8(int32_t acc, const Input& x, int row, const Job& job, int n) {
  const float absmax = job.w.absmax[n], bias = job.bias ? job.bias[n] : 0.0f;
  const float out = int8_output(acc, x.absmax[row], absmax, bias);
  const int count = x.outliers[0];
  if (count == 0) return out;
  const int8_t* const codes = static_cast<const int8_t*>(job.w.w) + static_cast<size_t>(n) * job.w.k;
  const uint16_t* const values = x.x16 + static_cast<size_t>(row) * x.stride;
  float sum = 0;
  for (int i = 1; i <= count; ++i) {
    const int column = x.outliers[i];
    sum = fmaf(float_of_half(values[column]), outlier_weight(codes[column], absmax),
               sum);  // a product of two fp16 numbers is exact
  }
  return float_of_half(half_of_float(add_rn(out, sum)));
}

QB_DEVICE float finish_float(float sum, const Job& job, int n) { return job.bias ? sum + job.bias[n] : sum; }

QB_DEVICE void put(const ProductArgs& a, const Job& job, int row, int n, float value) {
  float* const y = job.y + static_cast<size_t>(row) * job.w.n + n;
  *y = a.finish == Finish::add ? *y + value : activate(value, a.act);
  leave_ready(a.ready, row, n, *y);
}
QB_DEVICE void put_gated(const ProductArgs& a, int row, int n, float gate, float up) {
  const float value = activate(gate, a.act) * up;
  a.jobs[1].y[static_cast<size_t>(row) * a.jobs[1].w.n + n] = value;
  leave_ready(a.ready, row, n, value);
}

// Output `n` of q, k or v: q to y, k and v to the cache.
QB_DEVICE void place(const ProductArgs& a, int job, int row, int n, float value) {
  if (job == 0) {
    a.jobs[0].y[static_cast<size_t>(row) * a.jobs[0].w.n + n] = value;
    return;
  }
  const Cache& kv = a.kv;
  const size_t head = static_cast<size_t>(a.places.sequence[row]) * kv.heads + n / kv.head_dim;
  const size_t at = (head * kv.positions + a.places.position[row]) * kv.head_dim + n % kv.head_dim;
  (job == 1 ? kv.k : kv.v)[at] = half_of_float(value);
}

// Scale of block `block` of the flat order; rounds as quant/nf4.h.
QB_DEVICE float nf4_scale(const Weight& w, const float* nested_code, size_t block) {
  if (!w.absmax8) return w.absmax[block];
  constexpr int kNestedBlock = 256;
  return add_rn(mul_rn(nested_code[w.absmax8[block]], w.nested_absmax[block / kNestedBlock]), w.offset);
}

// NF4's codes by index (quant/nf4.h), as a function, since device code has no table of the host's.
QB_DEVICE float nf4_code(int index) {
  const float code[16] = {-1.0f,
                          -0.6961928009986877f,
                          -0.5250730514526367f,
                          -0.39491748809814453f,
                          -0.28444138169288635f,
                          -0.18477343022823334f,
                          -0.09105003625154495f,
                          0.0f,
                          0.07958029955625534f,
                          0.16093020141124725f,
                          0.24611230194568634f,
                          0.33791524171829224f,
                          0.44070982933044434f,
                          0.5626170039176941f,
                          0.7229568362236023f,
                          1.0f};
  return code[index];
}

}  // namespace quantbench::QB_CUDA
