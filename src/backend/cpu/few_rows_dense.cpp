// Products of up to eight rows with fp16 or fp32 weights: each weight row is read once, front to back, and multiplied
// with every activation row, which stay in the first-level cache. Bound by memory: at 16 GB/s a core has five cycles
// for each vector of weights and needs two.
#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {
namespace {

QB_INLINE F32 weights_at(const uint16_t* w) { return to_f32(load_half(w)); }
QB_INLINE F32 weights_at(const float* w) { return load(w); }
QB_INLINE F32 first_weights_at(const uint16_t* w, int count) { return to_f32(load_half_first(w, count)); }
QB_INLINE F32 first_weights_at(const float* w, int count) { return load_first(w, count); }

constexpr size_t kCacheLine = 64;
constexpr size_t kAhead = 4096;  // of a row's stream: 91 % of what reading gives at k = 2048, 88 % with 8 KB

// kUnroll independent sums a row hide the latency of the multiply-add where there are few rows.
template <int kRows, int kUnroll, typename Weight>
void products(float* y, size_t ldy, const float* x, size_t ldx, const Weight* w, int k, int count) {
  constexpr int kStep = kUnroll * kLanes;
  const int whole = k / kStep * kStep;
  for (int i = 0; i < count; ++i, w += k) {
    F32 acc[kRows][kUnroll];
    for (int r = 0; r < kRows; ++r) {
      for (int u = 0; u < kUnroll; ++u) acc[r][u] = zero();
    }
    int j = 0;
    for (; j < whole; j += kStep) {
      for (int u = 0; u < kUnroll; ++u) {
        if (u * kLanes * sizeof(Weight) % kCacheLine == 0) prefetch<kAhead>(w + j + u * kLanes);
        const F32 v = weights_at(w + j + u * kLanes);
        for (int r = 0; r < kRows; ++r) acc[r][u] = fma(v, load(x + r * ldx + j + u * kLanes), acc[r][u]);
      }
    }
    for (; j < k; j += kLanes) {
      const int left = least(k - j, kLanes);
      const F32 v = first_weights_at(w + j, left);
      for (int r = 0; r < kRows; ++r) acc[r][0] = fma(v, load_first(x + r * ldx + j, left), acc[r][0]);
    }
    for (int r = 0; r < kRows; ++r) {
      F32 total = acc[r][0];
      for (int u = 1; u < kUnroll; ++u) total = add(total, acc[r][u]);
      y[r * ldy + i] = sum(total);
    }
  }
}

// One activation row against long weight rows: at k = 8192 its 32 KB and one stream of weights push each other out of
// the first-level cache. So the weight rows are cut into kStreams runs that are read side by side: each activation that
// is loaded serves one row of each, and several streams keep more lines of memory on the way than one.
template <typename Weight>
void products_of_one(float* y, const float* x, const Weight* w, int k, int count) {
  constexpr int kStreams = 3, kUnroll = 2, kStep = kUnroll * kLanes, kAheadOfStreams = 2560;
  const int run = count / kStreams;
  const size_t stride = static_cast<size_t>(run) * k;
  const int whole = k / kStep * kStep;
  for (int i = 0; i < run; ++i) {
    const Weight* const row = w + static_cast<size_t>(i) * k;
    F32 acc[kStreams][kUnroll];
    for (int s = 0; s < kStreams; ++s) acc[s][0] = acc[s][1] = zero();
    int j = 0;
    for (; j < whole; j += kStep) {
      const F32 x0 = load(x + j), x1 = load(x + j + kLanes);
      for (int s = 0; s < kStreams; ++s) {
        const Weight* const at = row + s * stride + j;
        for (size_t line = 0; line < kStep * sizeof(Weight); line += kCacheLine)
          prefetch<kAheadOfStreams>(at + line / sizeof(Weight));
        acc[s][0] = fma(weights_at(at), x0, acc[s][0]);
        acc[s][1] = fma(weights_at(at + kLanes), x1, acc[s][1]);
      }
    }
    for (; j < k; j += kLanes) {
      const int left = least(k - j, kLanes);
      for (int s = 0; s < kStreams; ++s) {
        acc[s][0] = fma(first_weights_at(row + s * stride + j, left), load_first(x + j, left), acc[s][0]);
      }
    }
    for (int s = 0; s < kStreams; ++s) y[s * run + i] = sum(add(acc[s][0], acc[s][1]));
  }
  const int done = run * kStreams;
  products<1, 4>(y + done, 0, x, 0, w + static_cast<size_t>(done) * k, k, count - done);
}

constexpr int kLongRow = 2048;  // up to here one stream of weights is as fast

template <typename Weight>
void dispatch(float* y, size_t ldy, const float* x, size_t ldx, int rows, const Weight* w, int k, int count) {
  if (rows == 1 && k > kLongRow) return products_of_one(y, x, w, k, count);
  switch (rows) {
    case 1: return products<1, 4>(y, ldy, x, ldx, w, k, count);
    case 2: return products<2, 2>(y, ldy, x, ldx, w, k, count);
    case 3: return products<3, 2>(y, ldy, x, ldx, w, k, count);
    case 4: return products<4, 2>(y, ldy, x, ldx, w, k, count);
    case 5: return products<5, 1>(y, ldy, x, ldx, w, k, count);
    case 6: return products<6, 1>(y, ldy, x, ldx, w, k, count);
    case 7: return products<7, 1>(y, ldy, x, ldx, w, k, count);
    default: return products<8, 1>(y, ldy, x, ldx, w, k, count);
  }
}

}  // namespace

void few_rows_f16(float* y, size_t ldy, const float* x, size_t ldx, int rows, const uint16_t* w, int k, int first,
                  int last) {
  dispatch(y, ldy, x, ldx, rows, w + static_cast<size_t>(first) * k, k, last - first);
}

void few_rows_f32(float* y, size_t ldy, const float* x, size_t ldx, int rows, const float* w, int k, int first,
                  int last) {
  dispatch(y, ldy, x, ldx, rows, w + static_cast<size_t>(first) * k, k, last - first);
}

}  // namespace quantbench::cpu::QB_ISA
