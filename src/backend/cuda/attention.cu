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

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kGroup = 4;            // q heads of a block
constexpr int kPiece = kThreads;     // positions whose scores are there at a time
constexpr int kLeastShare = kPiece;  // positions of a block, where they are shared out
constexpr int kMostShares = 32;      // blocks that a row's positions are shared out among
constexpr int kAhead = 4;            // loads of keys or values that are on the way together
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

// grid: x: key/value head and kGroup of the q heads that share it; y: row; z: share of the positions.
__global__ void __launch_bounds__(kThreads) attend_kernel(const __grid_constant__ AttendArgs a) {
  __shared__ float q[kGroup][kMostHeadDim], weights[kGroup][kPiece], sums[kWarps][kGroup][kMostHeadDim];
  __shared__ int before;
  wait_for_previous();
  let_next_start();
  const int d = a.kv.head_dim, group = a.q_heads / a.kv.heads, groups = (group + kGroup - 1) / kGroup;
  const int kv_head = block_x() / groups, first_head = kv_head * group + block_x() % groups * kGroup;
  const int left = kv_head * group + group - first_head, heads = left < kGroup ? left : kGroup;
  const int row = block_y(), length = a.places.position[row] + 1;
  // Cut by the capacity of the cache, so that the cut does not depend on how far the sequence has come.
  const int cut = (a.kv.positions + blocks_z() - 1) / blocks_z(), of_share = (cut + kPiece - 1) / kPiece * kPiece;
  const int share = block_z(), shares = (length + of_share - 1) / of_share;
  if (share >= shares) return;
  const int begin = share * of_share, end = begin + of_share > length ? length : begin + of_share;
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
    }
    for (int h = 0; h < heads; ++h) {
      const float piece_most = block_max<kThreads>(score[h]);
      const float most = piece_most > running[h].most ? piece_most : running[h].most;
      const float keep = expf(running[h].most - most), weight = expf(score[h] - most);
      weights[h][thread_index()] = weight;
      const double total = block_sum<kThreads>(static_cast<double>(weight));
      running[h] = {most, running[h].total * keep + static_cast<float>(total)};
      for (float& sum : own[h]) sum *= keep;
    }
    const int count = end - piece < kPiece ? end - piece : kPiece;
    for (int p = warp_index(); p < count; p += kAhead * kWarps) {
      const uint16_t* const value = values + static_cast<size_t>(piece + p) * d;
      for (int i = 0; i < kPairsPerLane; ++i) {
        const int dim = 2 * (i * kWarpSize + lane_index());
        if (dim >= d) break;
        uint16_t v[kAhead][2];
#pragma unroll
        for (int n = 0; n < kAhead; ++n) {
          const uint16_t* const own_value = value + static_cast<size_t>(n * kWarps) * d;
          const bool is_there = p + n * kWarps < count;
          v[n][0] = is_there ? own_value[dim] : uint16_t{0};
          v[n][1] = is_there && dim + 1 < d ? own_value[dim + 1] : uint16_t{0};
        }
#pragma unroll
        for (int n = 0; n < kAhead; ++n) {
          const int at_piece = p + n * kWarps;
          if (at_piece >= count) break;
          const float v0 = float_of_half(v[n][0]), v1 = float_of_half(v[n][1]);
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
    for (int dim = thread_index(); dim < d; dim += kThreads) {
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += sums[w][h][dim];
      if (part)
        part[2 + dim] = sum;
      else
        a.a[at + static_cast<size_t>(h) * d + dim] = sum / running[h].total;
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
    for (int dim = thread_index(); dim < d; dim += kThreads) {
      float sum = 0, total = 0;
      for (int s = 0; s < shares; ++s) {
        const float* const part = part_of(a, row, first_head + h, s);
        const float factor = expf(load_fresh(part) - most);
        total = fmaf(load_fresh(part + 1), factor, total);
        sum = fmaf(load_fresh(part + 2 + dim), factor, sum);
      }
      a.a[at + static_cast<size_t>(h) * d + dim] = sum / total;
    }
  }
  if (thread_index() == 0) *arrived = 0;
}

}  // namespace

void rotate_and_store(const StoreArgs& args, const Stream& stream) {
  launch(store_kernel, {args.rows}, kThreads, stream, args);
}

size_t attend_parts(int q_heads, int head_dim) {
  return static_cast<size_t>(q_heads) * kMostShares * (2 + static_cast<size_t>(head_dim));
}

void attend(const AttendArgs& args, const Stream& stream) {
  const int group = args.q_heads / args.kv.heads, groups = (group + kGroup - 1) / kGroup;
  int shares = args.parts ? (args.kv.positions + kLeastShare - 1) / kLeastShare : 1;
  if (shares > kMostShares) shares = kMostShares;
  launch(attend_kernel, {args.kv.heads * groups, args.rows, shares}, kThreads, stream, args);
}

}  // namespace quantbench::QB_CUDA
