// Finishes the sums of a product of many rows: LLM.int8's scales, roundings and outlier columns, bias, activation,
// gate, rotation, cache.
//
// A thread has two quads of neighbouring outputs of a few rows; where a head is rotated the second quad holds the
// partners of the first.
#include "backend/cuda/finish.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/row.cuh"
#include "backend/cuda/wide.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kThreads = 256;
constexpr int kUnits = 8;  // of a block, side by side
constexpr int kColumns = kUnits * 8;
constexpr int kRowStep = kThreads / kUnits;  // a thread has every kRowStep-th row
// Outlier columns are read for all rows of a block at once; without them, smaller blocks keep more loads in flight.
template <bool kInt8>
constexpr int kRowsOf = kInt8 ? 4 : 2;
constexpr int kRowsEach = kRowsOf<true>, kBlockRows = kRowStep * kRowsEach;
constexpr int kOutliers = 64;                  // columns in shared memory at a time
constexpr int kOutlierStride = kOutliers + 8;  // so that eight rows meet no bank twice

struct Unit {  // outputs low … low + 3 and high … high + 3 of a job
  int job, low, high;
  bool rotates, has_low, has_high;
};
QB_DEVICE int column_of(const Unit& unit, int i) { return i < 4 ? unit.low + i : unit.high + i - 4; }
QB_DEVICE bool has_column(const Unit& unit, int i) { return i < 4 ? unit.has_low : unit.has_high; }

template <Finish kFinish>
QB_DEVICE Unit unit_of(const FinishArgs& a, int tile, int index) {
  if constexpr (kFinish != Finish::qkv) {
    const int low = tile * kColumns + 4 * index, high = low + kColumns / 2;
    return {0, low, high, false, low < a.jobs[0].w.n, high < a.jobs[0].w.n};
  }
  int unit = tile * kUnits + index, job = 0;
  while (job < a.job_count && unit >= a.jobs[job].w.n / 8) unit -= a.jobs[job++].w.n / 8;
  if (job == a.job_count) return {0, 0, 0, false, false, false};
  const int d = a.kv.head_dim, start = unit / (d / 8) * d, own = unit % (d / 8);
  const int half = job < 2 && a.rotation.cos ? a.rotation.dims / 2 : 0, pairs = half / 4;
  if (own < pairs) return {job, start + 4 * own, start + 4 * own + half, true, true, true};
  const int low = start + 2 * half + 8 * (own - pairs);
  return {job, low, low + 4, false, true, true};
}

union alignas(16) Outliers {
  struct {
    uint16_t weight[kColumns][kOutlierStride], x[kBlockRows][kOutlierStride];
  } operands;
  float sum[kBlockRows][kColumns + 4];
};

QB_DEVICE const Outliers& sum_in_order(Outliers& shared, int count) {
  const int own_row = thread_index() / kUnits, own_column = thread_index() % kUnits;  // and every eighth behind it
  float sum[kRowsEach][8] = {};
  for (int o = 0; o < count; ++o) {
    float weight[8];
    for (int i = 0; i < 8; ++i) weight[i] = float_of_half(shared.operands.weight[own_column + 8 * i][o]);
#pragma unroll
    for (int r = 0; r < kRowsEach; ++r) {
      const float x = float_of_half(shared.operands.x[own_row + r * kRowStep][o]);
      for (int i = 0; i < 8; ++i) sum[r][i] = fmaf(x, weight[i], sum[r][i]);
    }
  }
  sync_block();
#pragma unroll
  for (int r = 0; r < kRowsEach; ++r) {
    for (int i = 0; i < 8; ++i) shared.sum[own_row + r * kRowStep][own_column + 8 * i] = sum[r][i];
  }
  sync_block();
  return shared;
}

// The outlier columns' part of the block's outputs, x · fp16(code · absmax / 127) summed in fp32. Up to kOutliers
// columns are summed in their order, a row and eight outputs a thread; more, on tensor cores, 16 rows a warp. by_job:
// columns of the tile that are not of this job count as zero. Valid until the next call.
template <Finish kFinish>
QB_DEVICE const Outliers& sum_outliers(const FinishArgs& a, int job_index, const Job& job, int tile, bool by_job) {
  __shared__ Outliers shared;
  const int count = a.x.outliers[0], first_row = block_y() * kBlockRows;
  const int lane = lane_index(), g = lane / 4, t = lane % 4, matrix = lane / 8, matrix_row = lane % 8;
  const auto* const codes = static_cast<const int8_t*>(job.w.w);
  // This thread's weights of a chunk: two outlier columns of every eighth output. Its numbers of x: 16 bytes of a few
  // rows.
  constexpr int kWarps = kThreads / kWarpSize, kWeightsEach = kColumns / kWarps, kPieces = kOutliers / 8;
  constexpr int kPiecesEach = kBlockRows * kPieces / kThreads;
  static_assert(kOutliers == 2 * kWarpSize && kOutliers == kGathered);
  const int8_t* weight_rows[kWeightsEach];
  float absmax[kWeightsEach];
#pragma unroll
  for (int i = 0; i < kWeightsEach; ++i) {
    const int column = warp_index() * kWeightsEach + i;
    const Unit other = unit_of<kFinish>(a, tile, column / 8);
    const bool real = (!by_job || other.job == job_index) && has_column(other, column % 8);
    weight_rows[i] = codes + (real ? static_cast<size_t>(column_of(other, column % 8)) * job.w.k : 0);
    absmax[i] = real ? job.w.absmax[column_of(other, column % 8)] : 0.0f;  // 0: no such output
  }
  int8_t code[2][kWeightsEach];
  Bytes16 x[kPiecesEach];
  const auto load = [&](int first) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int outlier = first + h * kWarpSize + lane;
      const int k = a.x.outliers[1 + (outlier < count ? outlier : 0)];  // one too many meets zeros of x
#pragma unroll
      for (int i = 0; i < kWeightsEach; ++i) code[h][i] = weight_rows[i][k];
    }
#pragma unroll
    for (int i = 0; i < kPiecesEach; ++i) {
      const int piece = i * kThreads + thread_index(), row = first_row + piece / kPieces;
      const int at = first + piece % kPieces * 8;
      const bool real = row < a.rows && at < count;
      x[i] = real ? load16(a.x.x16 + static_cast<size_t>(row) * a.x.stride + at) : Bytes16{};
    }
  };
  float sum[kColumns / 8][4] = {};
  load(0);
  for (int first = 0; first < count; first += kOutliers) {
    sync_block();
#pragma unroll
    for (int i = 0; i < kWeightsEach; ++i) {
      for (int h = 0; h < 2; ++h) {
        shared.operands.weight[warp_index() * kWeightsEach + i][h * kWarpSize + lane] =
            half_of_float(mul_rn(mul_rn(code[h][i], absmax[i]), kInverse127));
      }
    }
#pragma unroll
    for (int i = 0; i < kPiecesEach; ++i) {
      const int piece = i * kThreads + thread_index();
      store16(&shared.operands.x[piece / kPieces][piece % kPieces * 8], x[i]);
    }
    sync_block();
    if (count <= kOutliers) return sum_in_order(shared, count);
    if (first + kOutliers < count) load(first + kOutliers);
#pragma unroll
    for (int s = 0; s < kOutliers / 16; ++s) {
      uint32_t rows[4];
      load_matrices(rows, &shared.operands.x[warp_index() * 16 + matrix % 2 * 8 + matrix_row][s * 16 + matrix / 2 * 8]);
#pragma unroll
      for (int j = 0; j < kColumns / 8; j += 2) {
        uint32_t b[4];
        load_matrices(b, &shared.operands.weight[(j + matrix / 2) * 8 + matrix_row][s * 16 + matrix % 2 * 8]);
        mma_f16(sum[j], rows, {b[0], b[1]});
        mma_f16(sum[j + 1], rows, {b[2], b[3]});
      }
    }
  }
  sync_block();
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
    for (int i = 0; i < 4; ++i) shared.sum[warp_index() * 16 + g + i / 2 * 8][j * 8 + 2 * t + i % 2] = sum[j][i];
  }
  sync_block();
  return shared;
}

struct Factors {  // of a thread's eight outputs
  float bias[8], absmax[8];
};
template <bool kInt8>
QB_DEVICE Factors factors_of(const Job& job, const Unit& unit) {
  Factors f = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (job.bias && has_column(unit, i)) f.bias[i] = job.bias[column_of(unit, i)];
    if (kInt8 && has_column(unit, i)) f.absmax[i] = job.w.absmax[column_of(unit, i)];
  }
  return f;
}

struct RowSums {  // what a thread has of a row
  Bytes16 quad[2];
  float absmax;
};
template <bool kInt8>
QB_DEVICE RowSums load_sums(const FinishArgs& a, const Unit& unit, int job, int row) {
  const auto* const from = static_cast<const uint32_t*>(a.sums[job]) + static_cast<size_t>(row) * a.stride[job];
  const bool real = row < a.rows;
  return {{real && unit.has_low ? load16(from + unit.low) : Bytes16{},
           real && unit.has_high ? load16(from + unit.high) : Bytes16{}},
          kInt8 && real ? a.x.absmax[row] : 0.0f};
}

// A row's eight outputs from their sums. finished: the sums are outputs already.
template <bool kInt8>
QB_DEVICE void finish_row(const RowSums& sums, const Factors& f, bool finished, float (&out)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t bits = sums.quad[i / 4].word[i % 4];
    if (!kInt8) {
      out[i] = float_of_bits(bits) + f.bias[i];
    } else if (finished) {
      out[i] = float_of_bits(bits);
    } else {  // as finish_int8()
      const float scaled = mul_rn(mul_rn(static_cast<float>(static_cast<int32_t>(bits)), sums.absmax), f.absmax[i]);
      out[i] = float_of_half(half_of_float(fmaf(scaled, kOutputScale, f.bias[i])));
    }
  }
}

QB_DEVICE void put_quad(float* to, const float (&x)[8], int first);

// Finishes a job's sums where they stand, with the outlier columns' part; by the whole block.
template <Finish kFinish>
QB_DEVICE void finish_with_outliers(const FinishArgs& a, const Unit& unit, int job, int tile, int first_row) {
  const Outliers& outliers = sum_outliers<kFinish>(a, job, a.jobs[job], tile, kFinish == Finish::qkv);
  if (kFinish == Finish::qkv && unit.job != job) return;
  const Factors f = factors_of<true>(a.jobs[job], unit);
  const int own_row = thread_index() / kUnits, own_column = thread_index() % kUnits * 8;
  for (int r = 0; r < kRowsEach; ++r) {
    const int row = first_row + r * kRowStep;
    if (row >= a.rows) break;
    float out[8];
    finish_row<true>(load_sums<true>(a, unit, job, row), f, false, out);
    const float* const sum = outliers.sum[own_row + r * kRowStep] + own_column;
    for (int i = 0; i < 8; ++i) out[i] = float_of_half(half_of_float(add_rn(out[i], sum[i])));
    float* const to = static_cast<float*>(a.sums[job]) + static_cast<size_t>(row) * a.stride[job];
    if (unit.has_low) put_quad(to + unit.low, out, 0);
    if (unit.has_high) put_quad(to + unit.high, out, 4);
  }
}

QB_DEVICE void put_quad(float* to, const float (&x)[8], int first) {
  *reinterpret_cast<Quad*>(to) = {{x[first], x[first + 1], x[first + 2], x[first + 3]}};
}

QB_DEVICE void leave_four_ready(const ReadyRows& ready, int row, int column, const float (&x)[8], int first) {
  if (!ready.x16) return;
  const Bytes8 four = {{halves(x[first], x[first + 1]), halves(x[first + 2], x[first + 3])}};
  store8(ready.x16 + static_cast<size_t>(row) * ready.stride + column, four);
  if (!ready.marks) return;
  for (int i = 0; i < 4; ++i) mark(ready.marks + column + i, static_cast<uint16_t>(four.word[i / 2] >> (i % 2 * 16)));
}

// Of q, k or v, rotated where it must be.
QB_DEVICE void place_unit(const FinishArgs& a, const Unit& unit, int row, float (&x)[8]) {
  const int position = a.places.position[row];
  if (unit.rotates) {
    const int half = a.rotation.dims / 2;
    const size_t angle = static_cast<size_t>(position) * half + unit.low % a.kv.head_dim;
    for (int i = 0; i < 4; ++i) {
      const float cos = a.rotation.cos[angle + i], sin = a.rotation.sin[angle + i], first = x[i], second = x[4 + i];
      x[i] = first * cos - second * sin;
      x[4 + i] = second * cos + first * sin;
    }
  }
  if (unit.job == 0) {
    float* const y = a.jobs[0].y + static_cast<size_t>(row) * a.jobs[0].w.n;
    put_quad(y + unit.low, x, 0);
    put_quad(y + unit.high, x, 4);
    return;
  }
  const Cache& kv = a.kv;
  const size_t head = static_cast<size_t>(a.places.sequence[row]) * kv.heads + unit.low / kv.head_dim;
  uint16_t* const to = (unit.job == 1 ? kv.k : kv.v) + (head * kv.positions + position) * kv.head_dim;
  const int low = unit.low % kv.head_dim, high = unit.high % kv.head_dim;
  store8(to + low, {{halves(x[0], x[1]), halves(x[2], x[3])}});
  store8(to + high, {{halves(x[4], x[5]), halves(x[6], x[7])}});
}

// grid: x: tile of kColumns outputs; y: kRowStep · kRowsOf rows.
template <bool kInt8, Finish kFinish>
__global__ void __launch_bounds__(kThreads, 2) finish_kernel(const __grid_constant__ FinishArgs a) {
  wait_for_previous();
  let_next_start();
  if (a.used) {
    const int threads = blocks_x() * kThreads;
    if (block_y() == 0) {
      for (int i = block_x() * kThreads + thread_index(); i < a.used_count; i += threads) a.used[i] = 0;
    }
  }
  const int tile = block_x(), first_row = block_y() * kRowStep * kRowsOf<kInt8> + thread_index() / kUnits;
  const Unit unit = unit_of<kFinish>(a, tile, thread_index() % kUnits);
  const bool has_outliers = kInt8 && a.x.outliers[0] > 0;
  if constexpr (kInt8) {
    if (has_outliers) {
      int first_job = 0, last_job = kFinish == Finish::gate ? 1 : 0;
      if constexpr (kFinish == Finish::qkv) {  // the units of a tile may belong to two jobs
        first_job = last_job = unit_of<kFinish>(a, tile, 0).job;
        for (int i = 1; i < kUnits; ++i) {
          const Unit other = unit_of<kFinish>(a, tile, i);
          if (other.has_low) last_job = other.job;
        }
      }
      for (int job = first_job; job <= last_job; ++job) finish_with_outliers<kFinish>(a, unit, job, tile, first_row);
    }
  }
  if (!unit.has_low) return;
  constexpr bool kGate = kFinish == Finish::gate;
  const int job_index = kFinish == Finish::qkv ? unit.job : 0;
  const Factors f = factors_of<kInt8>(a.jobs[job_index], unit), g = factors_of<kInt8>(a.jobs[kGate ? 1 : 0], unit);
  const Job& job = a.jobs[kGate ? 1 : 0];
  constexpr int kAtOnce = 2;  // rows that are loaded before any is stored
#pragma unroll 1
  for (int first = 0; first < kRowsOf<kInt8>; first += kAtOnce) {
    RowSums sums[kAtOnce], gated[kGate ? kAtOnce : 1];
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      const int row = first_row + (first + r) * kRowStep;
      sums[r] = load_sums<kInt8>(a, unit, job_index, row);
      if constexpr (kGate) gated[r] = load_sums<kInt8>(a, unit, 1, row);
    }
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      const int row = first_row + (first + r) * kRowStep;
      if (row >= a.rows) break;
      float x[8], second[8];
      finish_row<kInt8>(sums[r], f, has_outliers, x);
      if constexpr (kFinish == Finish::qkv) {
        place_unit(a, unit, row, x);
        continue;
      }
      if constexpr (kGate) finish_row<kInt8>(gated[r], g, has_outliers, second);
      float* const y = job.y + static_cast<size_t>(row) * job.w.n;
      for (int i = 0; i < 8; i += 4) {
        if (!has_column(unit, i)) break;
        float* const to = y + column_of(unit, i);
        if constexpr (kFinish == Finish::add) {
          const Quad before = *reinterpret_cast<const Quad*>(to);
          for (int j = 0; j < 4; ++j) x[i + j] = before.at[j] + x[i + j];
        } else {
          for (int j = 0; j < 4; ++j) x[i + j] = activate(x[i + j], a.act);
          if constexpr (kGate) {
            for (int j = 0; j < 4; ++j) x[i + j] *= second[i + j];
          }
        }
        put_quad(to, x, i);
        if constexpr (kFinish != Finish::add) leave_four_ready(a.ready, row, column_of(unit, i), x, i);
      }
    }
  }
}

template <bool kInt8>
void finish_format(const FinishArgs& args, const Stream& stream) {
  int columns = args.jobs[0].w.n;
  if (args.finish == Finish::qkv) {
    for (int i = 1; i < args.job_count; ++i) columns += args.jobs[i].w.n;
  }
  constexpr int kRows = kRowStep * kRowsOf<kInt8>;
  const Grid grid{(columns + kColumns - 1) / kColumns, (args.rows + kRows - 1) / kRows};
  switch (args.finish) {
    case Finish::store: return launch(finish_kernel<kInt8, Finish::store>, grid, kThreads, stream, args);
    case Finish::add: return launch(finish_kernel<kInt8, Finish::add>, grid, kThreads, stream, args);
    case Finish::gate: return launch(finish_kernel<kInt8, Finish::gate>, grid, kThreads, stream, args);
    case Finish::qkv: return launch(finish_kernel<kInt8, Finish::qkv>, grid, kThreads, stream, args);
  }
}

}  // namespace

bool can_finish_qkv(const Cache& kv, const Rotation& rotation) {
  return kv.head_dim % 8 == 0 && (!rotation.cos || rotation.dims % 8 == 0);
}

void finish(const FinishArgs& args, const Stream& stream) {
  if (args.jobs[0].w.format == WeightFormat::int8) return finish_format<true>(args, stream);
  finish_format<false>(args, stream);
}

}  // namespace quantbench::QB_CUDA
