// Rotary embedding into the cache, and attention over it.
//
// A block takes the q heads that share a key/value head, and some of the positions: scores first, a position a thread;
// then the values, a pair of dimensions a lane and every eighth position a warp. The softmax is kept running from piece
// to piece. With few rows the positions are shared out among blocks, and the one that comes last adds up what the
// others found, in the order of the positions.
#include <cmath>

#include "backend/cuda/block.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/row.cuh"
#include "backend/cuda/sum_by_halves.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kGroup = 4;         // q heads of a block
constexpr int kPiece = kThreads;  // positions whose scores are there at a time
constexpr int kLeastShare = 128;  // positions of a block, where they are shared out
constexpr int kMostShares = 32;   // blocks that a row's positions are shared out among
constexpr int kAhead = 4;         // loads of keys or values that are on the way together
constexpr int kPairsPerLane = kMostHeadDim / 2 / kWarpSize;

QB_DEVICE size_t head_at(const Cache& kv, int sequence, int head) {
  return (static_cast<size_t>(sequence) * kv.heads + head) * kv.positions * kv.head_dim;
}

// Element i of a head, rotated: pairs (i, i + dims/2).
QB_DEVICE float rotated(const float* head, int i, int dims, const float* cos, const float* sin) {
  const int half = dims / 2;
  if (i < half) return head[i] * cos[i] - head[i + half] * sin[i];
  if (i < dims) return head[i] * cos[i - half] + head[i - half] * sin[i - half];
  return head[i];
}

// A block a row.
__global__ void __launch_bounds__(kThreads) store_kernel(const __grid_constant__ StoreArgs a) {
  wait_for_previous();
  let_next_start();
  const int row = block_x(), d = a.kv.head_dim, position = a.places.position[row], dims = a.rotation.dims,
            half = dims / 2;
  const bool rotates = a.rotation.cos != nullptr;
  const float* const cos = a.rotation.cos + static_cast<size_t>(position) * half;
  const float* const sin = a.rotation.sin + static_cast<size_t>(position) * half;
  if (rotates) {
    float* const q = a.q + static_cast<size_t>(row) * a.q_heads * d;
    for (int i = thread_index(); i < a.q_heads * half; i += kThreads) {
      float* const head = q + i / half * d;
      const int pair = i % half;
      const float first = rotated(head, pair, dims, cos, sin), second = rotated(head, pair + half, dims, cos, sin);
      head[pair] = first;
      head[pair + half] = second;
    }
  }
  const int width = a.kv.heads * d;
  const float* const k = a.k + static_cast<size_t>(row) * width;
  const float* const v = a.v + static_cast<size_t>(row) * width;
  for (int i = thread_index(); i < width; i += kThreads) {
    const int head = i / d, at = i % d;
    const size_t to = head_at(a.kv, a.places.sequence[row], head) + static_cast<size_t>(position) * d + at;
    a.kv.k[to] = half_of_float(rotates ? rotated(k + head * d, at, dims, cos, sin) : k[i]);
    a.kv.v[to] = half_of_float(v[i]);
  }
}

// What is known of one q head after some positions: the largest score, and sums in units of e^most.
struct Running {
  float most, total;
};

// What a block found for a q head, in a.parts: [2 + head_dim] most, total, sums.
QB_DEVICE float* part_of(const AttendArgs& a, int row, int head, int share) {
  return a.parts + ((static_cast<size_t>(row) * a.q_heads + head) * kMostShares + share) * (2 + a.kv.head_dim);
}

// Positions of a block: cut by the capacity of the cache, so that the cut does not depend on how far the sequence has
// come; a multiple of `turn`.
QB_DEVICE int share_of(int positions, int shares, int turn) {
  const int cut = (positions + shares - 1) / shares;
  return (cut + turn - 1) / turn * turn;
}

// Positions that a row sees, from 0 on.
QB_DEVICE int length_of(const AttendArgs& a, int row) {
  return a.lengths ? a.lengths[row] : a.places.position[row] + 1;
}

QB_DEVICE void prefetch_share(const AttendArgs& a, int row, int kv_head, int begin, int positions) {
  constexpr int kLine = 128 / static_cast<int>(sizeof(uint16_t));
  const int length = length_of(a, row) - 1, end = begin + positions < length ? begin + positions : length;
  const size_t head = head_at(a.kv, a.places.sequence[row], kv_head);
  const size_t last = head + static_cast<size_t>(end) * a.kv.head_dim;
  const size_t first = head + static_cast<size_t>(begin) * a.kv.head_dim + static_cast<size_t>(thread_index()) * kLine;
  for (size_t i = first; i < last; i += kThreads * kLine) {
    prefetch_to_l2(a.kv.k + i);
    prefetch_to_l2(a.kv.v + i);
  }
}

// Output `column` of a row.
QB_DEVICE void put(const AttendArgs& a, int row, int column, float value) {
  a.a[static_cast<size_t>(row) * a.q_heads * a.kv.head_dim + column] = value;
  leave_ready(a.ready, row, column, value);
}

// grid: x: key/value head and kGroup of the q heads that share it; y: row; z: share of the positions.
__global__ void __launch_bounds__(kThreads) attend_kernel(const __grid_constant__ AttendArgs a) {
  __shared__ float q[kGroup][kMostHeadDim], weights[kGroup][kPiece], sums[kWarps][kGroup][kMostHeadDim];
  __shared__ int before;
  let_next_start();
  const int d = a.kv.head_dim, group = a.q_heads / a.kv.heads, groups = (group + kGroup - 1) / kGroup;
  const int kv_head = block_x() / groups, first_head = kv_head * group + block_x() % groups * kGroup;
  const int left = kv_head * group + group - first_head, heads = left < kGroup ? left : kGroup;
  const int of_share = share_of(a.kv.positions, blocks_z(), kPiece);
  const int row = block_y(), share = block_z(), begin = share * of_share;
  // Keys and values are long out of the caches: what is there of them comes while the kernel before still runs. The
  // position read here may be one of a step before.
  if (a.parts) prefetch_share(a, row, kv_head, begin, of_share);
  wait_for_previous();
  const int length = length_of(a, row), shares = (length + of_share - 1) / of_share;
  if (share >= shares) return;
  const int end = begin + of_share > length ? length : begin + of_share;
  const size_t at = (static_cast<size_t>(row) * a.q_heads + first_head) * d;
  const uint16_t* const keys = a.kv.k + head_at(a.kv, a.places.sequence[row], kv_head);
  const uint16_t* const values = a.kv.v + head_at(a.kv, a.places.sequence[row], kv_head);
  for (int i = thread_index(); i < heads * d; i += kThreads) q[i / d][i % d] = a.q[at + i] * a.scale;

  Running running[kGroup];
  float own[kGroup][2 * kPairsPerLane] = {};  // of this warp's positions
  for (int h = 0; h < kGroup; ++h) running[h] = {-INFINITY, 0};
  for (int piece = begin; piece < end; piece += kPiece) {
    sync_block();  // q is there; weights of the piece before are used up
    const int position = piece + thread_index();
    float score[kGroup];
    for (int h = 0; h < kGroup; ++h) score[h] = position < end ? 0.0f : -INFINITY;
    if (position < end) {
      const uint16_t* const key = keys + static_cast<size_t>(position) * d;
      const auto add = [&](int i, uint16_t half) {
        const float k = float_of_half(half);
        for (int h = 0; h < kGroup; ++h) score[h] = fmaf(q[h][i], k, score[h]);
      };
      int i = 0;
      for (; d % 8 == 0 && i < d; i += 8 * kAhead) {
        Bytes16 eight[kAhead];
#pragma unroll
        for (int n = 0; n < kAhead; ++n) {
          if (i + 8 * n < d) eight[n] = load16(key + i + 8 * n);
        }
#pragma unroll
        for (int n = 0; n < kAhead; ++n) {
          if (i + 8 * n >= d) break;
          for (int j = 0; j < 8; ++j) add(i + 8 * n + j, static_cast<uint16_t>(eight[n].word[j / 2] >> (j % 2 * 16)));
        }
      }
      for (; i < d; ++i) add(i, key[i]);
      if (a.bias.values) {
        const int apart = position - a.places.position[row];
        for (int h = 0; h < heads; ++h) score[h] = add_rn(score[h], bias_of(a.bias, a.q_heads, apart, first_head + h));
      }
    }
    float most[kGroup], total[kGroup];
    for (int h = 0; h < kGroup; ++h) most[h] = score[h];
    block_maxima<kThreads>(most);
    for (int h = 0; h < kGroup; ++h) {
      if (running[h].most > most[h]) most[h] = running[h].most;
      total[h] = expf(score[h] - most[h]);
      weights[h][thread_index()] = total[h];
    }
    block_sums<kThreads>(total);
    for (int h = 0; h < kGroup; ++h) {
      const float keep = expf(running[h].most - most[h]);
      running[h] = {most[h], fmaf(running[h].total, keep, total[h])};
      for (float& sum : own[h]) sum *= keep;
    }
    const int count = end - piece < kPiece ? end - piece : kPiece;
    for (int p = warp_index(); p < count; p += kAhead * kWarps) {
      const uint16_t* const value = values + static_cast<size_t>(piece + p) * d;
      for (int i = 0; i < kPairsPerLane; ++i) {
        const int dim = 2 * (i * kWarpSize + lane_index());
        if (dim >= d) break;
        uint32_t v[kAhead];
#pragma unroll
        for (int n = 0; n < kAhead; ++n) {
          const uint16_t* const pair = value + static_cast<size_t>(n * kWarps) * d + dim;
          if (p + n * kWarps >= count)
            v[n] = 0;
          else if (d % 2 == 0)
            v[n] = *reinterpret_cast<const uint32_t*>(pair);
          else
            v[n] = pair[0] | (dim + 1 < d ? uint32_t{pair[1]} << 16 : 0);
        }
#pragma unroll
        for (int n = 0; n < kAhead; ++n) {
          const int at_piece = p + n * kWarps;
          if (at_piece >= count) break;
          const float v0 = float_of_half(static_cast<uint16_t>(v[n])),
                      v1 = float_of_half(static_cast<uint16_t>(v[n] >> 16));
          for (int h = 0; h < kGroup; ++h) {
            own[h][2 * i] = fmaf(weights[h][at_piece], v0, own[h][2 * i]);
            own[h][2 * i + 1] = fmaf(weights[h][at_piece], v1, own[h][2 * i + 1]);
          }
        }
      }
    }
  }
  for (int h = 0; h < heads; ++h) {
    for (int i = 0; i < kPairsPerLane; ++i) {
      const int dim = 2 * (i * kWarpSize + lane_index());
      if (dim >= d) break;
      sums[warp_index()][h][dim] = own[h][2 * i];
      sums[warp_index()][h][dim + 1] = own[h][2 * i + 1];
    }
  }
  sync_block();
  for (int h = 0; h < heads; ++h) {
    float* const part = shares == 1 ? nullptr : part_of(a, row, first_head + h, share);
#pragma unroll 1
    for (int dim = thread_index(); dim < d; dim += kThreads) {
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += sums[w][h][dim];
      if (part)
        part[2 + dim] = sum;
      else
        put(a, row, (first_head + h) * d + dim, sum / running[h].total);
    }
    if (part && thread_index() == 0) {
      part[0] = running[h].most;
      part[1] = running[h].total;
    }
  }
  if (shares == 1) return;
  // All threads wrote a part; the last block to come adds up.
  int32_t* const arrived = a.arrived + row * a.q_heads + block_x();
  publish();
  sync_block();
  if (thread_index() == 0) before = arrive(arrived);
  sync_block();
  if (before != shares - 1) return;
  for (int h = 0; h < heads; ++h) {
    float most = -INFINITY;
    for (int s = 0; s < shares; ++s) {
      const float other = load_fresh(part_of(a, row, first_head + h, s));
      most = other > most ? other : most;
    }
#pragma unroll 1
    for (int dim = thread_index(); dim < d; dim += kThreads) {
      float sum = 0, total = 0;
      for (int s = 0; s < shares; ++s) {
        const float* const part = part_of(a, row, first_head + h, s);
        const float factor = expf(load_fresh(part) - most);
        total = fmaf(load_fresh(part + 1), factor, total);
        sum = fmaf(load_fresh(part + 2 + dim), factor, sum);
      }
      put(a, row, (first_head + h) * d + dim, sum / total);
    }
  }
  if (thread_index() == 0) *arrived = 0;
}

int shares_of(const AttendArgs& args) {
  const int shares = args.parts ? (args.kv.positions + kLeastShare - 1) / kLeastShare : 1;
  return shares < kMostShares ? shares : kMostShares;
}

// Blocks of a multiprocessor that registers are kept low for; 0: as the compiler sees fit. For 9.0 it would take three
// registers more than four blocks of one head of 64 have.
template <int kPieces, int kHeads>
constexpr int kBlocksByRegisters = kPieces == 4 && kHeads == 1 ? 4 : 0;

// The same for head sizes of whole lines of 16 numbers, by lanes: four a position, each with every fourth piece of four
// numbers of the key and of the value, and with a softmax of its own, which are brought together at the end; exponents
// are of 2. kPieces: of a head, a lane; kHeads: q heads of a block.
// kBias: whether a bias by distance is added.
template <int kPieces, int kHeads, bool kBias>
__global__ void __launch_bounds__(kThreads, (kBlocksByRegisters<kPieces, kHeads>))
    attend_by_lanes_kernel(const __grid_constant__ AttendArgs a) {
  constexpr int kLanes = 4, kHeadDim = kPieces * 16, kOwn = kPieces * 4, kAtOnce = kThreads / kLanes;
  constexpr float kLog2OfE = 1.442695041f;
  __shared__ Quad q[kHeads][kHeadDim / 4];
  __shared__ float parts[kWarps][kHeads][2 + kHeadDim];
  __shared__ int before;
  let_next_start();
  const int group = a.q_heads / a.kv.heads, groups = group / kHeads, kv_head = block_x() / groups;
  const int first_head = kv_head * group + block_x() % groups * kHeads;
  const int of_share = share_of(a.kv.positions, blocks_z(), kAtOnce);
  const int row = block_y(), share = block_z(), begin = share * of_share;
  if (a.parts) prefetch_share(a, row, kv_head, begin, of_share);
  touch(a);
  wait_for_previous();
  const int thread = thread_index(), warp = warp_index(), lane = lane_index(), t = lane % kLanes;
  const int length = length_of(a, row), sequence = a.places.sequence[row];
  const size_t at = (static_cast<size_t>(row) * a.q_heads + first_head) * kHeadDim;
  for (int i = thread; i < kHeads * kHeadDim / 4; i += kThreads) {
    Quad four = *reinterpret_cast<const Quad*>(a.q + at + 4 * i);
    for (float& x : four.at) x *= a.scale * kLog2OfE;
    q[i / (kHeadDim / 4)][i % (kHeadDim / 4)] = four;
  }
  const int shares = (length + of_share - 1) / of_share;
  if (share >= shares) return;
  const int end = begin + of_share > length ? length : begin + of_share;
  const size_t cache = head_at(a.kv, sequence, kv_head);
  const auto load = [&](const uint16_t* rows, int position, Bytes8(&to)[kPieces]) {
    if (position >= end) return;
    const uint16_t* const from = rows + cache + static_cast<size_t>(position) * kHeadDim;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) to[i] = load8(from + (i * kLanes + t) * 4);
  };
  float most[kHeads], total[kHeads] = {}, sum[kHeads][kOwn] = {};
  for (float& m : most) m = -INFINITY;
  Bytes8 key[kPieces] = {}, value[kPieces] = {}, next_key[kPieces] = {};
  load(a.kv.k, begin + thread / kLanes, key);
  sync_block();  // q is there
  for (int first = begin; first < end; first += kAtOnce) {
    const int position = first + thread / kLanes;
    load(a.kv.v, position, value);
    load(a.kv.k, position + kAtOnce, next_key);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float score[2] = {};
      if (position < end) {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
          const Quad four = q[h][i * kLanes + t];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const auto half = static_cast<uint16_t>(key[i].word[j / 2] >> (j % 2 * 16));
            score[j % 2] = fmaf(four.at[j], float_of_half(half), score[j % 2]);
          }
        }
      }
      float all = score[0] + score[1];
      all += from_lane_xor(all, 1);
      all += from_lane_xor(all, 2);
      if constexpr (kBias) {
        if (position < end)
          all = fmaf(bias_of(a.bias, a.q_heads, position - a.places.position[row], first_head + h), kLog2OfE, all);
      }
      if (position < end) {
        const float now = all > most[h] ? all : most[h];
        const float keep = power_of_two(most[h] - now), weight = power_of_two(all - now);
        total[h] = fmaf(total[h], keep, weight);
        most[h] = now;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          const auto half = static_cast<uint16_t>(value[i / 4].word[i % 4 / 2] >> (i % 2 * 16));
          sum[h][i] = fmaf(weight, float_of_half(half), mul_rn(sum[h][i], keep));
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kPieces; ++i) key[i] = next_key[i];
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {  // of the eight positions of a warp
    float warp_most = most[h];
#pragma unroll
    for (int mask = kLanes; mask < kWarpSize; mask *= 2) {
      const float other = from_lane_xor(warp_most, mask);
      warp_most = other > warp_most ? other : warp_most;
    }
    const float keep = most[h] == -INFINITY ? 0.0f : power_of_two(most[h] - warp_most);
    float all = total[h] * keep;
#pragma unroll
    for (int mask = kLanes; mask < kWarpSize; mask *= 2) all += from_lane_xor(all, mask);
#pragma unroll
    for (float& x : sum[h]) x *= keep;
    float* const own = parts[warp][h];
    const int from = sum_by_halves(sum[h]);
#pragma unroll
    for (int i = 0; i < kLeft<kOwn>; ++i) {
      const int piece = (from + i) / 4 * kLanes + t;
      own[2 + piece * 4 + (from + i) % 4] = sum[h][i];  // where two lanes have it, they have the same
    }
    if (lane == 0) {
      own[0] = warp_most;
      own[1] = all;
    }
  }
  sync_block();
  // Brings `count` parts together, those of number `dim` of head h: of(i) is part i, in their order.
  const auto join = [&](int count, const auto& of, int dim) {
    float joined_most = -INFINITY, joined = 0, sum_of_all = 0;
    for (int i = 0; i < count; ++i) joined_most = of(i, 0) > joined_most ? of(i, 0) : joined_most;
    for (int i = 0; i < count; ++i) {
      const float own_most = of(i, 0), factor = own_most == -INFINITY ? 0.0f : power_of_two(own_most - joined_most);
      joined = fmaf(of(i, 1), factor, joined);
      sum_of_all = fmaf(of(i, 2 + dim), factor, sum_of_all);
    }
    struct Joined {
      float most, total, sum;
    };
    return Joined{joined_most, joined, sum_of_all};
  };
  for (int i = thread; i < kHeads * kHeadDim; i += kThreads) {
    const int h = i / kHeadDim, dim = i % kHeadDim;
    const auto all = join(
        kWarps, [&](int w, int number) { return parts[w][h][number]; }, dim);
    if (shares == 1) {
      put(a, row, first_head * kHeadDim + i, all.sum / all.total);
      continue;
    }
    float* const part = part_of(a, row, first_head + h, share);
    part[2 + dim] = all.sum;
    if (dim == 0) {
      part[0] = all.most;
      part[1] = all.total;
    }
  }
  if (shares == 1) return;
  // All threads wrote a part; the last block to come adds up.
  int32_t* const arrived = a.arrived + row * a.q_heads + block_x();
  publish();
  sync_block();
  if (thread == 0) before = arrive(arrived);
  sync_block();
  if (before != shares - 1) return;
  for (int i = thread; i < kHeads * kHeadDim; i += kThreads) {
    const float* const part = part_of(a, row, first_head + i / kHeadDim, 0);
    const auto all = join(
        shares, [&](int s, int number) { return load_fresh(part + static_cast<size_t>(s) * (2 + kHeadDim) + number); },
        i % kHeadDim);
    put(a, row, first_head * kHeadDim + i, all.sum / all.total);
  }
  if (thread == 0) *arrived = 0;
}

template <int kPieces, int kMostHeads>
bool attend_by_lanes(const AttendArgs& args, const Stream& stream) {
  constexpr bool kMayBeBiased = kPieces == 4 || kPieces == 8;  // T5's head sizes, 64 and 128
  // Where there is little to read, heads are sooner done by a block each than read together.
  constexpr int kShort = 1024;
  const int group = args.kv.positions <= kShort ? 1 : args.q_heads / args.kv.heads;
  const auto run = [&](auto kernel, int heads) {
    launch(kernel, {args.q_heads / heads, args.rows, shares_of(args)}, kThreads, stream, args);
    return true;
  };
  if (args.bias.values) {
    if constexpr (kMayBeBiased) return run(attend_by_lanes_kernel<kPieces, 1, true>, 1);
    return false;
  }
  if constexpr (kMostHeads >= 4) {
    if (group % 4 == 0) return run(attend_by_lanes_kernel<kPieces, 4, false>, 4);
  }
  if constexpr (kMostHeads >= 2) {
    if (group % 2 == 0) return run(attend_by_lanes_kernel<kPieces, 2, false>, 2);
  }
  return run(attend_by_lanes_kernel<kPieces, 1, false>, 1);
}
bool attend_by_lanes(const AttendArgs& args, const Stream& stream) {
  switch (args.kv.head_dim) {
    case 32: return attend_by_lanes<2, 4>(args, stream);
    case 64: return attend_by_lanes<4, 4>(args, stream);
    case 80: return attend_by_lanes<5, 2>(args, stream);
    case 96: return attend_by_lanes<6, 2>(args, stream);
    case 128: return attend_by_lanes<8, 2>(args, stream);
    case 256: return attend_by_lanes<16, 1>(args, stream);
    default: return false;
  }
}

}  // namespace

void rotate_and_store(const StoreArgs& args, const Stream& stream) {
  launch(store_kernel, {args.rows}, kThreads, stream, args);
}

size_t attend_parts(int q_heads, int head_dim) {
  return static_cast<size_t>(q_heads) * kMostShares * (2 + static_cast<size_t>(head_dim));
}

void attend(const AttendArgs& args, const Stream& stream) {
  if (attend_by_lanes(args, stream)) return;
  const int group = args.q_heads / args.kv.heads, groups = (group + kGroup - 1) / kGroup;
  launch(attend_kernel, {args.kv.heads * groups, args.rows, shares_of(args)}, kThreads, stream, args);
}

}  // namespace quantbench::QB_CUDA
