// Products of 2 to 32 rows, for batches and short prompts: a block takes tiles of 16 weight rows, a warp of it a slice
// of k. Weights are operand A, as checkpoints store them, the rows of activations operand B, eight a column tile. Both
// are on their way in shared memory, of weights as much before the wait for the kernel before as there is room for.
//
// Group: 128 bytes of each of the tile's weight rows, and the activations of the same k. fp16 and int8 rows of either
// lie in pieces of 16 bytes, turned from row to row so that load_matrices() meets no bank twice. nf4: a lane reads
// eight bytes, 16 codes, of each block of 64, so that a block's sum is alone and gets one scale; within a product the
// order of k is free, and the activations lie in that of the codes.
//
// LLM.int8: outlier columns are one list for all rows. Their activations stand side by side in x16 (QuantizeArgs),
// their weights are gathered; both are multiplied as fp16.
#include <algorithm>

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/row_products.h"
#include "backend/cuda/tiles.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kRowsOfTile = 8;    // activation rows of a column tile
constexpr int kGroupBytes = 128;  // of a weight row
constexpr int kHeadRoom = 4;      // numbers between columns of sums, so that no two lanes meet in a bank
constexpr int kSumStride = kTileRows + kHeadRoom;
constexpr int kMostDepth = 4;
constexpr int kFewWarps = 2;  // of a team, where a block has many tiles
constexpr int kCodes = 256;
constexpr int kTableWords = kCodes * kWarpSize;  // nf4: a byte's two codes as fp16, a copy a lane
constexpr int kNf4Block = 64, kNestedBlock = 256;
constexpr int kOutlierStride = kGathered + 8;  // fp16 numbers from row to row of outliers

template <WeightFormat kFormat>
struct Form;
template <>
struct Form<WeightFormat::f16> {
  using Sum = float;
  static constexpr int kRowPieces = 8;
  static constexpr int kGroup = 64, kInputs = 2, kWeightPieces = kRowPieces * kTileRows;
};
template <>
struct Form<WeightFormat::int8> {
  using Sum = int32_t;
  static constexpr int kRowPieces = 8;
  static constexpr int kGroup = 128, kInputs = 2, kWeightPieces = kRowPieces * kTileRows;
};
template <>
struct Form<WeightFormat::nf4> {
  using Sum = float;
  static constexpr int kRowPieces = 10;  // eight of a row's codes and two of room: eight rows' lanes meet in no bank
  static constexpr int kGroup = 256, kInputs = 8, kWeightPieces = kRowPieces * kTileRows;
};

// A warp's group in shared memory. weights: [row][kRowPieces].
// scales (nf4): lane 4g: the four of row g; 4g + 1: of row g + 8; 4g + 2 and 4g + 3: their nested scales.
template <WeightFormat kFormat>
struct Weights {
  Bytes16 pieces[Form<kFormat>::kWeightPieces];
  uint32_t scales[kFormat == WeightFormat::nf4 ? kWarpSize : 4];
};
// The activations of a group: fp16 and int8 [row][8] of a column tile, nf4 as each lane wants them.
template <WeightFormat kFormat, int kColumnTiles>
struct Inputs {
  Bytes16 pieces[kColumnTiles][Form<kFormat>::kInputs][kWarpSize];
};

// What a block has in dynamic shared memory behind its warps' groups.
template <WeightFormat kFormat, int kColumnTiles, int kWarps>
struct Rest {
  static constexpr bool kInt8 = kFormat == WeightFormat::int8, kNf4 = kFormat == WeightFormat::nf4;
  static constexpr int kColumns = kColumnTiles * kRowsOfTile;
  uint32_t table[kNf4 ? kTableWords : 4];
  float nested_code[kNf4 ? kCodes : 4];
  typename Form<kFormat>::Sum parts[kWarps][kColumns * kSumStride];
  // Outliers of a chunk of columns, and what they add up to.
  uint16_t outlier_weights[kInt8 ? kTileRows * kOutlierStride : 8];
  uint16_t outlier_rows[kInt8 ? kColumns * kOutlierStride : 8];
  static constexpr int kMostTeams = kWarps / kFewWarps;
  float outlier_sums[kInt8 ? kMostTeams : 1][kInt8 ? kColumns * kSumStride : 4];
  int32_t is_last[4];
};

// Where piece `piece` of a row of eight lies.
QB_DEVICE int turned(int row, int piece) { return row * 8 + (piece ^ (row & 7)); }

// The matrix that row i of a tile is of: gated, rows 8 to 15 are of the second.
template <bool kGate>
QB_DEVICE const Job& job_of(const ProductArgs& a, const Tile& tile, int i) {
  return a.jobs[kGate ? i / 8 : tile.job];
}
template <bool kGate>
QB_DEVICE Tile tile_at(const ProductArgs& a, int tile) {
  if constexpr (kGate) return {0, tile * 8, tile * 8, false};
  return find_tile(a, tile);
}
template <bool kGate>
__host__ __device__ inline int count_tiles(const ProductArgs& a) {
  return kGate ? (a.jobs[0].w.n + 7) / 8 : tile_count(a);
}

// Sums of a tile: lane 4g + t has columns 2t and 2t + 1 of rows g and g + 8.
template <typename Sum>
QB_DEVICE void leave_sums(Sum* to, int column_tile, const Sum (&sum)[4]) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  Sum* const at = to + (column_tile * kRowsOfTile + 2 * t) * kSumStride + g;
  at[0] = sum[0];
  at[kSumStride] = sum[1];
  at[8] = sum[2];
  at[kSumStride + 8] = sum[3];
}

// acc: two sums, so that not every product waits for the one before.
template <WeightFormat kFormat, int kColumnTiles>
QB_DEVICE void add_group(typename Form<kFormat>::Sum (&acc)[2][kColumnTiles][4], const Weights<kFormat>& weights,
                         const Inputs<kFormat, kColumnTiles>& inputs) {
  const int matrix = lane_index() / 8, r = lane_index() % 8;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t b[kColumnTiles][4];
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) load_matrices(b[c], &inputs.pieces[c][0][0] + turned(r, 4 * half + matrix));
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t w[4];
      load_matrices(w, weights.pieces + turned(matrix % 2 * 8 + r, 4 * half + 2 * step + matrix / 2));
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
        if constexpr (kFormat == WeightFormat::int8)
          mma_s8(acc[step][c], w, {b[c][2 * step], b[c][2 * step + 1]});
        else
          mma_f16(acc[step][c], w, {b[c][2 * step], b[c][2 * step + 1]});
      }
    }
  }
}

// scale(i, block): of row g (i = 0) or g + 8 (i = 1).
template <int kColumnTiles, typename Scale>
QB_DEVICE void add_group_nf4(float (&acc)[2][kColumnTiles][4], const Weights<WeightFormat::nf4>& weights,
                             const Inputs<WeightFormat::nf4, kColumnTiles>& inputs, const uint32_t* pairs,
                             const Scale& scale) {
  using F = Form<WeightFormat::nf4>;
  constexpr int kBlocks = F::kGroup / kNf4Block;
  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  const auto codes = [&](int row, int block) {
    const auto* const start = reinterpret_cast<const std::byte*>(weights.pieces + row * F::kRowPieces);
    return load8(start + block * kNf4Block / 2 + t * sizeof(Bytes8));
  };
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    const Bytes8 low = codes(g, block), high = codes(g + 8, block);
    Bytes16 in[kColumnTiles][2];
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      in[c][0] = inputs.pieces[c][2 * block][lane];
      in[c][1] = inputs.pieces[c][2 * block + 1][lane];
    }
    float sum[kColumnTiles][2][4] = {};  // so that not every product waits for the one before
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // two bytes of each row, four k
      const auto look_up = [&](const Bytes8& of, int byte) {
        return pairs[(of.word[byte / 4] >> (byte % 4 * 8) & 255) * kWarpSize];
      };
      const uint32_t a[4] = {look_up(low, 2 * i), look_up(high, 2 * i), look_up(low, 2 * i + 1),
                             look_up(high, 2 * i + 1)};
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c)
        mma_f16(sum[c][i % 2], a, {in[c][i / 2].word[i % 2 * 2], in[c][i / 2].word[i % 2 * 2 + 1]});
    }
    const float scale_low = scale(0, block), scale_high = scale(1, block);
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      float(&to)[4] = acc[0][c];
      to[0] = fmaf(sum[c][0][0] + sum[c][1][0], scale_low, to[0]);
      to[1] = fmaf(sum[c][0][1] + sum[c][1][1], scale_low, to[1]);
      to[2] = fmaf(sum[c][0][2] + sum[c][1][2], scale_high, to[2]);
      to[3] = fmaf(sum[c][0][3] + sum[c][1][3], scale_high, to[3]);
    }
  }
}

// The outlier columns' sums of a tile; all threads take part.
template <int kThreads, bool kGate, int kColumnTiles, typename RestOf>
QB_DEVICE void sum_outliers(const ProductArgs& a, const Tile& tile, int first_row, int count, bool* has_rows,
                            RestOf* rest, float* sums) {
  constexpr int kColumns = kColumnTiles * kRowsOfTile, kPairs = kGathered / 2;
  float acc[kColumnTiles][4] = {};
  for (int first = 0; first < count; first += kGathered) {
    for (int i = thread_index(); i < kTileRows * kGathered; i += kThreads) {
      const int row = i / kGathered, at = i % kGathered, n = row_of(tile, row);
      const Weight& w = job_of<kGate>(a, tile, row).w;
      uint16_t value = 0;
      if (first + at < count && n < w.n) {
        const int code = static_cast<const int8_t*>(w.w)[static_cast<size_t>(n) * w.k + a.x.outliers[1 + first + at]];
        value = half_of_float(outlier_weight(code, w.absmax[n]));
      }
      rest->outlier_weights[row * kOutlierStride + at] = value;
    }
    if (!*has_rows) {
      for (int i = thread_index(); i < kColumns * kPairs; i += kThreads) {
        const int row = i / kPairs, at = i % kPairs * 2;
        uint32_t pair = 0;
        if (first_row + row < a.x.rows && first + at < count)
          pair = *reinterpret_cast<const uint32_t*>(a.x.x16 + static_cast<size_t>(first_row + row) * a.x.stride +
                                                    first + at);
        *reinterpret_cast<uint32_t*>(rest->outlier_rows + row * kOutlierStride + at) = pair;
      }
      *has_rows = count <= kGathered;
    }
    sync_block();
    if (warp_index() == 0) {
      const int g = lane_index() / 4, t = lane_index() % 4;
      const auto pair = [&](const uint16_t* numbers, int row, int k) {
        return *reinterpret_cast<const uint32_t*>(numbers + row * kOutlierStride + k + 2 * t);
      };
      const uint16_t* const w = rest->outlier_weights;
#pragma unroll
      for (int k = 0; k < kGathered; k += 16) {
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
          const int row = c * kRowsOfTile + g;
          mma_f16(acc[c], {pair(w, g, k), pair(w, g + 8, k), pair(w, g, k + 8), pair(w, g + 8, k + 8)},
                  {pair(rest->outlier_rows, row, k), pair(rest->outlier_rows, row, k + 8)});
        }
      }
      if (first + kGathered >= count) {
        for (int c = 0; c < kColumnTiles; ++c) leave_sums(sums, c, acc[c]);
      }
    }
    sync_block();
  }
}

// Where a warp's stream of groups stands.
struct Cursor {
  int work, turn = 0;
  Tile tile{};
};

// As wait_for_copies().
QB_DEVICE void wait_for_copies_but(int left) {
  if (left == 0) return wait_for_copies<0>();
  if (left == 1) return wait_for_copies<1>();
  if (left == 2) return wait_for_copies<2>();
  wait_for_copies<3>();
}

// Blocks of a multiprocessor that registers are kept low for; of the others shared memory lets one in.
template <WeightFormat kFormat, int kColumnTiles>
constexpr int kBlocksByRegisters = kColumnTiles == 4 || (kFormat == WeightFormat::nf4 && kColumnTiles == 2) ? 1 : 2;

// Teams share a block of eight warps or, in code for 9.0, of ten: there both were measured. Kernels that other code has
// nothing of, or a program for every card would be 0.25 MB larger for them.
constexpr int kHopper = 90;
template <int kWarps, int kTeamWarps>
constexpr bool kOfHopperAlone = kWarps == 10 && kTeamWarps < kWarps;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 900
constexpr bool kForHopper = false;
#else
constexpr bool kForHopper = true;
#endif

// What a block takes of shared memory, with the inputs of so many groups.
template <WeightFormat kFormat, int kColumnTiles, int kWarps>
constexpr size_t block_bytes(int depth, int inputs) {
  return sizeof(Weights<kFormat>) * static_cast<size_t>(depth * kWarps) +
         sizeof(Inputs<kFormat, kColumnTiles>) * static_cast<size_t>(inputs) +
         sizeof(Rest<kFormat, kColumnTiles, kWarps>);
}
// Ten warps are taken from nine groups on, which each have an input.
template <WeightFormat kFormat, int kColumnTiles, int kWarps>
constexpr bool kFits = blocks_that_fit(block_bytes<kFormat, kColumnTiles, kWarps>(1, kWarps == 8 ? 1 : 9), kRoomHere) >
                       0;

// Two blocks share long sums where there are multiprocessors for them. fp16 and int8 gain nothing by it.
template <WeightFormat kFormat>
constexpr bool kSplits = kFormat == WeightFormat::nf4;

// Rows block_y · 8 · kColumnTiles and those after it; of k the part block_z, whose sums meet in a.partial.
template <WeightFormat kFormat, bool kGate, int kColumnTiles, int kWarps, int kTeamWarps>
__global__ void __launch_bounds__(kWarps* kWarpSize, (kBlocksByRegisters<kFormat, kColumnTiles>))
    batch_product_kernel(const __grid_constant__ ProductArgs a) {
  using F = Form<kFormat>;
  using Sum = typename F::Sum;
  constexpr bool kInt8 = kFormat == WeightFormat::int8, kNf4 = kFormat == WeightFormat::nf4;
  constexpr int kThreads = kWarps * kWarpSize, kColumns = kColumnTiles * kRowsOfTile;
  constexpr int kTeams = kWarps / kTeamWarps;
  constexpr bool kMaySplit = kSplits<kFormat> && !kGate && kTeams == 1;
  if constexpr (kOfHopperAlone<kWarps, kTeamWarps> && !kForHopper) return trap();
  if constexpr (!kFits<kFormat, kColumnTiles, kWarps>) return trap();
  let_next_start();
  const BatchPlan& plan = a.batch;
  const int depth = plan.depth, first_row = block_y() * kColumns;
  const int lane = lane_index(), g = lane / 4, t = lane % 4, k = a.x.k, row_blocks = k / kNf4Block;
  // Warps take turns, so that together they read what lies together.
  const int splits = kMaySplit ? plan.splits : 1, split = kMaySplit ? block_z() : 0;
  const int all_groups = k / F::kGroup, groups = all_groups / splits, own_first = warp_index() % kTeamWarps,
            own_groups = (groups - own_first + kTeamWarps - 1) / kTeamWarps, team = warp_index() / kTeamWarps;
  const auto group_of = [&](int turn) { return split * groups + own_first + turn * kTeamWarps; };
  const int tiles = count_tiles<kGate>(a);
  const size_t row_bytes = static_cast<size_t>(all_groups) * kGroupBytes;
  // The block keeps the inputs of all its groups where there is room, else each warp's come with its weights.
  const bool keeps = plan.keeps;
  auto* const weights = reinterpret_cast<Weights<kFormat>*>(dynamic_shared()) + warp_index() * depth;
  auto* const all_inputs = reinterpret_cast<Inputs<kFormat, kColumnTiles>*>(
      dynamic_shared() + sizeof(Weights<kFormat>) * static_cast<size_t>(depth * kWarps));
  auto* const inputs = all_inputs + (keeps ? own_first : warp_index() * depth);
  auto* const rest = reinterpret_cast<Rest<kFormat, kColumnTiles, kWarps>*>(all_inputs + plan.inputs);

  const auto ask_weights = [&](Weights<kFormat>* to, const Tile& tile, int group) {
  // Whole lines: eight lanes a row.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int of_tile = 4 * i + lane / 8, piece = lane % 8, row = row_of(tile, of_tile);
      const Weight& w = job_of<kGate>(a, tile, 4 * i).w;
      const auto* const from = static_cast<const std::byte*>(w.w) + static_cast<size_t>(row) * row_bytes +
                               static_cast<size_t>(group) * kGroupBytes + piece * sizeof(Bytes16);
      copy16_async(to->pieces + (kNf4 ? of_tile * F::kRowPieces + piece : turned(of_tile, piece)), from, row < w.n);
    }
    if constexpr (kNf4) {
      const Weight& w = job_of<kGate>(a, tile, t % 2 * 8).w;
      const int row = (t % 2 == 0 ? tile.low : tile.high) + g;
      const size_t block = static_cast<size_t>(row) * row_blocks + group * (F::kGroup / kNf4Block);
      if (row < w.n && w.absmax8)
        copy4_async(&to->scales[lane],
                    t < 2 ? static_cast<const void*>(w.absmax8 + block) : w.nested_absmax + block / kNestedBlock);
    }
  };
  // This lane's piece i of a column tile, and where it lies in shared memory; no row of it: null.
  const auto input_at = [&](int group, int c, int i) -> const void* {
    const int row = first_row + c * kRowsOfTile + (kNf4 ? g : 4 * i + lane / 8);
    if (row >= a.x.rows) return nullptr;
    const size_t start = static_cast<size_t>(row) * a.x.stride + static_cast<size_t>(group) * F::kGroup;
    if constexpr (kNf4) return a.x.x16 + start + i / 2 * kNf4Block + t * 16 + i % 2 * 8;
    if constexpr (kInt8) return a.x.codes + start + lane % 8 * 16;
    return a.x.x16 + start + lane % 8 * 8;
  };
  const auto input_in = [&](Inputs<kFormat, kColumnTiles>* to, int c, int i) {
    return kNf4 ? &to->pieces[c][i][lane] : &to->pieces[c][0][0] + turned(4 * i + lane / 8, lane % 8);
  };
  const auto ask_inputs = [&](Inputs<kFormat, kColumnTiles>* to, int group) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < F::kInputs; ++i) {
        const void* const from = input_at(group, c, i);
        copy16_async(input_in(to, c, i), from ? from : a.x.x16, from != nullptr);
      }
    }
  };
  // At once, since waiting for them as copies would be waiting for all weights that were asked for before. which(i): of
  // the i-th of `count`.
  const auto take_inputs = [&](Inputs<kFormat, kColumnTiles>* to, int apart, int count, const auto& which) {
    constexpr int kPieces = kColumnTiles * F::kInputs, kAtOnce = 8;
    constexpr int kTurns = kPieces < kAtOnce ? kAtOnce / kPieces : 1, kOfTurn = kAtOnce / kTurns;
    for (int first = 0; first < count * kPieces; first += kAtOnce) {
      Bytes16 piece[kTurns][kOfTurn];
      const int first_turn = first / kPieces, first_piece = first % kPieces;
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        const bool is_real = first_turn + turn < count;
        const int group = is_real ? which(first_turn + turn) : 0;
#pragma unroll
        for (int j = 0; j < kOfTurn; ++j) {
          const int i = first_piece + j;
          const void* const from = is_real ? input_at(group, i / F::kInputs, i % F::kInputs) : nullptr;
          piece[turn][j] = from ? load16(from) : Bytes16{};
        }
      }
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        if (first_turn + turn >= count) break;
#pragma unroll
        for (int j = 0; j < kOfTurn; ++j) {
          const int i = first_piece + j;
          *input_in(to + (first_turn + turn) * apart, i / F::kInputs, i % F::kInputs) = piece[turn][j];
        }
      }
    }
  };
  const auto advance = [&](Cursor* c) {
    if (++c->turn < own_groups) return;
    c->turn = 0;
    c->work += blocks_x() * kTeams;
    if (c->work < tiles) c->tile = tile_at<kGate>(a, c->work);
  };
  Cursor asked{block_x() * kTeams + team};
  if (asked.work < tiles) asked.tile = tile_at<kGate>(a, asked.work);
  const auto ask = [&](int slot) {
    if (asked.work < tiles && own_groups > 0) {
      ask_weights(weights + slot, asked.tile, group_of(asked.turn));
      if (!keeps) ask_inputs(inputs + slot, group_of(asked.turn));
      advance(&asked);
    }
    close_copies();
  };
  int work = asked.work;
  Tile tile = asked.tile;
  // Weights depend on no kernel.
#pragma unroll 1
  for (int slot = 0; slot < depth; ++slot) {
    if (asked.work < tiles && own_groups > 0) {
      ask_weights(weights + slot, asked.tile, group_of(asked.turn));
      advance(&asked);
    }
    close_copies();
  }
  if constexpr (kNf4) {
    for (int i = thread_index(); i < kCodes; i += kThreads) {
      const uint32_t pair = a.tables.code_pairs[i];
      rest->nested_code[i] = a.tables.nested_code[i];
      constexpr int kQuads = kWarpSize / 4;  // turned, so that eight threads meet in no bank
      for (int q = 0; q < kQuads; ++q)
        store16(rest->table + i * kWarpSize + (q + i) % kQuads * 4, {{pair, pair, pair, pair}});
    }
    sync_block();
  }
  touch(a);
  wait_for_previous();
  {
    // Kept are all groups, by all warps; else turns go on in the next tile with the same inputs.
    const int step = keeps ? kWarps : kTeamWarps, first = split * groups + (keeps ? warp_index() : own_first);
    const int count = keeps ? (groups - warp_index() + kWarps - 1) / kWarps : own_groups > 0 ? depth : 0;
    const int period = keeps ? count : own_groups;
    take_inputs(keeps ? all_inputs + warp_index() : inputs, keeps ? kWarps : 1, count, [&](int i) {
      while (i >= period) i -= period;
      return first + i * step;
    });
  }
  if (keeps)
    sync_block();
  else
    sync_warp();
  if (block_y() == 0 && split == 0) {
    for (int i = block_x() * kThreads + thread_index(); i < a.used_count; i += blocks_x() * kThreads) a.used[i] = 0;
  }
  const int outliers = kInt8 ? a.x.outliers[0] : 0;
  bool has_rows = false;  // whether the outliers of all rows are there
  int slot = 0;
  // All teams of a block go on together.
  for (int first_work = block_x() * kTeams; first_work < tiles; first_work += blocks_x() * kTeams) {
    Sum acc[2][kColumnTiles][4] = {};
    const int turns = work < tiles ? own_groups : 0;
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      wait_for_copies_but(depth - 1);
      const auto& in = inputs[keeps ? turn * kTeamWarps : slot];
      sync_warp();
      if constexpr (kNf4) {
        const auto& from = weights[slot];
        add_group_nf4<kColumnTiles>(acc, from, in, rest->table + lane, [&](int i, int block) {
          const Weight& w = job_of<kGate>(a, tile, 8 * i).w;
          if (w.absmax8) {
            const uint32_t code = from.scales[4 * g + i] >> (8 * block) & 255;
            return add_rn(mul_rn(rest->nested_code[code], float_of_bits(from.scales[4 * g + 2 + i])), w.offset);
          }
          const int row = (i == 0 ? tile.low : tile.high) + g;
          const int in_row = group_of(turn) * (F::kGroup / kNf4Block) + block;
          return row < w.n ? w.absmax[static_cast<size_t>(row) * row_blocks + in_row] : 0.0f;
        });
      } else {
        add_group<kFormat, kColumnTiles>(acc, weights[slot], in);
      }
      sync_warp();  // all lanes have what they need
      ask(slot);
      slot = slot + 1 < depth ? slot + 1 : 0;
    }
    sync_block();  // the tile before is finished
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      if constexpr (!kNf4) {
        for (int i = 0; i < 4; ++i) acc[0][c][i] += acc[1][c][i];
      }
      leave_sums(rest->parts[warp_index()], c, acc[0][c]);
    }
    sync_block();
    const auto sum_of = [&](int of_team, int i, int column) {
      Sum sum = 0;
#pragma unroll
      for (int w = 0; w < kTeamWarps; ++w) sum += rest->parts[of_team * kTeamWarps + w][column * kSumStride + i];
      return sum;
    };
    bool is_last = true;
    const size_t place = (static_cast<size_t>(block_y()) * tiles + work) * kTileRows * kColumns,
                 apart = static_cast<size_t>(tiles) * blocks_y() * kTileRows * kColumns;
    Sum* const partial = static_cast<Sum*>(plan.partial) + place;
    if (kMaySplit && splits > 1) {
      for (int o = thread_index(); o < kTileRows * kColumns; o += kThreads)
        partial[split * apart + o] = sum_of(0, o % kTileRows, o / kTileRows);
      publish();
      sync_block();
      if (thread_index() == 0) {
        int32_t* const counter = plan.arrived + block_y() * tiles + work;
        const bool last = arrive(counter) == splits - 1;
        if (last) *counter = 0;
        rest->is_last[0] = last;
      }
      sync_block();
      is_last = rest->is_last[0];
    }
    if (is_last) {
      for (int of_team = 0; of_team < kTeams; ++of_team) {
        if (!kInt8 || outliers == 0 || first_work + of_team >= tiles) break;
        sum_outliers<kThreads, kGate, kColumnTiles>(a, tile_at<kGate>(a, first_work + of_team), first_row, outliers,
                                                    &has_rows, rest, rest->outlier_sums[kTeams == 1 ? 0 : of_team]);
      }
      for (int output = thread_index(); output < kTeams * kTileRows * kColumns; output += kThreads) {
        const int i = output % kTileRows, of_team = kTeams == 1 ? 0 : output / kTileRows % kTeams,
                  column = output / (kTileRows * kTeams), row = first_row + column;
        const bool is_tile = first_work + of_team < tiles;
        const Tile finished = kTeams == 1 || !is_tile ? tile : tile_at<kGate>(a, first_work + of_team);
        const int n = row_of(finished, i);
        const Job& job = job_of<kGate>(a, finished, i);
        const bool is_output = is_tile && row < a.x.rows && n < job.w.n;
        float value = 0;
        if (is_output) {
          Sum sum = 0;
          if (kMaySplit && splits > 1) {
            for (int z = 0; z < splits; ++z) sum += load_fresh(partial + z * apart + column * kTileRows + i);
          } else {
            sum = sum_of(of_team, i, column);
          }
          if constexpr (kInt8) {
            value = int8_output(sum, a.x.absmax[row], job.w.absmax[n], job.bias ? job.bias[n] : 0.0f);
            if (outliers > 0) {
              const float added = rest->outlier_sums[kTeams == 1 ? 0 : of_team][column * kSumStride + i];
              value = float_of_half(half_of_float(add_rn(value, added)));
            }
          } else {
            value = finish_float(sum, job, n);
          }
        }
        if constexpr (kGate) {
          const float other = from_lane_xor(value, 8);
          if (is_output && i < 8) put_gated(a, row, n, value, other);
        } else {
          finish_output_of_lanes(a, finished, i, row, n, is_output, value);
        }
      }
    }
    work += blocks_x() * kTeams;
    if (work < tiles) tile = tile_at<kGate>(a, work);
  }
}

// With as much on the way as lets `together` blocks be on a multiprocessor, or one.
template <WeightFormat kFormat, bool kGate, int kColumnTiles, int kWarps>
bool multiply_by(ProductArgs args, int together, const Room& room, const Stream& stream) {
  constexpr int kColumns = kColumnTiles * kRowsOfTile;
  BatchPlan& plan = args.batch;
  const int tiles = count_tiles<kGate>(args), column_blocks = (args.x.rows + kColumns - 1) / kColumns;
  const int groups = args.x.k / Form<kFormat>::kGroup, blocks = tiles * column_blocks;
  plan.splits = kSplits<kFormat> && args.finish == Finish::add && plan.partial &&
                        2 * blocks <= together * room.multiprocessors && groups % 2 == 0 && groups >= 4 * kWarps &&
                        plan.most_counters >= blocks && size_t{2} * blocks * kTileRows * kColumns <= plan.most_partial
                    ? 2
                    : 1;
  for (; together > 0; --together) {
    for (plan.depth = kMostDepth; plan.depth >= 1; --plan.depth) {
      for (const bool keeps : {true, false}) {
        plan.keeps = keeps;
        plan.inputs = keeps ? groups / plan.splits : plan.depth * kWarps;
        const size_t shared = block_bytes<kFormat, kColumnTiles, kWarps>(plan.depth, plan.inputs);
        if (blocks_that_fit(shared, room) < together) continue;
        constexpr int kThreads = kWarps * kWarpSize, kTeams = kWarps / kFewWarps;
        const int most = std::max(1, together * room.multiprocessors / column_blocks);
        if (keeps && blocks >= 2 * together * room.multiprocessors) {
          if constexpr (kOfHopperAlone<kWarps, kFewWarps>) {
            if (room.compiled_for != kHopper)
              return multiply_by<kFormat, kGate, kColumnTiles, 8>(args, together, room, stream);
          }
          const Grid grid{std::min((tiles + kTeams - 1) / kTeams, most), column_blocks};
          launch(batch_product_kernel<kFormat, kGate, kColumnTiles, kWarps, kFewWarps>, grid, kThreads, stream, args,
                 shared);
        } else {
          const Grid grid{std::min(tiles, most), column_blocks, plan.splits};
          launch(batch_product_kernel<kFormat, kGate, kColumnTiles, kWarps, kWarps>, grid, kThreads, stream, args,
                 shared);
        }
        return true;
      }
    }
  }
  return false;
}

template <WeightFormat kFormat, int kColumnTiles>
bool multiply_columns(const ProductArgs& args, int together, const Room& room, const Stream& stream) {
  const int groups = args.x.k / Form<kFormat>::kGroup;
  const auto waste = [&](int warps) { return (groups + warps - 1) / warps * warps - groups; };
  const bool gate = args.finish == Finish::gate;
  if constexpr (kFormat != WeightFormat::f16) {
    if (waste(10) < waste(8)) {
      return gate ? multiply_by<kFormat, true, kColumnTiles, 10>(args, together, room, stream)
                  : multiply_by<kFormat, false, kColumnTiles, 10>(args, together, room, stream);
    }
  }
  return gate ? multiply_by<kFormat, true, kColumnTiles, 8>(args, together, room, stream)
              : multiply_by<kFormat, false, kColumnTiles, 8>(args, together, room, stream);
}

}  // namespace

bool can_multiply_batch(WeightFormat format, int k, int rows) {
  if (rows < 2 || rows > 4 * kRowsOfTile) return false;
  switch (format) {
    // Of more rows the library's product is faster.
    case WeightFormat::f16: return rows <= 2 * kRowsOfTile && k % Form<WeightFormat::f16>::kGroup == 0;
    case WeightFormat::int8: return k % Form<WeightFormat::int8>::kGroup == 0;
    case WeightFormat::nf4: return k % Form<WeightFormat::nf4>::kGroup == 0;
    case WeightFormat::bf16:
    case WeightFormat::f32: return false;
  }
  return false;
}

bool multiply_batch(const ProductArgs& args, const Room& room, const Stream& stream) {
  constexpr auto kF16 = WeightFormat::f16, kInt8 = WeightFormat::int8, kNf4 = WeightFormat::nf4;
  const WeightFormat format = args.jobs[0].w.format;
  const int rows = args.x.rows;
  if (!can_multiply_batch(format, args.x.k, rows)) return false;
  if (format == kNf4) {
    return rows <= kRowsOfTile ? multiply_columns<kNf4, 1>(args, 2, room, stream)
                               : multiply_columns<kNf4, 2>(args, 1, room, stream);
  }
  const bool is_int8 = format == kInt8;
  if (rows <= kRowsOfTile)
    return is_int8 ? multiply_columns<kInt8, 1>(args, 2, room, stream)
                   : multiply_columns<kF16, 1>(args, 2, room, stream);
  if (rows <= 2 * kRowsOfTile)
    return is_int8 ? multiply_columns<kInt8, 2>(args, 2, room, stream)
                   : multiply_columns<kF16, 2>(args, 2, room, stream);
  return multiply_columns<kInt8, 4>(args, 1, room, stream);
}

}  // namespace quantbench::QB_CUDA
