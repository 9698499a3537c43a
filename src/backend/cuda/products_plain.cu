// The plain version of products.cu: a warp an output and a lane every 32nd k. For sizes that the tiles do not divide.
#include "backend/cuda/products_plain.h"

#include "backend/cuda/finish.cuh"
#include "backend/cuda/launch.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;

template <typename Value>
QB_DEVICE float dot(const float* x, int k, Value weight_at) {
  float sum = 0;
  for (int i = lane_index(); i < k; i += kWarpSize) sum = fmaf(x[i], weight_at(i), sum);
  return warp_sum(sum);
}

// Output n of a row, the same in all lanes.
QB_DEVICE float output(const ProductArgs& a, const Job& job, int row, int n) {
  const Weight& w = job.w;
  const size_t start = static_cast<size_t>(n) * w.k;
  const float* const x = a.x.x + static_cast<size_t>(row) * a.x.k;
  switch (w.format) {
    case WeightFormat::f16: {
      const auto* const weights = static_cast<const uint16_t*>(w.w) + start;
      return finish_float(dot(x, w.k, [=](int i) { return float_of_half(weights[i]); }), job, n);
    }
    case WeightFormat::bf16: {
      const auto* const weights = static_cast<const uint16_t*>(w.w) + start;
      return finish_float(dot(x, w.k, [=](int i) { return float_of_bf16(weights[i]); }), job, n);
    }
    case WeightFormat::f32: {
      const auto* const weights = static_cast<const float*>(w.w) + start;
      return finish_float(dot(x, w.k, [=](int i) { return weights[i]; }), job, n);
    }
    case WeightFormat::nf4: {
      const auto* const codes = static_cast<const uint8_t*>(w.w);
      constexpr int kBlock = 64;
      const float sum = dot(x, w.k, [&](int i) {
        const size_t at = start + static_cast<size_t>(i);
        const int pair = codes[at / 2], code = at % 2 == 0 ? pair >> 4 : pair & 15;
        return nf4_code(code) * nf4_scale(w, a.tables.nested_code, at / kBlock);
      });
      return finish_float(sum, job, n);
    }
    case WeightFormat::int8: {
      const int8_t* const weights = static_cast<const int8_t*>(w.w) + start;
      const int8_t* const codes = a.x.codes + static_cast<size_t>(row) * a.x.stride;
      int32_t sum = 0;
      for (int i = lane_index(); i < w.k; i += kWarpSize) sum += int32_t{codes[i]} * weights[i];
      return finish_int8(warp_sum(sum), a.x, row, job, n);
    }
  }
  return 0;
}

__global__ void __launch_bounds__(kThreads) plain_kernel(const __grid_constant__ ProductArgs a) {
  wait_for_previous();
  let_next_start();
  const int jobs = a.finish == Finish::gate ? 1 : a.job_count, row = block_y();
  int outputs = 0;
  for (int i = 0; i < jobs; ++i) outputs += a.jobs[i].w.n;
  for (int work = block_x() * kWarps + warp_index(); work < outputs; work += blocks_x() * kWarps) {
    int job = 0, n = work;
    while (n >= a.jobs[job].w.n) n -= a.jobs[job++].w.n;
    const float value = output(a, a.jobs[job], row, n);
    const float second = a.finish == Finish::gate ? output(a, a.jobs[1], row, n) : 0.0f;
    if (lane_index() != 0) continue;
    if (a.finish == Finish::gate)
      put_gated(a, row, n, value, second);
    else
      put(a, a.jobs[job], row, n, value);
  }
}

}  // namespace

void multiply_plain(const ProductArgs& args, int blocks, const Stream& stream) {
  launch(plain_kernel, {blocks, args.x.rows}, kThreads, stream, args);
}

}  // namespace quantbench::QB_CUDA
