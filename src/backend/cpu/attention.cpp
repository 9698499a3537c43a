// Attention over the fp16 cache. A vector lane is a position when scores are made (keys lie in tiles of 16 positions,
// so no horizontal sums), an element of the head when values are added. Positions are taken 256 at a time with a
// running maximum and sum (Milakov and Gimelshein 2018), so scratch does not grow with the context.
#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {
namespace {

constexpr int kQueriesAtOnce = 4;

// s[i][position - begin] = scale · q[i]·k[position] for kCount queries over the tile of `width` positions at `tile`.
template <int kCount>
QB_INLINE void score_tile(float* s, const float* const* q, const uint16_t* tile, int width, int head_dim, float scale) {
  for (int lane = 0; lane < width; lane += kLanes) {
    F32 acc[kCount];
    for (int i = 0; i < kCount; ++i) acc[i] = zero();
    const int left = least(kLanes, width - lane);
    if (width == kTile) {
      for (int d = 0; d < head_dim; ++d) {
        const F32 k = to_f32(load_half(tile + static_cast<size_t>(d) * kTile + lane));
        for (int i = 0; i < kCount; ++i) acc[i] = fma(k, set1(q[i][d]), acc[i]);
      }
    } else {
      for (int d = 0; d < head_dim; ++d) {
        const F32 k = to_f32(load_half_first(tile + static_cast<size_t>(d) * width + lane, left));
        for (int i = 0; i < kCount; ++i) acc[i] = fma(k, set1(q[i][d]), acc[i]);
      }
    }
    for (int i = 0; i < kCount; ++i) {
      store_first(s + static_cast<size_t>(i) * kAttendPositions + lane, mul(acc[i], set1(scale)), left);
    }
  }
}

// out[i][lanes of `d`] += Σ p[i][position] · v[position][lanes], `count` positions.
template <int kCount>
QB_INLINE void add_values(float* const* out, const float* p, const uint16_t* v, int head_dim, int count) {
  constexpr int kVectors = 4;
  int d = 0;
  for (; d + kVectors * kLanes <= head_dim; d += kVectors * kLanes) {
    F32 acc[kCount][kVectors];
    for (int i = 0; i < kCount; ++i) {
      for (int u = 0; u < kVectors; ++u) acc[i][u] = load(out[i] + d + static_cast<size_t>(u) * kLanes);
    }
    for (int t = 0; t < count; ++t) {
      const uint16_t* row = v + static_cast<size_t>(t) * head_dim + d;
      for (int u = 0; u < kVectors; ++u) {
        const F32 value = to_f32(load_half(row + static_cast<size_t>(u) * kLanes));
        for (int i = 0; i < kCount; ++i) acc[i][u] = fma(value, set1(p[i * kAttendPositions + t]), acc[i][u]);
      }
    }
    for (int i = 0; i < kCount; ++i) {
      for (int u = 0; u < kVectors; ++u) store(out[i] + d + static_cast<size_t>(u) * kLanes, acc[i][u]);
    }
  }
  for (; d < head_dim; d += kLanes) {
    const int left = least(kLanes, head_dim - d);
    F32 acc[kCount];
    for (int i = 0; i < kCount; ++i) acc[i] = load_first(out[i] + d, left);
    for (int t = 0; t < count; ++t) {
      const uint16_t* row = v + static_cast<size_t>(t) * head_dim + d;
      const F32 value = to_f32(left == kLanes ? load_half(row) : load_half_first(row, left));
      for (int i = 0; i < kCount; ++i) acc[i] = fma(value, set1(p[i * kAttendPositions + t]), acc[i]);
    }
    for (int i = 0; i < kCount; ++i) store_first(out[i] + d, acc[i], left);
  }
}

// Scores become weights e^(s - max) for the first `seen` of `count` positions, 0 for the rest; earlier sums are brought
// to the new maximum.
QB_INLINE void soften(float* s, int seen, int count, float* most, float* total, float* out, int head_dim) {
  F32 top = set1(*most);
  for (int t = 0; t < seen; t += kLanes) {
    const int left = least(kLanes, seen - t);
    if (left == kLanes) {
      top = max(load(s + t), top);
    } else {
      for (int l = 0; l < left; ++l) top = max(set1(s[t + l]), top);
    }
  }
  const float now = largest(top);
  if (now > *most && *total > 0) {
    const F32 factor = exp(set1(*most - now));
    for (int d = 0; d < head_dim; d += kLanes) {
      const int left = least(kLanes, head_dim - d);
      store_first(out + d, mul(load_first(out + d, left), factor), left);
    }
    alignas(64) float lanes[kLanes];
    store(lanes, factor);
    *total *= lanes[0];
  }
  *most = now;
  F32 acc = zero();
  for (int t = 0; t < count; t += kLanes) {
    const int left = least(kLanes, count - t), in_sight = least(kLanes, seen - t);
    alignas(64) float weights[kLanes] = {};
    if (in_sight > 0) store_first(weights, exp(sub(load_first(s + t, in_sight), set1(now))), in_sight);
    const F32 w = load(weights);
    acc = add(acc, w);
    store_first(s + t, w, left);
  }
  *total += sum(acc);
}

// s[position − begin] += the bias at its distance from the query, for positions [begin, end).
QB_INLINE void add_bias(float* s, const float* bias, int reach, int query, int begin, int end) {
  const int near = least(end, query - reach > begin ? query - reach : begin);
  int far = least(end, query + reach + 1);
  if (far < near) far = near;
  int t = begin;
  for (; t < near; ++t) s[t - begin] += bias[0];
  const float* const at = bias + reach - query;
  for (; t + kLanes <= far; t += kLanes) store(s + (t - begin), add(load(s + (t - begin)), load(at + t)));
  for (; t < far; ++t) s[t - begin] += at[t];
  for (; t < end; ++t) s[t - begin] += bias[size_t{2} * reach];
}

template <int kCount>
QB_INLINE void score(float* s, const float* const* q, const AttendBlock& block, int begin, int end) {
  for (int t = begin; t < end; t += kTile) {
    const int width = least(kTile, block.positions - t);
    score_tile<kCount>(s + (t - begin), q, block.k + static_cast<size_t>(t) * block.head_dim, width, block.head_dim,
                       block.scale);
  }
}

}  // namespace

void attend(const AttendBlock& block, float* scratch) {
  const int head_dim = block.head_dim;
  float* const scores = scratch;  // [kAttendQueries][kAttendPositions]
  float most[kAttendQueries], total[kAttendQueries];
  int longest = 0;
  for (int i = 0; i < block.count; ++i) {
    most[i] = -__builtin_inff();
    total[i] = 0;
    longest = block.length[i] > longest ? block.length[i] : longest;
    for (int d = 0; d < head_dim; ++d) block.out[i][d] = 0;
  }
  for (int begin = 0; begin < longest; begin += kAttendPositions) {
    const int end = least(longest, begin + kAttendPositions), count = end - begin;
    for (int i = 0; i < block.count; i += kQueriesAtOnce) {
      float* const s = scores + static_cast<size_t>(i) * kAttendPositions;
      switch (block.count - i) {
        case 1: score<1>(s, block.q + i, block, begin, end); break;
        case 2: score<2>(s, block.q + i, block, begin, end); break;
        case 3: score<3>(s, block.q + i, block, begin, end); break;
        default: score<4>(s, block.q + i, block, begin, end); break;
      }
    }
    for (int i = 0; i < block.count; ++i) {
      const int seen = block.length[i] - begin;
      float* const s = scores + static_cast<size_t>(i) * kAttendPositions;
      if (block.bias && seen > 0) {
        add_bias(s, block.bias, block.reach, block.position[i], begin, end);
      }
      if (seen > 0) {
        soften(s, least(seen, count), count, most + i, total + i, block.out[i], head_dim);
      } else {
        for (int t = 0; t < count; ++t) s[t] = 0;
      }
    }
    const uint16_t* v = block.v + static_cast<size_t>(begin) * head_dim;
    for (int i = 0; i < block.count; i += kQueriesAtOnce) {
      const float* p = scores + static_cast<size_t>(i) * kAttendPositions;
      switch (block.count - i) {
        case 1: add_values<1>(block.out + i, p, v, head_dim, count); break;
        case 2: add_values<2>(block.out + i, p, v, head_dim, count); break;
        case 3: add_values<3>(block.out + i, p, v, head_dim, count); break;
        default: add_values<4>(block.out + i, p, v, head_dim, count); break;
      }
    }
  }
  for (int i = 0; i < block.count; ++i) {
    for (int d = 0; d < head_dim; ++d) block.out[i][d] /= total[i];
  }
}

}  // namespace quantbench::cpu::QB_ISA
