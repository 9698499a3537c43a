// Products of one row with NF4 weights, for decoding: a block takes tiles of 16 weight rows, a warp of it a slice of k,
// whose codes and scales are on their way before the wait for the kernel before. Products are fp16 on tensor cores, by
// a table of byte pairs; a block of 64 is summed alone in fp32 and then scaled.
//
// Group: 256 of k of the tile's rows, four blocks of 64. A lane copies 16 bytes, half a block, of two rows at a time,
// so lanes t = 0, 1 of a row have one block and 2, 3 the next. Their x stand in columns of their own of the right
// operand, with zeros for the other lanes, so that the four blocks' sums come out as columns 0, 2, 4, 6: lane t has
// block t's. Halved: a tile is eight weight rows, and rows 8 to 15 of it are the second half of k, whose x are columns
// 1, 3, 5, 7.
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/row.cuh"
#include "backend/cuda/row_products.h"
#include "backend/cuda/tiles.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kGroup = 256, kBlock = 64, kBlocks = kGroup / kBlock;
constexpr int kGroupBytes = kGroup / 2;  // of a weight row
constexpr int kCodes = 256;
constexpr int kTableWords = kCodes * kWarpSize;  // a byte's two codes as fp16, a copy a lane: no two meet in a bank
constexpr int kNestedBlock = 256;
constexpr int kBlocksByRegisters = 2;  // of a multiprocessor

// A warp's group in shared memory. codes: those of rows g, blocks 0 and 1, then 2 and 3; then of rows g + 8. scales:
// lane 4g: the four of row g; 4g + 1: of row g + 8; 4g + 2 and 4g + 3: their nested scales.
struct Group {
  Bytes16 codes[2][2][kWarpSize];
  uint32_t scales[kWarpSize];
};

// Where a warp's stream of groups stands: of a tile those of the first matrix, then of the second.
struct Cursor {
  int work, turn = 0;
  Tile tile{};
};

// What a block has beside its row and the groups that are on the way.
template <int kWarps>
constexpr size_t kOwnStatic = (kTableWords + kCodes) * sizeof(uint32_t) + 4 * kWarps* kTileRows * sizeof(float);
template <int kWarps>
constexpr size_t all_shared(size_t row_bytes, int depth) {
  return row_bytes + sizeof(Group) * static_cast<size_t>(depth * kWarps) + kOwnStatic<kWarps> + kStaticShared;
}
template <int kWarps, int kDepth>
constexpr bool kFits = kDepth == 1 || blocks_that_fit(all_shared<kWarps>(kGroup * sizeof(uint16_t), kDepth),
                                                      kRoomHere) >= kBlocksByRegisters;

// kDepth: groups of a warp that are on the way.
template <int kWarps, int kMatrices, int kDepth, bool kHalved>
__global__ void __launch_bounds__(kWarps* kWarpSize, kBlocksByRegisters)
    row_product_nf4_kernel(const __grid_constant__ ProductArgs a) {
  constexpr int kThreads = kWarps * kWarpSize;
  constexpr bool kGate = kMatrices == 2;
  constexpr int kHigh = kHalved ? 3 : 2;  // of a lane's sums
  alignas(16) __shared__ uint32_t table[kTableWords];
  alignas(16) __shared__ uint16_t nothing[kBlock / 2];
  __shared__ float nested_code[kCodes];
  __shared__ float parts[2][kMatrices][kWarps][kTileRows];
  if constexpr (!kFits<kWarps, kDepth>) return trap();
  let_next_start();
  const int lane = lane_index(), g = lane / 4, t = lane % 4, k = a.x.k, row_blocks = k / kBlock;
  const int groups = k / kGroup / (kHalved ? 2 : 1), share = (groups + kWarps - 1) / kWarps,
            first_group = warp_index() * share;
  const int own_groups = first_group + share < groups ? share : (first_group < groups ? groups - first_group : 0);
  const int turns = kMatrices * own_groups;  // of a tile
  const int tiles = kHalved ? a.jobs[0].w.n / (kTileRows / 2) : tile_count(a);
  const auto find = [&](int tile) {
    if constexpr (kHalved) return Tile{0, tile * (kTileRows / 2), tile * (kTileRows / 2), false};
    return find_tile(a, tile);
  };
  Group* const staged = reinterpret_cast<Group*>(dynamic_shared()) + warp_index() * kDepth;
  Cursor asked{block_x()};
  if (asked.work < tiles) asked.tile = find(asked.work);
  const auto ask = [&](int slot) {
    if (asked.work < tiles && turns > 0) {
      const int m = kGate && asked.turn >= own_groups ? 1 : 0, group = first_group + asked.turn - m * own_groups;
      const Weight& w = a.jobs[asked.tile.job + m].w;
      Group& to = staged[slot];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = (i == 0 ? asked.tile.low : asked.tile.high) + g;
        const auto* const from = static_cast<const std::byte*>(w.w) + static_cast<size_t>(row) * (k / 2) +
                                 static_cast<size_t>(kHalved && i == 1 ? group + groups : group) * kGroupBytes +
                                 t * sizeof(Bytes16);
        copy16_async(&to.codes[i][0][lane], from, row < w.n);
        copy16_async(&to.codes[i][1][lane], from + kGroupBytes / 2, row < w.n);
      }
      const int row = (t % 2 == 0 ? asked.tile.low : asked.tile.high) + g;
      const size_t block =
          static_cast<size_t>(row) * row_blocks + (kHalved && t % 2 == 1 ? group + groups : group) * kBlocks;
      if (row < w.n && w.absmax8)
        copy4_async(&to.scales[lane],
                    t < 2 ? static_cast<const void*>(w.absmax8 + block) : w.nested_absmax + block / kNestedBlock);
      if (++asked.turn == turns) {
        asked.turn = 0;
        asked.work += blocks_x();
        if (asked.work < tiles) asked.tile = find(asked.work);
      }
    }
    close_copies();
  };
  int work = block_x();
  Tile tile = asked.tile;
#pragma unroll 1
  for (int slot = 0; slot < kDepth; ++slot) ask(slot);
  for (int i = thread_index(); i < kCodes; i += kThreads) {
    const uint32_t pair = a.tables.code_pairs[i];
    nested_code[i] = a.tables.nested_code[i];
    constexpr int kQuads = kWarpSize / 4;  // turned, so that eight threads meet in no bank
    for (int q = 0; q < kQuads; ++q) store16(table + i * kWarpSize + (q + i) % kQuads * 4, {{pair, pair, pair, pair}});
  }
  if (thread_index() < kBlock / 2) nothing[thread_index()] = 0;
  prefetch_norm(a.norm, k, kThreads);
  touch(a);
  wait_for_previous();
  const OwnRow own = own_row(a.x.stride, sizeof(Group) * kDepth * kWarps);
  make_row<kThreads, false>(own, a.x, a.norm);
  const uint32_t* const pairs = table + lane;
  // Whether this lane's x stand in its column, of the first and of the second half of a group.
  const int column = kHalved ? g / 2 * 2 : g;
  const bool in_column[2] = {column == t / 2 * 2, column == t / 2 * 2 + 4};
  const uint16_t* const x = own.x16 + t * 2 * static_cast<int>(sizeof(Bytes16)) + (kHalved && g % 2 == 1 ? k / 2 : 0);
  int buffer = 0, slot = 0;
  while (work < tiles) {
    float low[kMatrices] = {}, high[kMatrices] = {};
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      const int m = kGate && turn >= own_groups ? 1 : 0, group = first_group + turn - m * own_groups;
      wait_for_copies<kDepth - 1>();
      sync_warp();
      const Group& from = staged[slot];
      float acc[2][4] = {};  // so that no product waits for the one before
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Bytes16 codes_low = from.codes[0][half][lane], codes_high = from.codes[1][half][lane];
        const uint16_t* const in = in_column[half] ? x + group * kGroup + half * kGroup / 2 : nothing;
#pragma unroll
        for (int word = 0; word < 4; ++word) {
          const Bytes16 b = load16(in + word * 8);
          const auto look_up = [&](const Bytes16& codes, int byte) {
            return pairs[(codes.word[word] >> (8 * byte) & 255) * kWarpSize];
          };
#pragma unroll
          for (int i = 0; i < 4; i += 2) {
            mma_f16(
                acc[half],
                {look_up(codes_low, i), look_up(codes_high, i), look_up(codes_low, i + 1), look_up(codes_high, i + 1)},
                {b.word[i], b.word[i + 1]});
          }
        }
      }
      const Weight& w = a.jobs[tile.job + m].w;
      const auto scale = [&](int i) {
        if (w.absmax8) {
          const uint32_t code = from.scales[4 * g + i] >> (8 * t) & 255;
          return add_rn(mul_rn(nested_code[code], float_of_bits(from.scales[4 * g + 2 + i])), w.offset);
        }
        const int row = (i == 0 ? tile.low : tile.high) + g;
        const int own_group = kHalved && i == 1 ? group + groups : group;
        return row < w.n ? w.absmax[static_cast<size_t>(row) * row_blocks + own_group * kBlocks + t] : 0.0f;
      };
      const float own_low = (acc[0][0] + acc[1][0]) * scale(0), own_high = (acc[0][kHigh] + acc[1][kHigh]) * scale(1);
      if (m == 0) low[0] += own_low, high[0] += own_high;
      if (kGate && m == 1) low[kMatrices - 1] += own_low, high[kMatrices - 1] += own_high;
      sync_warp();  // all lanes have their scales
      ask(slot);
      slot = slot + 1 < kDepth ? slot + 1 : 0;
    }
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      for (int mask = 1; mask < 4; mask *= 2) {
        low[m] += from_lane_xor(low[m], mask);
        high[m] += from_lane_xor(high[m], mask);
      }
      if (t == 0) {
        parts[buffer][m][warp_index()][g] = low[m];
        parts[buffer][m][warp_index()][g + 8] = high[m];
      }
    }
    sync_block();  // two buffers: whoever writes this one next has passed another of these, behind this tile's finish
    if (thread_index() < (kHalved ? kTileRows / 2 : kTileRows)) {
      finish_output<kGate>(a, tile, thread_index(), 0, [&](int m, int i, int n) {
        float sum = 0;
        for (int w = 0; w < kWarps; ++w)
          sum += kHalved ? parts[buffer][m][w][i] + parts[buffer][m][w][i + 8] : parts[buffer][m][w][i];
        return finish_float(sum, a.jobs[tile.job + m], n);
      });
    }
    buffer ^= 1;
    work += blocks_x();
    if (work < tiles) tile = find(work);
  }
}

template <int kWarps, int kDepth>
bool multiply_by(const ProductArgs& args, bool halved, const Room& room, const Stream& stream) {
  constexpr int kThreads = kWarps * kWarpSize;
  const size_t row_bytes = own_row_bytes(WeightFormat::nf4, args.x.k);
  const size_t shared = row_bytes + sizeof(Group) * kDepth * kWarps, all = all_shared<kWarps>(row_bytes, kDepth);
  if (blocks_that_fit(all, room) < kBlocksByRegisters) {
    if constexpr (kDepth > 1) return multiply_by<kWarps, kDepth - 1>(args, halved, room, stream);
    if (all > room.shared_bytes) return false;
  }
  const int tiles = tile_count(args) * (halved ? 2 : 1);
  const Grid grid{row_blocks(tiles, all, kBlocksByRegisters, room)};
  if (args.finish == Finish::gate)
    launch(row_product_nf4_kernel<kWarps, 2, kDepth, false>, grid, kThreads, stream, args, shared);
  else if (halved)
    launch(row_product_nf4_kernel<kWarps, 1, kDepth, true>, grid, kThreads, stream, args, shared);
  else
    launch(row_product_nf4_kernel<kWarps, 1, kDepth, false>, grid, kThreads, stream, args, shared);
  return true;
}

}  // namespace

bool multiply_row_nf4(const ProductArgs& args, const Room& room, const Stream& stream) {
  if (!args.own_rows || args.jobs[0].w.format != WeightFormat::nf4 || args.x.k % kGroup != 0) return false;
  constexpr int kDepth = 3, kFew = 8;
  // Halved where tiles are few and long enough that each warp still has a group of its own.
  const bool halved = args.finish == Finish::add && tile_count(args) <= room.multiprocessors &&
                      args.jobs[0].w.n % kTileRows == 0 && args.x.k % (2 * kGroup) == 0 &&
                      args.x.k >= 2 * kGroup * kFew;
  const int groups = args.x.k / kGroup / (halved ? 2 : 1);
  const auto waste = [&](int warps) { return (groups + warps - 1) / warps * warps - groups; };
  return waste(10) < waste(8) ? multiply_by<10, kDepth>(args, halved, room, stream)
                              : multiply_by<8, kDepth>(args, halved, room, stream);
}

}  // namespace quantbench::QB_CUDA
