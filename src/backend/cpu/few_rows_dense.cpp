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
        if (u * kLanes * sizeof(Weight) % kCacheLine == 0) prefetch(w + j + u * kLanes);
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

// One activation row against long weight rows: kSegment activations stay in the first-level cache (32 KB of them at
// k = 8192 would not) while 16 weight rows pass by, each in pieces of 4 KB. The next piece is prefetched, since the
// order of pieces is not one that the hardware foresees.
template <typename Weight>
void products_of_one(float* y, const float* x, const Weight* w, int k, int count) {
  constexpr int kUnroll = 4, kStep = kUnroll * kLanes, kSegment = 2048, kGroup = 16;
  for (int i = 0; i < count; i += kGroup) {
    const int rows = least(kGroup, count - i);
    alignas(64) float partial[kGroup * kLanes] = {};
    const Weight* const group = w + static_cast<size_t>(i) * k;
    for (int begin = 0; begin < k; begin += kSegment) {
      const int end = least(k, begin + kSegment), whole = begin + (end - begin) / kStep * kStep;
      for (int r = 0; r < rows; ++r) {
        const Weight* const row = group + static_cast<size_t>(r) * k;
        // The piece that comes next, less `begin`: of the next row, the next segment or the next group.
        const Weight* ahead = row + k;
        if (r + 1 == rows) ahead = (end < k ? group + end : ahead) - begin;
        F32 acc[kUnroll];
        acc[0] = load(partial + r * kLanes);
        for (int u = 1; u < kUnroll; ++u) acc[u] = zero();
        int j = begin;
        for (; j < whole; j += kStep) {
          for (int u = 0; u < kUnroll; ++u) {
            acc[u] = fma(weights_at(row + j + u * kLanes), load(x + j + u * kLanes), acc[u]);
            if (u * kLanes * sizeof(Weight) % kCacheLine == 0) {
              _mm_prefetch(reinterpret_cast<const char*>(ahead + j + u * kLanes), _MM_HINT_T0);
            }
          }
        }
        for (; j < end; j += kLanes) {
          const int left = least(end - j, kLanes);
          acc[0] = fma(first_weights_at(row + j, left), load_first(x + j, left), acc[0]);
        }
        store(partial + r * kLanes, add(add(acc[0], acc[1]), add(acc[2], acc[3])));
      }
    }
    for (int r = 0; r < rows; ++r) y[i + r] = sum(load(partial + r * kLanes));
  }
}

constexpr int kLongRow = 4096;  // activations that fill a third of a 48 KB first-level cache

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
