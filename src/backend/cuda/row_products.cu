// Products of one row with fp16 and LLM.int8 weights, for decoding: a warp has a few weight rows to itself, asks for as
// much of them as its registers hold before it waits for the kernel before, and then needs nobody else. Bound by
// memory: what a multiprocessor has on the way is its warps' registers.
//
// LLM.int8 as in finish.cuh, outliers in the order of the columns, so that the result is the reference's to the bit.
#include "backend/cuda/finish.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/row.cuh"
#include "backend/cuda/row_products.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
constexpr int kPieceBytes = kWarpSize * static_cast<int>(sizeof(Bytes16));  // of a weight row, a turn of the warp

// A warp's rows: kPairs from `low` on and kPairs from `high` on, of one matrix or, gated, of two.
struct Unit {
  int job, low, high;
  bool rotates;  // row low + i pairs with row high + i
};
template <int kPairs, bool kGate>
QB_DEVICE int units_of(const Job& job) {
  return job.w.n / (kGate ? kPairs : 2 * kPairs);
}
template <int kPairs, bool kGate>
QB_DEVICE Unit find_unit(const ProductArgs& a, int unit) {
  if constexpr (kGate) return {0, unit * kPairs, unit * kPairs, false};
  int job = 0;
  while (unit >= units_of<kPairs, kGate>(a.jobs[job])) unit -= units_of<kPairs, kGate>(a.jobs[job++]);
  if (a.finish != Finish::qkv || job == 2 || !a.rotation.cos)
    return {job, unit * 2 * kPairs, unit * 2 * kPairs + kPairs, false};
  const int units_of_head = a.kv.head_dim / (2 * kPairs), head = unit / units_of_head, own = unit % units_of_head;
  const int half = a.rotation.dims / 2, rotated = half / kPairs, start = head * a.kv.head_dim;
  if (own < rotated) return {job, start + own * kPairs, start + own * kPairs + half, true};
  const int low = start + a.rotation.dims + (own - rotated) * 2 * kPairs;
  return {job, low, low + kPairs, false};
}

template <WeightFormat kFormat>
struct Format;
template <>
struct Format<WeightFormat::f16> {
  using Sum = float;
  static constexpr int kPairs = 1, kDepth = 8, kOfPiece = kPieceBytes / 2;
  static QB_DEVICE void add(float* sum, const Bytes16& w, const Bytes16& x) {
    for (int i = 0; i < 4; ++i) {
      *sum =
          fmaf(float_of_half(static_cast<uint16_t>(w.word[i])), float_of_half(static_cast<uint16_t>(x.word[i])), *sum);
      *sum = fmaf(float_of_half(static_cast<uint16_t>(w.word[i] >> 16)),
                  float_of_half(static_cast<uint16_t>(x.word[i] >> 16)), *sum);
    }
  }
};
template <>
struct Format<WeightFormat::int8> {
  using Sum = int32_t;
  static constexpr int kPairs = 2, kDepth = 4, kOfPiece = kPieceBytes;
  static QB_DEVICE void add(int32_t* sum, const Bytes16& w, const Bytes16& x) {
    for (int i = 0; i < 4; ++i) *sum = dot_codes(w.word[i], x.word[i], *sum);
  }
};

template <WeightFormat kFormat>
QB_DEVICE const std::byte* row_at(const Weight& w, int row) {
  constexpr size_t kBytes = kFormat == WeightFormat::f16 ? 2 : 1;
  return static_cast<const std::byte*>(w.w) + static_cast<size_t>(row) * w.k * kBytes;
}

// Output `n` of LLM.int8, which lane r, r + kRows, … all have: the lanes fetch the weights of the outlier columns
// together, and each adds them up in the order of the columns.
template <int kRows>
QB_DEVICE float finish_int8_of_lanes(int32_t acc, const OwnRow& own, float row_absmax, const Job& job, int n) {
  const float absmax = job.w.absmax[n], bias = job.bias ? job.bias[n] : 0.0f;
  const float out = int8_output(acc, row_absmax, absmax, bias);
  const int count = own.outliers[0];
  if (count == 0) return out;
  constexpr int kAtOnce = kWarpSize / kRows;
  const int8_t* const codes = static_cast<const int8_t*>(job.w.w) + static_cast<size_t>(n) * job.w.k;
  float sum = 0;
  for (int first = 0; first < count; first += kAtOnce) {
    const int i = first + lane_index() / kRows;
    const int column = i < count ? own.outliers[1 + i] : 0;
    const float weight = outlier_weight(codes[column], absmax), value = float_of_half(own.x16[column]);
    for (int j = 0; j < kAtOnce && first + j < count; ++j) {
      const int lane = lane_index() % kRows + j * kRows;
      sum = fmaf(from_lane(value, lane), from_lane(weight, lane), sum);
    }
  }
  return float_of_half(half_of_float(add_rn(out, sum)));
}

template <WeightFormat kFormat, bool kGate>
__global__ void __launch_bounds__(kThreads, 2) row_product_kernel(const __grid_constant__ ProductArgs a) {
  using F = Format<kFormat>;
  using Sum = typename F::Sum;
  constexpr int kPairs = F::kPairs, kRows = 2 * kPairs, kDepth = F::kDepth;
  let_next_start();
  int units = 0;
  for (int i = 0; i < (kGate ? 1 : a.job_count); ++i) units += units_of<kPairs, kGate>(a.jobs[i]);
  const int lane = lane_index(), pieces = a.x.k / F::kOfPiece, step = blocks_x() * kWarps;
  const Job& second = a.jobs[kGate ? 1 : 0];
  int work = block_x() + blocks_x() * warp_index();
  Unit unit{};
  const std::byte* rows[kRows];
  const auto begin = [&] {
    unit = find_unit<kPairs, kGate>(a, work);
    for (int i = 0; i < kPairs; ++i) {
      rows[i] = row_at<kFormat>(a.jobs[unit.job].w, unit.low + i) + lane * sizeof(Bytes16);
      rows[kPairs + i] = row_at<kFormat>((kGate ? second : a.jobs[unit.job]).w, unit.high + i) + lane * sizeof(Bytes16);
    }
  };
  Bytes16 weights[kRows][kDepth];
  const auto ask = [&](int first) {
#pragma unroll
    for (int p = 0; p < kDepth; ++p) {
      if (first + p < pieces) {
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          weights[r][p] = load16_once(rows[r] + static_cast<size_t>(first + p) * kPieceBytes);
      }
    }
  };
  if (work < units) {
    begin();
    ask(0);
  }
  wait_for_previous();
  const OwnRow own = own_row(a.x.stride);
  const float absmax = make_row<kThreads, kFormat == WeightFormat::int8>(own, a.x.x, a.x.k, a.x.stride, a.norm);
  const std::byte* const x = reinterpret_cast<const std::byte*>(
                                 kFormat == WeightFormat::int8 ? static_cast<const void*>(own.codes) : own.x16) +
                             lane * sizeof(Bytes16);
  while (work < units) {
    Sum sum[kRows] = {};
    for (int first = 0; first < pieces; first += kDepth) {
#pragma unroll
      for (int p = 0; p < kDepth; ++p) {
        if (first + p < pieces) {
          const Bytes16 in = load16(x + static_cast<size_t>(first + p) * kPieceBytes);
#pragma unroll
          for (int r = 0; r < kRows; ++r) F::add(&sum[r], weights[r][p], in);
        }
      }
      if (first + kDepth < pieces) ask(first + kDepth);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum[r] = warp_sum(sum[r]);
    // Lane r has output r.
    const Unit done = unit;
    const int r = lane % kRows, n = r < kPairs ? done.low + r : done.high + r - kPairs;
    const Job& job = kGate && r >= kPairs ? second : a.jobs[done.job];
    work += step;
    if (work < units) {  // the next rows come while these are finished
      begin();
      ask(0);
    }
    Sum total = sum[0];
#pragma unroll
    for (int i = 1; i < kRows; ++i) total = r == i ? sum[i] : total;
    float value;
    if constexpr (kFormat == WeightFormat::int8) {
      value = finish_int8_of_lanes<kRows>(total, own, absmax, job, n);
    } else {
      value = finish_float(total, job, n);
    }
    const float other = from_lane_xor(value, kPairs);
    if constexpr (kGate) {
      if (lane < kPairs) put_gated(a, 0, n, value, other);
    } else if (a.finish == Finish::qkv) {
      if (done.rotates) {
        const size_t angle = static_cast<size_t>(a.places.position[0]) * (a.rotation.dims / 2) +
                             (r < kPairs ? n : n - a.rotation.dims / 2) % a.kv.head_dim;
        const float cos = a.rotation.cos[angle], sin = a.rotation.sin[angle];
        value = r < kPairs ? value * cos - other * sin : value * cos + other * sin;
      }
      if (lane < kRows) place(a, done.job, 0, n, value);
    } else if (lane < kRows) {
      put(a, job, 0, n, value);
    }
  }
}

}  // namespace

bool multiply_row(const ProductArgs& args, int blocks, const Stream& stream) {
  const WeightFormat format = args.jobs[0].w.format;
  const bool is_int8 = format == WeightFormat::int8, gate = args.finish == Finish::gate;
  if (!args.own_rows || (format != WeightFormat::f16 && !is_int8)) return false;
  const int pairs = is_int8 ? Format<WeightFormat::int8>::kPairs : Format<WeightFormat::f16>::kPairs;
  if (args.x.k % (is_int8 ? Format<WeightFormat::int8>::kOfPiece : Format<WeightFormat::f16>::kOfPiece) != 0)
    return false;
  int units = 0;
  for (int i = 0; i < args.job_count; ++i) {
    if (args.jobs[i].w.n % (2 * pairs) != 0) return false;
    units += args.jobs[i].w.n / (2 * pairs);
  }
  const int most = (units + kWarps - 1) / kWarps;
  const Grid grid{most < blocks ? most : blocks};
  const size_t shared = own_row_bytes(format, args.x.k);
  if (is_int8 && gate) launch(row_product_kernel<WeightFormat::int8, true>, grid, kThreads, stream, args, shared);
  if (is_int8 && !gate) launch(row_product_kernel<WeightFormat::int8, false>, grid, kThreads, stream, args, shared);
  if (!is_int8 && gate) launch(row_product_kernel<WeightFormat::f16, true>, grid, kThreads, stream, args, shared);
  if (!is_int8 && !gate) launch(row_product_kernel<WeightFormat::f16, false>, grid, kThreads, stream, args, shared);
  return true;
}

}  // namespace quantbench::QB_CUDA
