// Products of up to eight rows with fp16, bf16 or fp32 weights: each weight row is read once, front to back, and
// multiplied with every activation row. Bound by memory: at 16 GB/s a core has five cycles for each vector of weights
// and needs two.
#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {
namespace {

QB_INLINE F32 weights_at(const uint16_t* w) { return to_f32(load_half(w)); }
QB_INLINE F32 weights_at(const Bf16* w) { return load_bf16(w); }
QB_INLINE F32 weights_at(const float* w) { return load(w); }
QB_INLINE F32 first_weights_at(const uint16_t* w, int count) { return to_f32(load_half_first(w, count)); }
QB_INLINE F32 first_weights_at(const Bf16* w, int count) { return load_bf16_first(w, count); }
QB_INLINE F32 first_weights_at(const float* w, int count) { return load_first(w, count); }

constexpr size_t kCacheLine = 64;

// The weight rows are cut into kStreams runs that are read side by side: an activation that is loaded serves a row of
// each, and several streams keep more lines of memory on the way than one. kUnroll independent sums a row hide the
// latency of the multiply-add. kAhead: bytes that each stream is fetched ahead; 0: the hardware follows it by itself.
// What is left of the rows takes fewer streams, and each row is added up in the same order whatever stands beside it.
template <int kRows, int kStreams, int kUnroll, size_t kAhead, typename Weight>
void products(float* y, size_t ldy, const float* x, size_t ldx, const Weight* w, int k, int count) {
  constexpr int kStep = kUnroll * kLanes;
  const int run = count / kStreams, whole = k / kStep * kStep;
  const size_t stride = static_cast<size_t>(run) * k;
  for (int i = 0; i < run; ++i) {
    const Weight* const row = w + static_cast<size_t>(i) * k;
    F32 acc[kRows][kStreams][kUnroll];
    for (int r = 0; r < kRows; ++r) {
      for (int s = 0; s < kStreams; ++s) {
        for (int u = 0; u < kUnroll; ++u) acc[r][s][u] = zero();
      }
    }
    int j = 0;
    for (; j < whole; j += kStep) {
      for (int u = 0; u < kUnroll; ++u) {
        F32 v[kStreams];
        for (int s = 0; s < kStreams; ++s) {
          const Weight* const at = row + s * stride + j + u * kLanes;
          if constexpr (kAhead > 0) {
            if (static_cast<size_t>(u) * kLanes * sizeof(Weight) % kCacheLine == 0) prefetch<kAhead>(at);
          }
          v[s] = weights_at(at);
        }
        for (int r = 0; r < kRows; ++r) {
          const F32 of_x = load(x + r * ldx + j + static_cast<size_t>(u) * kLanes);
          for (int s = 0; s < kStreams; ++s) acc[r][s][u] = fma(v[s], of_x, acc[r][s][u]);
        }
      }
    }
    for (; j < k; j += kLanes) {
      const int left = least(k - j, kLanes);
      for (int s = 0; s < kStreams; ++s) {
        const F32 v = first_weights_at(row + s * stride + j, left);
        for (int r = 0; r < kRows; ++r) acc[r][s][0] = fma(v, load_first(x + r * ldx + j, left), acc[r][s][0]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int s = 0; s < kStreams; ++s) {
        F32 total = acc[r][s][0];
        for (int u = 1; u < kUnroll; ++u) total = add(total, acc[r][s][u]);
        y[r * ldy + static_cast<size_t>(s) * run + i] = sum(total);
      }
    }
  }
  if constexpr (kStreams > 1) {
    const int done = run * kStreams;
    products<kRows, kStreams / 2, kUnroll, kAhead>(y + done, ldy, x, ldx, w + static_cast<size_t>(done) * k, k,
                                                   count - done);
  }
}

// Up to here a row of activations stays in the first-level cache beside one or two streams of weights. At k = 16384 its
// 64 KB come from the second level, and serve eight.
constexpr int kLongRow = 2048;

// As many as there are registers for the sums, the weights and an activation.
constexpr int streams_of(int rows) {
  constexpr int kFree = (kLanes == 16 ? 32 : 16) - 4, kMost = 4;
  const int most = kFree / (rows + 1);
  return most < 1 ? 1 : most > kMost ? kMost : most;
}

template <int kRows, bool kFetches, typename Weight>
void products_of(float* y, size_t ldy, const float* x, size_t ldx, const Weight* w, int k, int count) {
  if constexpr (kRows == 1) {
    // Zen 4, two cores, GB/s where reading gives 44 to 50: k = 2048 47 to 49 with two streams, 45 with one, 20 with one
    // that is fetched 4 KB ahead; k = 16384 47 with eight streams, 41 with four, 35 with three that are fetched 2.5 KB
    // ahead. What Zen 5 was measured with is what it has: docs/performance.md.
    if (k > kLongRow)
      return products < 1, kFetches ? 3 : 8, kFetches ? 2 : 1, kFetches ? 2560 : 0 > (y, ldy, x, ldx, w, k, count);
    return products < 1, kFetches ? 1 : 2, 4, kFetches ? 4096 : 0 > (y, ldy, x, ldx, w, k, count);
  } else if constexpr (kFetches) {
    products<kRows, 1, kRows <= 4 ? 2 : 1, 4096>(y, ldy, x, ldx, w, k, count);
  } else {
    // k = 8192: 33 GB/s where reading gives 33; 24 with one stream, fetched ahead or not.
    products<kRows, streams_of(kRows), 1, 0>(y, ldy, x, ldx, w, k, count);
  }
}

template <bool kFetches, typename Weight>
void dispatch(float* y, size_t ldy, const float* x, size_t ldx, int rows, const Weight* w, int k, int count) {
  switch (rows) {
    case 1: return products_of<1, kFetches>(y, ldy, x, ldx, w, k, count);
    case 2: return products_of<2, kFetches>(y, ldy, x, ldx, w, k, count);
    case 3: return products_of<3, kFetches>(y, ldy, x, ldx, w, k, count);
    case 4: return products_of<4, kFetches>(y, ldy, x, ldx, w, k, count);
    case 5: return products_of<5, kFetches>(y, ldy, x, ldx, w, k, count);
    case 6: return products_of<6, kFetches>(y, ldy, x, ldx, w, k, count);
    case 7: return products_of<7, kFetches>(y, ldy, x, ldx, w, k, count);
    default: return products_of<8, kFetches>(y, ldy, x, ldx, w, k, count);
  }
}

}  // namespace

void few_rows_f16(float* y, size_t ldy, const float* x, size_t ldx, int rows, const uint16_t* w, int k, int first,
                  int last, bool fetches) {
  (fetches ? dispatch<true, uint16_t> : dispatch<false, uint16_t>)(y, ldy, x, ldx, rows,
                                                                   w + static_cast<size_t>(first) * k, k, last - first);
}

void few_rows_bf16(float* y, size_t ldy, const float* x, size_t ldx, int rows, const Bf16* w, int k, int first,
                   int last, bool fetches) {
  (fetches ? dispatch<true, Bf16> : dispatch<false, Bf16>)(y, ldy, x, ldx, rows, w + static_cast<size_t>(first) * k, k,
                                                           last - first);
}

void few_rows_f32(float* y, size_t ldy, const float* x, size_t ldx, int rows, const float* w, int k, int first,
                  int last, bool fetches) {
  (fetches ? dispatch<true, float> : dispatch<false, float>)(y, ldy, x, ldx, rows, w + static_cast<size_t>(first) * k,
                                                             k, last - first);
}

}  // namespace quantbench::cpu::QB_ISA
