// Makes the rows of a product ready: norm, rounding to fp16, LLM.int8's outliers, codes and scales.
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/row.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256;

template <bool kExact>
QB_DEVICE float normed_at(int column, float x, const NormFactors<kExact>& f, const RowNorm& norm) {
  if (!norm.weight) return x;
  return normed<kExact>(x, f, norm.weight[column], norm.bias ? norm.bias[column] : 0.0f);
}

// A block a row, which its threads keep: k is a multiple of 4 and at most kThreads · 4 · kQuads.
// Exact: as norm_factors().
constexpr int kMostQuads = 4;
template <int kQuads, bool kExact>
__global__ void __launch_bounds__(kThreads) prepare_kept_kernel(const __grid_constant__ PrepareArgs a) {
  wait_for_previous();
  let_next_start();
  using Held = HeldRow<kThreads, kQuads>;
  using Real = NormReal<kExact>;
  const int row = block_x();
  const size_t start = static_cast<size_t>(row) * a.k;
  Held x;
  x.load(a.x + start, a.k);
  const NormFactors<kExact> f = norm_factors<kExact>(
      [&](auto value) { return block_sum<kThreads>(x.template own_sum<Real>(a.k, value)); }, a.k, a.norm);
#pragma unroll
  for (int j = 0; j < kQuads; ++j) {
    const int first = Held::column(j);
    if (first >= a.stride) break;
    uint16_t half[4] = {};
    if (first < a.k) {
      Quad& four = x.quad[j];
      for (int i = 0; i < 4; ++i) {
        four.at[i] = normed_at<kExact>(first + i, four.at[i], f, a.norm);
        half[i] = half_of_float(four.at[i]);
        if (a.marks) mark(a.marks + first + i, half[i]);
      }
      if (a.x32) *reinterpret_cast<Quad*>(a.x32 + start + first) = four;
    }
    store8(a.x16 + static_cast<size_t>(row) * a.stride + first,
           {{half[0] | uint32_t{half[1]} << 16, half[2] | uint32_t{half[3]} << 16}});
  }
}

// The same for any k.
__global__ void __launch_bounds__(kThreads) prepare_kernel(const __grid_constant__ PrepareArgs a) {
  wait_for_previous();
  let_next_start();
  const int row = block_x();
  const float* const x = a.x + static_cast<size_t>(row) * a.k;
  const NormFactors<true> factors = norm_factors<true>(
      [&](auto value) {
        double sum = 0;
        for (int i = thread_index(); i < a.k; i += kThreads) sum += value(x[i]);
        return block_sum<kThreads>(sum);
      },
      a.k, a.norm);
  for (int i = thread_index(); i < a.stride; i += kThreads) {
    const float value = i < a.k ? normed_at<true>(i, x[i], factors, a.norm) : 0.0f;
    if (a.x32 && i < a.k) a.x32[static_cast<size_t>(row) * a.k + i] = value;
    const uint16_t rounded = half_of_float(value);
    a.x16[static_cast<size_t>(row) * a.stride + i] = rounded;
    if (a.marks && i < a.k) mark(a.marks + i, rounded);
  }
}

// What lies before each lane's number in its warp, and the sum of all in *total.
QB_DEVICE uint64_t warp_rank(uint64_t own, uint64_t* total) {
  uint64_t before = 0, all = own;
  for (int mask = 1; mask < kWarpSize; mask *= 2) {
    const uint64_t other = from_lane_xor(all, mask);
    if (lane_index() & mask) before += other;
    all += other;
  }
  *total = all;
  return before;
}

// A block a row, which its threads keep: k is a multiple of 8 and at most kThreads · 8 · kEights. The first block also
// lists the outlier columns.
constexpr int kMostEights = 8;
template <int kEights>
__global__ void __launch_bounds__(kThreads) quantize_kept_kernel(const __grid_constant__ QuantizeArgs a) {
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ uint64_t counts[2][kWarps];
  wait_for_previous();
  let_next_start();
  const int row = block_x();
  const size_t start = static_cast<size_t>(row) * a.stride;
  Bytes16 x[kEights];
  Bytes8 marks[kEights];
  const auto column = [](int piece) { return (piece * kThreads + thread_index()) * 8; };
  const auto half = [](const Bytes16& piece, int i) {
    return static_cast<uint16_t>(piece.word[i / 2] >> (i % 2 * 16));
  };
  const auto is_marked = [](const Bytes8& piece, int i) { return piece.word[i / 4] >> (i % 4 * 8) & 1; };
  float most = 0;
  uint64_t own[2] = {};  // outliers of the first and the last four pieces, 16 bits each
#pragma unroll
  for (int j = 0; j < kEights; ++j) {
    x[j] = column(j) < a.k ? load16(a.x16 + start + column(j)) : Bytes16{};
    marks[j] = column(j) < a.k ? load8(a.marks + column(j)) : Bytes8{};
  }
#pragma unroll
  for (int j = 0; j < kEights; ++j) {
    for (int i = 0; i < 8; ++i) {
      const float magnitude = fabsf(float_of_half(half(x[j], i)));
      if (magnitude < kThreshold && magnitude > most) most = magnitude;
    }
    // A mark is 0 or 1, so a product adds up four of them.
    const uint32_t marked = (marks[j].word[0] * 0x01010101u >> 24) + (marks[j].word[1] * 0x01010101u >> 24);
    own[j / 4] += uint64_t{marked} << (j % 4 * 16);
  }
  uint64_t totals[2], before[2];
  for (int i = 0; i < 2; ++i) {
    before[i] = warp_rank(own[i], &totals[i]);
    if (lane_index() == 0) counts[i][warp_index()] = totals[i];
  }
  most = block_max<kThreads>(most);  // its barriers are those of counts, too
  const float scale = code_scale(most);
  uint64_t all[2] = {};
  for (int i = 0; i < 2; ++i) {
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp_index()) before[i] += counts[i][w];
      all[i] += counts[i][w];
    }
  }
  const bool any = (all[0] | all[1]) != 0;
  int earlier = 0;  // outliers of the pieces before
#pragma unroll
  for (int j = 0; j < kEights; ++j) {
    const int first = column(j);
    if (first >= a.stride) break;
    Bytes8 codes{};
    if (first < a.k) {
      for (int i = 0; i < 8; ++i) {
        const int8_t code = is_marked(marks[j], i) ? int8_t{0} : code_of(half(x[j], i), scale);
        codes.word[i / 4] |= uint32_t{static_cast<uint8_t>(code)} << (i % 4 * 8);
      }
    }
    store8(a.codes + start + first, codes);
  }
  if (any) {  // every thread has its part of the row, so its place can be written over
#pragma unroll
    for (int j = 0; j < kEights; ++j) {
      int at = earlier + static_cast<int>(before[j / 4] >> (j % 4 * 16) & 0xffff);
      earlier += static_cast<int>(all[j / 4] >> (j % 4 * 16) & 0xffff);
      if (column(j) >= a.k) continue;
      for (int i = 0; i < 8; ++i) {
        if (!is_marked(marks[j], i)) continue;
        if (a.gather) a.x16[start + at] = half(x[j], i);
        if (row == 0) a.outliers[1 + at] = column(j) + i;
        ++at;
      }
    }
    if (a.gather) {  // up to a whole number of vectors
      const int end = (earlier + kGathered - 1) / kGathered * kGathered;
      if (earlier + thread_index() < end && earlier + thread_index() < a.stride)
        a.x16[start + earlier + thread_index()] = 0;
    }
  }
  if (row == 0 && thread_index() == 0) a.outliers[0] = earlier;
  if (thread_index() == 0) a.absmax[row] = most;
}

QB_DEVICE void list_marked(const QuantizeArgs& a) {
  __shared__ int counts[kThreads];
  const int share = (a.k + kThreads - 1) / kThreads, first = thread_index() * share;
  const int last = first + share < a.k ? first + share : a.k;
  int own = 0, at = 1;
  for (int i = first; i < last; ++i) own += a.marks[i] != 0;
  counts[thread_index()] = own;
  sync_block();
  for (int i = 0; i < thread_index(); ++i) at += counts[i];
  for (int i = first; i < last; ++i) {
    if (a.marks[i]) a.outliers[at++] = i;
  }
  if (thread_index() == kThreads - 1) a.outliers[0] = at - 1;
}

// The same for any k; the last block lists the outlier columns.
__global__ void __launch_bounds__(kThreads) quantize_kernel(const __grid_constant__ QuantizeArgs a) {
  wait_for_previous();
  let_next_start();
  const int row = block_x();
  if (row == a.rows) return list_marked(a);
  const uint16_t* const x = a.x16 + static_cast<size_t>(row) * a.stride;
  int8_t* const codes = a.codes + static_cast<size_t>(row) * a.stride;
  float most = 0;
  for (int i = thread_index(); i < a.k; i += kThreads) {
    const float magnitude = fabsf(float_of_half(x[i]));
    if (magnitude < kThreshold && magnitude > most) most = magnitude;
  }
  most = block_max<kThreads>(most);
  const float scale = code_scale(most);
  for (int i = thread_index(); i < a.stride; i += kThreads) {
    codes[i] = i < a.k && !a.marks[i] ? code_of(x[i], scale) : int8_t{0};
  }
  if (thread_index() == 0) a.absmax[row] = most;
}

}  // namespace

void prepare(const PrepareArgs& args, const Stream& stream) {
  constexpr int kPiece = kThreads * 4;
  const bool exact = args.marks;  // codes depend on it
  if (args.k % 4 == 0 && args.stride <= 2 * kPiece)
    return launch(exact ? prepare_kept_kernel<2, true> : prepare_kept_kernel<2, false>, {args.rows}, kThreads, stream,
                  args);
  if (args.k % 4 == 0 && args.stride <= kMostQuads * kPiece)
    return launch(exact ? prepare_kept_kernel<kMostQuads, true> : prepare_kept_kernel<kMostQuads, false>, {args.rows},
                  kThreads, stream, args);
  launch(prepare_kernel, {args.rows}, kThreads, stream, args);
}
bool can_gather(int k) { return k % 8 == 0 && padded_k(k) <= kThreads * 8 * kMostEights; }
void quantize(const QuantizeArgs& args, const Stream& stream) {
  if (can_gather(args.k)) {
    const Grid grid{args.rows};
    constexpr int kPiece = kThreads * 8;
    if (args.stride <= kPiece) return launch(quantize_kept_kernel<1>, grid, kThreads, stream, args);
    if (args.stride <= 2 * kPiece) return launch(quantize_kept_kernel<2>, grid, kThreads, stream, args);
    if (args.stride <= 4 * kPiece) return launch(quantize_kept_kernel<4>, grid, kThreads, stream, args);
    return launch(quantize_kept_kernel<kMostEights>, grid, kThreads, stream, args);
  }
  launch(quantize_kernel, {args.rows + 1}, kThreads, stream, args);
}

}  // namespace quantbench::QB_CUDA
