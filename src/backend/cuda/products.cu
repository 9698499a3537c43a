// Products on tensor cores for weights as checkpoints store them: 16 outputs a tile as operand A, up to eight rows of
// activations as operand B. The eight warps of a block share a tile's k in contiguous slices; their sums meet in shared
// memory in a fixed order, so results do not depend on the grid.
//
// Within a product the order of k is free, so a lane loads what lies together: 16 bytes of two weight rows (nf4: 8) and
// the activations of the same k.
#include "backend/cuda/finish.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/products_plain.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
constexpr int kTileRows = 16;  // outputs of a tile
constexpr int kColumns = 8;    // activation rows of a tile
constexpr int kOutputs = kTileRows * kColumns;
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
  int g, t;  // lane = 4g + t
  int row;   // of the activations, the lane's column of B
  bool has_row;
  int first, last;  // pieces of k
};
QB_DEVICE Place place_of(const Input& x, int k_of_piece) {
  Place p;
  p.g = lane_index() / 4;
  p.t = lane_index() % 4;
  p.row = block_y() * kColumns + p.g;
  p.has_row = p.row < x.rows;
  const int pieces = (x.k + k_of_piece - 1) / k_of_piece, share = (pieces + kWarps - 1) / kWarps;
  p.first = warp_index() * share;
  p.last = p.first + share < pieces ? p.first + share : pieces;
  return p;
}

QB_DEVICE Bytes16 load16_or_zero(const void* p, bool real) { return real ? load16_once(p) : Bytes16{}; }
QB_DEVICE Bytes16 activations(const void* p, bool real) { return real ? load16(p) : Bytes16{}; }

// 32 k a piece: a lane has eight of them.
QB_DEVICE void accumulate_f16(float (&acc)[4], const Input& x, const Weight& w, int tile) {
  constexpr int kPiece = 32, kLane = 8;
  const Place p = place_of(x, kPiece);
  const int low = tile * kTileRows + p.g, high = low + 8;
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
    mma_f16(acc, {a.word[0], b.word[0], a.word[1], b.word[1]}, {v.word[0], v.word[1]});
    mma_f16(acc, {a.word[2], b.word[2], a.word[3], b.word[3]}, {v.word[2], v.word[3]});
  }
}

// 64 k a piece: a lane has 16 of them.
QB_DEVICE void accumulate_int8(int32_t (&acc)[4], const Input& x, const Weight& w, int tile) {
  constexpr int kPiece = 64, kLane = 16;
  const Place p = place_of(x, kPiece);
  const int low = tile * kTileRows + p.g, high = low + 8;
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
QB_DEVICE void accumulate_nf4(float (&acc)[4], const Input& x, const Weight& w, int tile, const float* nested_code,
                              const uint32_t* table) {
  constexpr int kPiece = 64, kLane = 16;
  const Place p = place_of(x, kPiece);
  const int low = tile * kTileRows + p.g, high = low + 8;
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
QB_DEVICE void accumulate(typename SumOf<kFormat>::Type (&acc)[4], const ProductArgs& a, const Weight& w, int tile,
                          const uint32_t* table) {
  if constexpr (kFormat == WeightFormat::f16) accumulate_f16(acc, a.x, w, tile);
  if constexpr (kFormat == WeightFormat::int8) accumulate_int8(acc, a.x, w, tile);
  if constexpr (kFormat == WeightFormat::nf4) accumulate_nf4(acc, a.x, w, tile, a.nested_code, table);
}

template <WeightFormat kFormat>
QB_DEVICE float finished(const typename SumOf<kFormat>::Type (&parts)[kWarps][kOutputs], const ProductArgs& a,
                         const Job& job, int output, int row, int n) {
  typename SumOf<kFormat>::Type sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += parts[i][output];
  if constexpr (kFormat == WeightFormat::int8)
    return finish_int8(sum, a.x, row, job, n);
  else
    return finish_float(sum, job, n);
}

QB_DEVICE int tiles_of(const Job& job) { return (job.w.n + kTileRows - 1) / kTileRows; }

template <WeightFormat kFormat, int kMatrices>
__global__ void __launch_bounds__(kThreads) product_kernel(const __grid_constant__ ProductArgs a) {
  using Sum = typename SumOf<kFormat>::Type;
  __shared__ Sum parts[kMatrices][kWarps][kOutputs];
  __shared__ uint32_t table[kFormat == WeightFormat::nf4 ? kTableWords : 1];
  if constexpr (kFormat == WeightFormat::nf4) {
    for (int i = thread_index(); i < kTableWords; i += kThreads) {
      const int byte = i / kWarpSize;  // bitsandbytes puts the first code of a byte into its high half
      table[i] = halves(nf4_code(byte >> 4), nf4_code(byte & 15));
    }
    sync_block();
  }
  int tiles = 0;
  for (int i = 0; i < (kMatrices == 2 ? 1 : a.job_count); ++i) tiles += tiles_of(a.jobs[i]);
  for (int work = block_x(); work < tiles; work += blocks_x()) {
    int job = 0, tile = work;
    if (kMatrices == 1) {
      while (tile >= tiles_of(a.jobs[job])) tile -= tiles_of(a.jobs[job++]);
    }
    for (int m = 0; m < kMatrices; ++m) {
      Sum acc[4] = {};
      accumulate<kFormat>(acc, a, a.jobs[job + m].w, tile, table);
      Sum* const own = parts[m][warp_index()];
      const int g = lane_index() / 4, t = lane_index() % 4;
      own[g * kColumns + 2 * t] = acc[0];
      own[g * kColumns + 2 * t + 1] = acc[1];
      own[(g + 8) * kColumns + 2 * t] = acc[2];
      own[(g + 8) * kColumns + 2 * t + 1] = acc[3];
    }
    sync_block();
    const int output = thread_index();
    const int n = tile * kTileRows + output / kColumns, row = block_y() * kColumns + output % kColumns;
    if (output < kOutputs && n < a.jobs[job].w.n && row < a.x.rows) {
      const float first = finished<kFormat>(parts[0], a, a.jobs[job], output, row, n);
      if constexpr (kMatrices == 2) {
        put_gated(a, row, n, first, finished<kFormat>(parts[1], a, a.jobs[1], output, row, n));
      } else {
        put(a, a.jobs[job], row, n, first);
      }
    }
    sync_block();
  }
}

template <WeightFormat kFormat>
void multiply_tiles(const ProductArgs& args, int blocks, Stream stream) {
  int tiles = 0;
  const bool gate = args.finish == Finish::gate;
  for (int i = 0; i < (gate ? 1 : args.job_count); ++i) tiles += (args.jobs[i].w.n + kTileRows - 1) / kTileRows;
  const Grid grid{tiles < blocks ? tiles : blocks, (args.x.rows + kColumns - 1) / kColumns};
  if (gate)
    launch(product_kernel<kFormat, 2>, grid, kThreads, stream, args);
  else
    launch(product_kernel<kFormat, 1>, grid, kThreads, stream, args);
}

}  // namespace

void multiply(const ProductArgs& args, int blocks, Stream stream) {
  // A lane's piece of a weight row must be whole and aligned.
  constexpr int kWholeF16 = 8, kWholeInt8 = 16, kWholeNf4 = 64;
  const int k = args.x.k;
  switch (args.jobs[0].w.format) {
    case WeightFormat::f16:
      if (k % kWholeF16 == 0) return multiply_tiles<WeightFormat::f16>(args, blocks, stream);
      break;
    case WeightFormat::int8:
      if (k % kWholeInt8 == 0) return multiply_tiles<WeightFormat::int8>(args, blocks, stream);
      break;
    case WeightFormat::nf4:
      if (k % kWholeNf4 == 0) return multiply_tiles<WeightFormat::nf4>(args, blocks, stream);
      break;
    case WeightFormat::f32: break;
  }
  multiply_plain(args, blocks, stream);
}

}  // namespace quantbench::QB_CUDA
