// Tiles of 16 outputs of a product: which they are, and where they go.
#pragma once

#include "backend/cuda/finish.cuh"
#include "backend/cuda/kernels.h"

namespace quantbench::QB_CUDA {

constexpr int kTileRows = 16;

// Of one matrix or, gated, of two: eight weight rows from `low` on and eight from `high` on, the partners of the first
// where a head is rotated.
struct Tile {
  int job, low, high;
  bool rotates;  // row low + i pairs with row high + i
};
// Where output i of a tile stands.
QB_DEVICE int row_of(const Tile& tile, int i) { return i < 8 ? tile.low + i : tile.high + i - 8; }

__host__ __device__ inline int tiles_of(const Job& job) { return (job.w.n + kTileRows - 1) / kTileRows; }
__host__ __device__ inline int tile_count(const ProductArgs& a) {
  int tiles = 0;
  for (int i = 0; i < (a.finish == Finish::gate ? 1 : a.job_count); ++i) tiles += tiles_of(a.jobs[i]);
  return tiles;
}
QB_DEVICE Tile plain_tile(int job, int tile) { return {job, tile * kTileRows, tile * kTileRows + 8, false}; }
// Of the rows of q or k: in each head the pairs first, then what is not rotated.
QB_DEVICE Tile rotated_tile(int job, int tile, int head_dim, const Rotation& rotation) {
  const int tiles_of_head = head_dim / kTileRows, head = tile / tiles_of_head, own = tile % tiles_of_head;
  const int half = rotation.dims / 2, pairs = half / 8, start = head * head_dim;
  if (own < pairs) return {job, start + own * 8, start + own * 8 + half, true};
  const int low = start + rotation.dims + (own - pairs) * kTileRows;
  return {job, low, low + 8, false};
}
QB_DEVICE Tile find_tile(const ProductArgs& a, int tile) {
  int job = 0;
  while (a.finish != Finish::gate && tile >= tiles_of(a.jobs[job])) tile -= tiles_of(a.jobs[job++]);
  const bool rotates = a.finish == Finish::qkv && job < 2 && a.rotation.cos;
  return rotates ? rotated_tile(job, tile, a.kv.head_dim, a.rotation) : plain_tile(job, tile);
}

// Output i of a tile, of one row, by one thread; that of a rotated row does its partner too, whose thread does nothing.
// value(m, i, n): output i of matrix m of the tile, weight row n, but for the activation.
template <bool kGate, typename Value>
QB_DEVICE void finish_output(const ProductArgs& a, const Tile& tile, int i, int row, const Value& value) {
  const int n = row_of(tile, i);
  if (n >= a.jobs[tile.job].w.n || (tile.rotates && i >= 8)) return;
  const float first = value(0, i, n);
  if constexpr (kGate) {
    put_gated(a, row, n, first, value(1, i, n));
  } else if (a.finish != Finish::qkv) {
    put(a, a.jobs[tile.job], row, n, first);
  } else if (!tile.rotates) {
    place(a, tile.job, row, n, first);
  } else {
    const int other = row_of(tile, i + 8), half = a.rotation.dims / 2;
    const float second = value(0, i + 8, other);
    const size_t angle = static_cast<size_t>(a.places.position[row]) * half + n % a.kv.head_dim;
    const float cos = a.rotation.cos[angle], sin = a.rotation.sin[angle];
    place(a, tile.job, row, n, first * cos - second * sin);
    place(a, tile.job, row, other, second * cos + first * sin);
  }
}

// The same of an output that is not a gate's, weight row n, from its value but for the activation. All lanes of a warp
// take part; lane ^ 8 has output i ^ 8 of that row, so that of a rotated pair each is its own thread's. is_output:
// whether there is one.
QB_DEVICE void finish_output_of_lanes(const ProductArgs& a, const Tile& tile, int i, int row, int n, bool is_output,
                                      float value) {
  const float other = from_lane_xor(value, 8);
  if (!is_output) return;
  if (a.finish != Finish::qkv) return put(a, a.jobs[tile.job], row, n, value);
  if (tile.rotates) {
    const int half = a.rotation.dims / 2, low = i < 8 ? n : n - half;
    const size_t angle = static_cast<size_t>(a.places.position[row]) * half + low % a.kv.head_dim;
    const float cos = a.rotation.cos[angle], sin = a.rotation.sin[angle];
    value = i < 8 ? value * cos - other * sin : value * cos + other * sin;
  }
  place(a, tile.job, row, n, value);
}

}  // namespace quantbench::QB_CUDA
