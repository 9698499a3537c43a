// Attention of many rows on tensor cores, after FlashAttention-2 (Dao 2023): a block takes one q head of a tile of
// rows, 16 rows a warp, and goes through the keys and values a tile at a time, the softmax kept running; scores never
// leave registers. Where such blocks would be few, warps have the same rows and a tile of keys each, and what they give
// is put together at the end. Queries are two fp16 numbers each, x ≈ high + low, so that scores are as good as those of
// fp32 queries; the softmax's weights are rounded to fp16.
//
// Rows may stand at any position of any sequence: sequences are gone through one after another, and rows of another
// one are masked. A prompt has one.
#include <cmath>

#include "backend/cuda/flash_attention.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/row.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

// kSharers: warps that have the same rows.
template <int kDim, int kRowWarps, int kSharers>
struct Shape {
  static constexpr bool kSharedQueries = kDim > 128;  // else in registers
  static constexpr int kWarps = kRowWarps * kSharers;
  static constexpr int kTile = (kDim > 128 ? 16 : kDim > 96 ? 32 : 64) / (kDim > 128 ? 1 : kSharers);  // keys of a warp
  static constexpr int kKeys = kTile * kSharers;                                                       // of the block
  static constexpr int kStages = kDim > 128 ? 1 : 2;
  static constexpr int kRows = 16 * kRowWarps, kThreads = kWarps * kWarpSize;
  static constexpr int kStride = kDim + 8;  // numbers; so that eight rows meet no bank twice
  static constexpr size_t kTileNumbers = size_t{kKeys} * kStride;
  static constexpr size_t kQueryNumbers = kSharedQueries ? size_t{2} * kRows * kStride : 0;
  static constexpr size_t kBytes = (kQueryNumbers + 2 * kStages * kTileNumbers) * sizeof(uint16_t);
  static constexpr size_t kJoinedBytes = kSharers * kRows * (size_t{kStride} + 2) * sizeof(float);  // of all sharers
  static_assert(kSharers == 1 || kJoinedBytes <= kBytes);
};
// What is in flight and in shared memory stays below the 64 KB of compute capability 7.5, but for what newer ones run
// alone.
constexpr size_t kTuringBytes = size_t{63} << 10;

QB_DEVICE int warp_least(int value) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const int other = from_lane_xor(value, mask);
    value = other < value ? other : value;
  }
  return value;
}

// Two numbers as two fp16 pairs, x ≈ high + low.
QB_DEVICE void split(float x0, float x1, uint32_t* high, uint32_t* low) {
  const uint16_t h0 = half_of_float(x0), h1 = half_of_float(x1);
  *high = h0 | uint32_t{h1} << 16;
  *low = halves(x0 - float_of_half(h0), x1 - float_of_half(h1));
}

// kReal: numbers of a head, of which those up to kDim are taken for 0.
template <typename S, int kDim, int kReal>
QB_DEVICE void load_tile(uint16_t* to, const uint16_t* from, int first, int length) {
  static_assert(kReal % 8 == 0);
  constexpr int kPieces = kDim / 8;
  if constexpr (S::kThreads % kPieces == 0 && kDim == kReal) {
    // A thread's pieces lie below one another.
    constexpr int kStep = S::kThreads / kPieces;
    static_assert(S::kKeys % kStep == 0);
    const int piece = thread_index() % kPieces, position = thread_index() / kPieces;
    const uint16_t* const own = from + static_cast<size_t>(first + position) * kReal + piece * 8;
    uint16_t* const place = to + position * S::kStride + piece * 8;
#pragma unroll
    for (int i = 0; i < S::kKeys; i += kStep)
      copy16_async(place + i * S::kStride, own + i * kReal, first + position + i < length);
    return;
  }
  for (int i = thread_index(); i < S::kKeys * kPieces; i += S::kThreads) {
    const int position = i / kPieces, piece = i % kPieces;
    const bool real = first + position < length && piece < kReal / 8;
    copy16_async(to + position * S::kStride + piece * 8,
                 from + (real ? static_cast<size_t>(first + position) * kReal + piece * 8 : 0), real);
  }
}

// grid: x: q head; y: tile of rows, the last first, since it has the most to do.
template <int kDim, int kReal, bool kBias, int kRowWarps, int kSharers>
__global__ void __launch_bounds__(Shape<kDim, kRowWarps, kSharers>::kThreads)
    flash_kernel(const __grid_constant__ FlashArgs a) {
  using S = Shape<kDim, kRowWarps, kSharers>;
#if !defined(QB_CUDA_EMULATED) && __CUDA_ARCH__ < 800
  if constexpr (S::kBytes > kTuringBytes) return;
#endif
  constexpr int kSteps = kDim / 16, kDimTiles = kDim / 8, kKeyTiles = S::kTile / 8;
  // Sums of a score that are added up at the end, so that a product waits for none right before it where tiles are few.
  constexpr int kChains = S::kSharedQueries ? 4 : 1;
  __shared__ int positions[S::kRows], sequences[S::kRows];  // the last that a row sees
  wait_for_previous();
  let_next_start();
  const int head = block_x(), kv_head = head / (a.q_heads / a.kv.heads);
  const int first_row = ((a.rows + S::kRows - 1) / S::kRows - 1 - block_y()) * S::kRows;
  const int lane = lane_index(), g = lane / 4, t = lane % 4, matrix = lane / 8, matrix_row = lane % 8;
  auto* const shared_q = reinterpret_cast<uint16_t*>(dynamic_shared());  // high [kRows, kStride], then low
  uint16_t* const keys = shared_q + S::kQueryNumbers;                    // [kStages, kKeys, kStride]
  uint16_t* const values = keys + S::kStages * S::kTileNumbers;
  static_assert(S::kRows <= S::kThreads);
  int row_position = -1, row_sequence = -1;
  if (thread_index() < S::kRows && first_row + thread_index() < a.rows) {
    const int row = first_row + thread_index();
    row_position = a.lengths ? a.lengths[row] - 1 : a.places.position[row];
    row_sequence = a.places.sequence[row];
  }

  // Queries, in units in which the softmax is a power of two.
  const float scale = a.scale * kLog2E;
  const size_t row_numbers = static_cast<size_t>(a.q_heads) * kReal;
  const auto query = [&](int row, int dim, uint32_t* high, uint32_t* low) {
    float x0 = 0, x1 = 0;
    if (first_row + row < a.rows && dim < kReal) {
      const Pair q = *reinterpret_cast<const Pair*>(a.q + (first_row + row) * row_numbers + head * kReal + dim);
      x0 = q.x * scale;
      x1 = q.y * scale;
    }
    split(x0, x1, high, low);
  };
  const int own_row = warp_index() % kRowWarps * 16 + g, own_key = warp_index() / kRowWarps * S::kTile;
  uint32_t q_high[S::kSharedQueries ? 1 : kSteps][4], q_low[S::kSharedQueries ? 1 : kSteps][4];
  if constexpr (S::kSharedQueries) {
    // All of a thread's before any is stored, so that they are on their way together.
    constexpr int kEach = S::kRows * kDim / 2 / S::kThreads;
    static_assert(kEach * S::kThreads == S::kRows * kDim / 2);
    uint32_t high[kEach], low[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int pair = thread_index() + i * S::kThreads;
      query(pair / (kDim / 2), pair % (kDim / 2) * 2, &high[i], &low[i]);
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int pair = thread_index() + i * S::kThreads, row = pair / (kDim / 2), dim = pair % (kDim / 2) * 2;
      *reinterpret_cast<uint32_t*>(shared_q + row * S::kStride + dim) = high[i];
      *reinterpret_cast<uint32_t*>(shared_q + (S::kRows + row) * S::kStride + dim) = low[i];
    }
  } else {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) query(own_row + i % 2 * 8, s * 16 + 2 * t + i / 2 * 8, &q_high[s][i], &q_low[s][i]);
    }
  }
  if (thread_index() < S::kRows) {
    positions[thread_index()] = row_position;
    sequences[thread_index()] = row_sequence;
  }
  sync_block();

  const int own_position[2] = {positions[own_row], positions[own_row + 8]};
  const int own_sequence[2] = {sequences[own_row], sequences[own_row + 8]};
  int own_place[2] = {};
  if constexpr (kBias) {
    for (int i = 0; i < 2; ++i) {
      const int row = first_row + own_row + 8 * i;
      own_place[i] = row < a.rows ? a.places.position[row] : 0;
    }
  }
  float out[kDimTiles][4] = {};
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {};  // total: of this lane's keys

  constexpr int kNone = 0x7fffffff;
  for (int sequence = -1;;) {
    int next = kNone;
    for (int i = lane; i < S::kRows; i += kWarpSize) {
      if (sequences[i] > sequence && sequences[i] < next) next = sequences[i];
    }
    sequence = warp_least(next);
    if (sequence == kNone) break;
    int least = 0;
    for (int i = lane; i < S::kRows; i += kWarpSize) {
      if (sequences[i] == sequence && -positions[i] - 1 < least) least = -positions[i] - 1;
    }
    const int length = -warp_least(least);  // positions that any row of this sequence sees
    const size_t at = (static_cast<size_t>(sequence) * a.kv.heads + kv_head) * a.kv.positions * kReal;
    int limit[2];  // the last position that the row sees
    for (int i = 0; i < 2; ++i) limit[i] = own_sequence[i] == sequence ? own_position[i] : -1;

    // Keys and values of a tile, each behind a mark of its own.
    const auto load = [&](uint16_t* to, const uint16_t* from, int tile) {
      const size_t stage = static_cast<size_t>(tile % S::kStages) * S::kTileNumbers;
      load_tile<S, kDim, kReal>(to + stage, from + at, tile * S::kKeys, length);
      close_copies();
    };
    const auto load_keys = [&](int tile) { load(keys, a.kv.k, tile); };
    const auto load_values = [&](int tile) { load(values, a.kv.v, tile); };
    const int tiles = (length + S::kKeys - 1) / S::kKeys;
    load_keys(0);
    load_values(0);
    for (int tile = 0; tile < tiles; ++tile) {
      const bool more = tile + 1 < tiles;
      if (S::kStages == 1) {
        wait_for_copies<1>();  // the values may come later
      } else if (more) {
        load_keys(tile + 1);
        load_values(tile + 1);
        wait_for_copies<2>();
      } else {
        wait_for_copies<0>();
      }
      sync_block();
      const size_t stage = static_cast<size_t>(tile % S::kStages) * S::kTileNumbers;
      float chains[kChains][kKeyTiles][4] = {};
      auto& score = chains[0];
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        uint32_t high[4], low[4];
        if constexpr (S::kSharedQueries) {
          const size_t place = static_cast<size_t>(own_row - g + matrix % 2 * 8 + matrix_row) * S::kStride +
                               static_cast<size_t>(s * 16 + matrix / 2 * 8);
          load_matrices(high, shared_q + place);
          load_matrices(low, shared_q + S::kRows * S::kStride + place);
        } else {
          for (int i = 0; i < 4; ++i) high[i] = q_high[s][i], low[i] = q_low[s][i];
        }
        uint32_t b[kKeyTiles / 2][4];
#pragma unroll
        for (int j = 0; j < kKeyTiles; j += 2) {
          load_matrices(b[j / 2], keys + stage + (own_key + (j + matrix / 2) * 8 + matrix_row) * S::kStride + s * 16 +
                                      matrix % 2 * 8);
        }
        // All of one half before the other, so that no product waits for the one right before it.
        auto &of_high = chains[s % 2 * 2 % kChains], &of_low = chains[(s % 2 * 2 + 1) % kChains];
#pragma unroll
        for (int j = 0; j < kKeyTiles; ++j) mma_f16(of_high[j], high, {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]});
#pragma unroll
        for (int j = 0; j < kKeyTiles; ++j) mma_f16(of_low[j], low, {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]});
      }
      if constexpr (kChains == 4) {
#pragma unroll
        for (int j = 0; j < kKeyTiles; ++j) {
          for (int i = 0; i < 4; ++i) score[j][i] += chains[2][j][i] + (chains[1][j][i] + chains[3][j][i]);
        }
      }
      float keep[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // rows g and g + 8
        float largest = most[i];
#pragma unroll
        for (int j = 0; j < 2 * kKeyTiles; ++j) {
          const int position = tile * S::kKeys + own_key + j / 2 * 8 + 2 * t + j % 2;
          float& x = score[j / 2][2 * i + j % 2];
          if constexpr (kBias) {
            if (position <= limit[i]) x += kLog2E * bias_of(a.bias, a.q_heads, position - own_place[i], head);
          }
          if (position > limit[i]) x = -INFINITY;
          largest = x > largest ? x : largest;
        }
        for (int mask = 1; mask < 4; mask *= 2) {  // the row's other lanes
          const float other = from_lane_xor(largest, mask);
          largest = other > largest ? other : largest;
        }
        const float base = largest == -INFINITY ? 0.0f : largest;  // a row that has seen nothing yet
        keep[i] = power_of_two(most[i] - base);
        most[i] = largest;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < 2 * kKeyTiles; ++j) {
          float& x = score[j / 2][2 * i + j % 2];
          x = power_of_two(x - base);
          sum += x;
        }
        total[i] = total[i] * keep[i] + sum;
      }
#pragma unroll
      for (int j = 0; j < kDimTiles; ++j) {
        for (int i = 0; i < 4; ++i) out[j][i] *= keep[i / 2];
      }
      if (S::kStages == 1) {
        wait_for_copies<0>();
        sync_block();  // the values are there, and the keys are read
        if (more) load_keys(tile + 1);
      }
#pragma unroll
      for (int s = 0; s < S::kTile / 16; ++s) {
        const float(&p)[4] = score[2 * s];
        const float(&r)[4] = score[2 * s + 1];
        const uint32_t weights[4] = {halves(p[0], p[1]), halves(p[2], p[3]), halves(r[0], r[1]), halves(r[2], r[3])};
#pragma unroll
        for (int j = 0; j < kDimTiles; j += 2) {
          uint32_t b[4];
          load_matrices_transposed(
              b, values + stage + (own_key + s * 16 + matrix % 2 * 8 + matrix_row) * S::kStride + (j + matrix / 2) * 8);
          mma_f16(out[j], weights, {b[0], b[1]});
          mma_f16(out[j + 1], weights, {b[2], b[3]});
        }
      }
      sync_block();  // before the next tile takes the place of this one
      if (S::kStages == 1 && more) load_values(tile + 1);
    }
  }

  for (int i = 0; i < 2; ++i) {
    for (int mask = 1; mask < 4; mask *= 2) total[i] += from_lane_xor(total[i], mask);
  }
  const auto put = [&](int row, int dim, float x0, float x1) {
    *reinterpret_cast<Pair*>(a.a + row * row_numbers + head * kReal + dim) = {x0, x1};
    leave_ready(a.ready, row, head * kReal + dim, x0, x1);
  };
  if constexpr (kSharers > 1) {
    // Each leaves its largest scores and sums of weights, then its share of the rows; always added in the same order.
    auto* const joined = reinterpret_cast<float*>(dynamic_shared());  // [kSharers, kRows, kStride]
    auto* const heads = reinterpret_cast<Pair*>(joined + kSharers * S::kRows * S::kStride);  // [kSharers, kRows]
    const int sharer = warp_index() / kRowWarps;
    for (int i = 0; i < 2; ++i) {
      if (t == 0) heads[sharer * S::kRows + own_row + 8 * i] = {most[i], total[i]};
    }
    sync_block();
    for (int i = 0; i < 2; ++i) {
      float largest = -INFINITY, sum = 0;
      for (int k = 0; k < kSharers; ++k) {
        const float other = heads[k * S::kRows + own_row + 8 * i].x;
        largest = other > largest ? other : largest;
      }
      if (largest == -INFINITY) largest = 0;  // no row of the prompt
      for (int k = 0; k < kSharers; ++k) {
        const Pair other = heads[k * S::kRows + own_row + 8 * i];
        sum += other.y * power_of_two(other.x - largest);
      }
      const float factor = power_of_two(most[i] - largest) / sum;
      float* const to = joined + (sharer * S::kRows + own_row + 8 * i) * S::kStride + 2 * t;
#pragma unroll
      for (int j = 0; j < kReal / 8; ++j)
        *reinterpret_cast<Pair*>(to + j * 8) = {out[j][2 * i] * factor, out[j][2 * i + 1] * factor};
    }
    sync_block();
    constexpr int kPairs = kReal / 2;
    for (int i = thread_index(); i < S::kRows * kPairs; i += S::kThreads) {
      const int row = i / kPairs, dim = i % kPairs * 2;
      if (first_row + row >= a.rows) break;
      Pair sum = {0, 0};
      for (int k = 0; k < kSharers; ++k) {
        const Pair part = *reinterpret_cast<const Pair*>(joined + (k * S::kRows + row) * S::kStride + dim);
        sum = {sum.x + part.x, sum.y + part.y};
      }
      put(first_row + row, dim, sum.x, sum.y);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = first_row + own_row + 8 * i;
    if (row >= a.rows) continue;
    const float factor = 1 / total[i];
#pragma unroll
    for (int j = 0; j < kReal / 8; ++j) put(row, j * 8 + 2 * t, out[j][2 * i] * factor, out[j][2 * i + 1] * factor);
  }
}

template <int kDim, int kReal = kDim, bool kBias = false, int kRowWarps = 4, int kSharers = 1>
void attend_heads(const FlashArgs& args, const Stream& stream) {
  using S = Shape<kDim, kRowWarps, kSharers>;
  static_assert(S::kBytes <= kTuringBytes || kSharers == 4);
  launch(flash_kernel<kDim, kReal, kBias, kRowWarps, kSharers>, {args.q_heads, (args.rows + S::kRows - 1) / S::kRows},
         S::kThreads, stream, args, S::kBytes);
}

}  // namespace

bool has_flash(int head_dim, bool biased) {
  if (biased) return head_dim == 64;
  return head_dim == 64 || head_dim == 72 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}

void attend_flash(const FlashArgs& args, const Room& room, const Stream& stream) {
  switch (args.kv.head_dim) {
    case 64:
      if (args.bias.values) return attend_heads<64, 64, true>(args, stream);
      return attend_heads<64>(args, stream);
    case 72: return attend_heads<80, 72, false, 2, 2>(args, stream);  // SigLIP's 16 heads
    case 80: return attend_heads<80>(args, stream);
    case 96: return attend_heads<96>(args, stream);
    case 128: return attend_heads<128>(args, stream);
    case 256:  // Gemma's 8
      if (room.compiled_for >= 80 && Shape<256, 1, 4>::kBytes <= room.shared_bytes)
        return attend_heads<256, 256, false, 1, 4>(args, stream);
      return attend_heads<256, 256, false, 1, 2>(args, stream);
    default: return;
  }
}

}  // namespace quantbench::QB_CUDA
