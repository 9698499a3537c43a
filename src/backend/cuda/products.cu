// Products on tensor cores for weights as checkpoints store them: 16 outputs a tile as operand A, up to eight rows of
// activations as operand B. The eight warps of a block share a tile's k in contiguous slices; their sums meet in shared
// memory in a fixed order, so results do not depend on the grid.
//
// Within a product the order of k is free, so a lane loads what lies together: 16 bytes of two weight rows (nf4: 8) and
// the activations of the same k.
#include "backend/cuda/finish.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/products_f32.h"
#include "backend/cuda/products_plain.h"
#include "backend/cuda/row.cuh"
#include "backend/cuda/row_products.h"
#include "backend/cuda/tiles.cuh"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
constexpr int kColumns = 8;  // activation rows of a tile
constexpr int kOutputs = kTileRows * kColumns;
constexpr int kBlocksOfMultiprocessor = 4;
constexpr int kTableWords =
    256 * kWarpSize;  // nf4: fp16 pairs by byte, a copy a lane, so that no two lanes meet in a bank

template <WeightFormat kFormat>
struct SumOf {
  using Type = float;
};
template <>
struct SumOf<WeightFormat::int8> {
  using Type = int32_t;
};

// The lane's place in a tile and the slice of k that is its warp's.
struct Place {
  int low, high;  // weight rows
  int t;          // lane = 4g + t
  int row;        // of the activations, the lane's column of B
  bool has_row;
  int first, last;  // pieces of k
};
QB_DEVICE Place place_of(const Input& x, const Tile& tile, int k_of_piece) {
  Place p;
  const int g = lane_index() / 4;
  p.low = tile.low + g;
  p.high = tile.high + g;
  p.t = lane_index() % 4;
  p.row = block_y() * kColumns + g;
  p.has_row = p.row < x.rows;
  const int pieces = (x.k + k_of_piece - 1) / k_of_piece, share = (pieces + kWarps - 1) / kWarps;
  p.first = warp_index() * share;
  p.last = p.first + share < pieces ? p.first + share : pieces;
  return p;
}

QB_DEVICE Bytes16 load16_or_zero(const void* p, bool real) { return real ? load16_once(p) : Bytes16{}; }
QB_DEVICE Bytes16 activations(const void* p, bool real) { return real ? load16(p) : Bytes16{}; }

// 32 k a piece: a lane has eight of them. bf16 becomes fp16, which is what it is multiplied with.
template <WeightFormat kFormat>
QB_DEVICE void accumulate_halves(float (&acc)[4], const Input& x, const Weight& w, const Tile& tile) {
  constexpr int kPiece = 32, kLane = 8;
  const Place p = place_of(x, tile, kPiece);
  const int low = p.low, high = p.high;
  const auto* const weights = static_cast<const uint16_t*>(w.w);
  const uint16_t* const row_low = weights + static_cast<size_t>(low) * w.k;
  const uint16_t* const row_high = weights + static_cast<size_t>(high) * w.k;
  const uint16_t* const in = x.x16 + static_cast<size_t>(p.row) * x.stride;
#pragma unroll 4
  for (int piece = p.first; piece < p.last; ++piece) {
    const int k = piece * kPiece + p.t * kLane;
    const bool inside = k < w.k;
    const Bytes16 a = load16_or_zero(row_low + k, inside && low < w.n);
    const Bytes16 b = load16_or_zero(row_high + k, inside && high < w.n);
    const Bytes16 v = activations(in + k, p.has_row);
    const auto half = [](uint32_t pair) { return kFormat == WeightFormat::bf16 ? halves_of_bf16s(pair) : pair; };
    mma_f16(acc, {half(a.word[0]), half(b.word[0]), half(a.word[1]), half(b.word[1])}, {v.word[0], v.word[1]});
    mma_f16(acc, {half(a.word[2]), half(b.word[2]), half(a.word[3]), half(b.word[3])}, {v.word[2], v.word[3]});
  }
}

// 64 k a piece: a lane has 16 of them.
QB_DEVICE void accumulate_int8(int32_t (&acc)[4], const Input& x, const Weight& w, const Tile& tile) {
  constexpr int kPiece = 64, kLane = 16;
  const Place p = place_of(x, tile, kPiece);
  const int low = p.low, high = p.high;
  const auto* const weights = static_cast<const int8_t*>(w.w);
  const int8_t* const row_low = weights + static_cast<size_t>(low) * w.k;
  const int8_t* const row_high = weights + static_cast<size_t>(high) * w.k;
  const int8_t* const in = x.codes + static_cast<size_t>(p.row) * x.stride;
#pragma unroll 4
  for (int piece = p.first; piece < p.last; ++piece) {
    const int k = piece * kPiece + p.t * kLane;
    const bool inside = k < w.k;
    const Bytes16 a = load16_or_zero(row_low + k, inside && low < w.n);
    const Bytes16 b = load16_or_zero(row_high + k, inside && high < w.n);
    const Bytes16 v = activations(in + k, p.has_row);
    mma_s8(acc, {a.word[0], b.word[0], a.word[1], b.word[1]}, {v.word[0], v.word[1]});
    mma_s8(acc, {a.word[2], b.word[2], a.word[3], b.word[3]}, {v.word[2], v.word[3]});
  }
}

// A block of 64 codes a piece, so that its sum gets one scale: a lane has 16 of them. table: kTableWords.
QB_DEVICE void accumulate_nf4(float (&acc)[4], const Input& x, const Weight& w, const Tile& tile,
                              const float* nested_code, const uint32_t* table) {
  constexpr int kPiece = 64, kLane = 16;
  const Place p = place_of(x, tile, kPiece);
  const int low = p.low, high = p.high;
  const auto* const weights = static_cast<const uint8_t*>(w.w);
  const size_t row_bytes = static_cast<size_t>(w.k) / 2, blocks = static_cast<size_t>(w.k) / kPiece;
  const uint8_t* const row_low = weights + low * row_bytes;
  const uint8_t* const row_high = weights + high * row_bytes;
  const uint16_t* const in = x.x16 + static_cast<size_t>(p.row) * x.stride;
  const uint32_t* const pairs = table + lane_index();
  const bool has_low = low < w.n, has_high = high < w.n;
#pragma unroll 2
  for (int piece = p.first; piece < p.last; ++piece) {
    const int byte = (piece * kPiece + p.t * kLane) / 2;
    const Bytes8 a = has_low ? load8_once(row_low + byte) : Bytes8{};
    const Bytes8 b = has_high ? load8_once(row_high + byte) : Bytes8{};
    const float scale_low = has_low ? nf4_scale(w, nested_code, low * blocks + piece) : 0.0f;
    const float scale_high = has_high ? nf4_scale(w, nested_code, high * blocks + piece) : 0.0f;
    const Bytes16 v[2] = {activations(in + 2 * byte, p.has_row), activations(in + 2 * byte + 8, p.has_row)};
    float sum[4] = {};
    for (int i = 0; i < 4; ++i) {  // two bytes of each row, four k
      const uint32_t from_low = a.word[i / 2] >> (i % 2 * 16), from_high = b.word[i / 2] >> (i % 2 * 16);
      mma_f16(sum,
              {pairs[(from_low & 255) * kWarpSize], pairs[(from_high & 255) * kWarpSize],
               pairs[(from_low >> 8 & 255) * kWarpSize], pairs[(from_high >> 8 & 255) * kWarpSize]},
              {v[i / 2].word[i % 2 * 2], v[i / 2].word[i % 2 * 2 + 1]});
    }
    acc[0] = fmaf(sum[0], scale_low, acc[0]);
    acc[1] = fmaf(sum[1], scale_low, acc[1]);
    acc[2] = fmaf(sum[2], scale_high, acc[2]);
    acc[3] = fmaf(sum[3], scale_high, acc[3]);
  }
}

template <WeightFormat kFormat>
QB_DEVICE void accumulate(typename SumOf<kFormat>::Type (&acc)[4], const Input& x, const ProductArgs& a,
                          const Weight& w, const Tile& tile, const uint32_t* table) {
  if constexpr (kFormat == WeightFormat::f16 || kFormat == WeightFormat::bf16)
    accumulate_halves<kFormat>(acc, x, w, tile);
  if constexpr (kFormat == WeightFormat::int8) accumulate_int8(acc, x, w, tile);
  if constexpr (kFormat == WeightFormat::nf4) accumulate_nf4(acc, x, w, tile, a.tables.nested_code, table);
}

template <WeightFormat kFormat>
QB_DEVICE float finished(const typename SumOf<kFormat>::Type (&parts)[kWarps][kOutputs], const Input& x, const Job& job,
                         int output, int row, int n) {
  typename SumOf<kFormat>::Type sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += parts[i][output];
  if constexpr (kFormat == WeightFormat::int8)
    return finish_int8(sum, x, row, job, n);
  else
    return finish_float(sum, job, n);
}

// Asks for the weights of a tile before they are needed, so that they come while the row is made ready.
QB_DEVICE void prefetch(const Weight& w, const Tile& tile, size_t row_bytes) {
  constexpr size_t kLine = 128;
#pragma unroll 1
  for (int i = warp_index(); i < kTileRows; i += kWarps) {
    const int row = row_of(tile, i);
    if (row >= w.n) continue;
    const auto* const start = static_cast<const std::byte*>(w.w) + row * row_bytes;
#pragma unroll 1
    for (size_t at = static_cast<size_t>(lane_index()) * kLine; at < row_bytes; at += kWarpSize * kLine)
      prefetch_to_l2(start + at);
  }
}

template <WeightFormat kFormat>
QB_DEVICE size_t row_bytes(int k) {
  const size_t count = static_cast<size_t>(k);
  return kFormat == WeightFormat::nf4 ? count / 2 : kFormat == WeightFormat::int8 ? count : 2 * count;
}

// Blocks of a multiprocessor that registers are kept low for; 0: as the compiler sees fit, which is as many but for a
// gate's own rows with int8 weights. For Turing they would not suffice.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kBlocksOfGatedInt8 = 0;
#else
constexpr int kBlocksOfGatedInt8 = kBlocksOfMultiprocessor;
#endif
template <WeightFormat kFormat, int kMatrices, bool kOwnRows>
constexpr int kBlocksByRegisters = kOwnRows&& kMatrices == 2 && kFormat == WeightFormat::int8 ? kBlocksOfGatedInt8 : 0;

template <WeightFormat kFormat, int kMatrices, bool kOwnRows>
__global__ void __launch_bounds__(kThreads, (kBlocksByRegisters<kFormat, kMatrices, kOwnRows>))
    product_kernel(const __grid_constant__ ProductArgs a) {
  using Sum = typename SumOf<kFormat>::Type;
  __shared__ Sum parts[kMatrices][kWarps][kOutputs];
  __shared__ uint32_t table[kFormat == WeightFormat::nf4 ? kTableWords : 1];
  __shared__ float own_absmax;
  constexpr bool kGate = kMatrices == 2;
  let_next_start();
  const int tiles = tile_count(a);
  // Weights depend on no kernel.
  if (block_x() < tiles) {
    const Tile tile = find_tile(a, block_x());
    for (int m = 0; m < kMatrices; ++m) prefetch(a.jobs[tile.job + m].w, tile, row_bytes<kFormat>(a.x.k));
  }
  if constexpr (kOwnRows) prefetch_norm(a.norm, a.x.k, kThreads);
  if constexpr (kFormat == WeightFormat::nf4) {
    for (int i = thread_index(); i < kTableWords; i += kThreads) {
      table[i] = a.tables.code_pairs[i / kWarpSize];
    }
  }
  wait_for_previous();
  Input x = a.x;
  if constexpr (kOwnRows) {
    const OwnRow own = own_row(x.stride);
    const float absmax = make_row<kThreads, kFormat == WeightFormat::int8>(own, x, a.norm);
    if (thread_index() == 0) own_absmax = absmax;
    x.x16 = own.x16;
    x.codes = own.codes;
    x.outliers = own.outliers;
    x.absmax = &own_absmax;
  }
  sync_block();
  for (int work = block_x(); work < tiles; work += blocks_x()) {
    const Tile tile = find_tile(a, work);
    for (int m = 0; m < kMatrices; ++m) {
      Sum acc[4] = {};
      accumulate<kFormat>(acc, x, a, a.jobs[tile.job + m].w, tile, table);
      Sum* const own = parts[m][warp_index()];
      const int g = lane_index() / 4, t = lane_index() % 4;
      own[g * kColumns + 2 * t] = acc[0];
      own[g * kColumns + 2 * t + 1] = acc[1];
      own[(g + 8) * kColumns + 2 * t] = acc[2];
      own[(g + 8) * kColumns + 2 * t + 1] = acc[3];
    }
    sync_block();
    const int output = thread_index(), row = block_y() * kColumns + output % kColumns;
    if (output < kOutputs && row < x.rows) {
      finish_output<kGate>(a, tile, output / kColumns, row, [&](int m, int i, int n) {
        return finished<kFormat>(parts[m], x, a.jobs[tile.job + m], i * kColumns + output % kColumns, row, n);
      });
    }
    sync_block();
  }
}

template <WeightFormat kFormat>
void multiply_tiles(const ProductArgs& args, int blocks, const Stream& stream) {
  const int tiles = tile_count(args);
  const bool gate = args.finish == Finish::gate;
  const Grid grid{tiles < blocks ? tiles : blocks, (args.x.rows + kColumns - 1) / kColumns};
  const size_t shared = args.own_rows ? own_row_bytes(kFormat, args.x.k) : 0;
  if (gate && args.own_rows) return launch(product_kernel<kFormat, 2, true>, grid, kThreads, stream, args, shared);
  if (gate) return launch(product_kernel<kFormat, 2, false>, grid, kThreads, stream, args, shared);
  if (args.own_rows) return launch(product_kernel<kFormat, 1, true>, grid, kThreads, stream, args, shared);
  launch(product_kernel<kFormat, 1, false>, grid, kThreads, stream, args, shared);
}

}  // namespace

// A lane's piece of a weight row must be whole and aligned.
bool has_tiles(WeightFormat format, int k) {
  constexpr int kWholeF16 = 8, kWholeInt8 = 16, kWholeNf4 = 64;
  switch (format) {
    case WeightFormat::f16:
    case WeightFormat::bf16: return k % kWholeF16 == 0;
    case WeightFormat::int8: return k % kWholeInt8 == 0;
    case WeightFormat::nf4: return k % kWholeNf4 == 0;
    case WeightFormat::f32: return false;
  }
  return false;
}

size_t own_row_bytes(WeightFormat format, int k) {
  const size_t stride = static_cast<size_t>(padded_k(k));
  if (format != WeightFormat::int8) return stride * sizeof(uint16_t);
  return stride * (sizeof(uint16_t) + sizeof(int8_t)) + stride / 8 + (1 + static_cast<size_t>(k)) * sizeof(int32_t);
}

void multiply(const ProductArgs& args, const Room& room, const Stream& stream) {
  const WeightFormat format = args.jobs[0].w.format;
  const int blocks = kBlocksOfMultiprocessor * room.multiprocessors;
  if (multiply_f32(args, stream)) return;
  if (!has_tiles(format, args.x.k)) return multiply_plain(args, blocks, stream);
  if (multiply_row(args, room, stream) || multiply_row_nf4(args, room, stream)) return;
  switch (format) {
    case WeightFormat::f16: return multiply_tiles<WeightFormat::f16>(args, blocks, stream);
    case WeightFormat::int8: return multiply_tiles<WeightFormat::int8>(args, blocks, stream);
    case WeightFormat::nf4: return multiply_tiles<WeightFormat::nf4>(args, blocks, stream);
    case WeightFormat::bf16: return multiply_tiles<WeightFormat::bf16>(args, blocks, stream);
    case WeightFormat::f32: return;
  }
}

}  // namespace quantbench::QB_CUDA
