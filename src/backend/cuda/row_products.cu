// Products of one row with fp16, bf16 and LLM.int8 weights, for decoding: a warp has a few weight rows to itself, asks
// for as much of them as its registers hold before it waits for the kernel before, and then needs nobody else; what a
// register held is replaced as soon as it is used, by this unit's weights or the next one's. Bound by memory: what a
// multiprocessor has on the way is its warps' registers.
//
// LLM.int8 as in finish.cuh, outliers in the order of the columns, so that the result is the reference's to the bit.
#include "backend/cuda/finish.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/row.cuh"
#include "backend/cuda/row_products.h"

namespace quantbench::QB_CUDA {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
constexpr int kBlocksByRegisters = 3;                                       // of a multiprocessor
constexpr int kPieceBytes = kWarpSize * static_cast<int>(sizeof(Bytes16));  // of a weight row, a turn of the warp

// A warp's rows: of two or four, half of them from `low` on and half from `high` on, of one matrix or, gated, of two.
struct Unit {
  int job, low, high;
  bool rotates;  // row low + i pairs with row high + i
};
template <int kRows>
constexpr int kLow = kRows == 1 ? 1 : kRows / 2;
template <int kRows, bool kGate>
__host__ __device__ inline int units_of(const Job& job) {
  return job.w.n / (kGate ? kLow<kRows> : kRows);
}
template <int kRows, bool kGate>
__host__ __device__ inline int unit_count(const ProductArgs& a) {
  int units = 0;
  for (int i = 0; i < (kGate ? 1 : a.job_count); ++i) units += units_of<kRows, kGate>(a.jobs[i]);
  return units;
}
template <int kRows, bool kGate>
QB_DEVICE Unit find_unit(const ProductArgs& a, int unit) {
  constexpr int kHalf = kLow<kRows>;
  if constexpr (kGate) return {0, unit * kHalf, unit * kHalf, false};
  int job = 0;
  while (unit >= units_of<kRows, kGate>(a.jobs[job])) unit -= units_of<kRows, kGate>(a.jobs[job++]);
  if (a.finish != Finish::qkv || job == 2 || !a.rotation.cos) return {job, unit * kRows, unit * kRows + kHalf, false};
  const int units_of_head = a.kv.head_dim / kRows, head = unit / units_of_head, own = unit % units_of_head;
  const int half = a.rotation.dims / 2, rotated = half / kHalf, start = head * a.kv.head_dim;
  if (own < rotated) return {job, start + own * kHalf, start + own * kHalf + half, true};
  const int low = start + a.rotation.dims + (own - rotated) * kRows;
  return {job, low, low + kHalf, false};
}

template <WeightFormat kFormat>
struct Format;
template <>
struct Format<WeightFormat::f16> {
  using Sum = float;
  static constexpr int kOfPiece = kPieceBytes / 2;
  static QB_DEVICE void add(float* sum, const Bytes16& w, const Bytes16& x) {
    for (int i = 0; i < 4; ++i) {
      *sum =
          fmaf(float_of_half(static_cast<uint16_t>(w.word[i])), float_of_half(static_cast<uint16_t>(x.word[i])), *sum);
      *sum = fmaf(float_of_half(static_cast<uint16_t>(w.word[i] >> 16)),
                  float_of_half(static_cast<uint16_t>(x.word[i] >> 16)), *sum);
    }
  }
};
template <>
struct Format<WeightFormat::bf16> {
  using Sum = float;
  static constexpr int kOfPiece = kPieceBytes / 2;
  static QB_DEVICE void add(float* sum, const Bytes16& w, const Bytes16& x) {
    for (int i = 0; i < 4; ++i) {
      *sum = fmaf(float_of_bits(w.word[i] << 16), float_of_half(static_cast<uint16_t>(x.word[i])), *sum);
      *sum = fmaf(float_of_bits(w.word[i] & 0xffff0000u), float_of_half(static_cast<uint16_t>(x.word[i] >> 16)), *sum);
    }
  }
};
template <>
struct Format<WeightFormat::int8> {
  using Sum = int32_t;
  static constexpr int kOfPiece = kPieceBytes;
  static QB_DEVICE void add(int32_t* sum, const Bytes16& w, const Bytes16& x) {
    for (int i = 0; i < 4; ++i) *sum = dot_codes(w.word[i], x.word[i], *sum);
  }
};

constexpr int kHeld = 24;  // 16-byte pieces of weights that a lane has on the way

// What an output needs beside its sum: output n of the lane's row.
struct Beside {
  int n = 0;
  float absmax = 0, bias = 0;  // of the weights
  float old = 0;               // what is added to
  float cos = 0, sin = 0;      // of a rotated pair
  int8_t outlier[2] = {};      // LLM.int8: this lane's of the first outlier columns' codes
};
constexpr int kHeldOutliers = 2;

// Outliers that the lanes fetch together, each of one row: lane r + i · kRows has column i's.
template <int kRows>
constexpr int kAtOnce = kWarpSize / kRows;
template <int kRows>
QB_DEVICE int8_t outlier_code(const Job& job, int n, const OwnRow& own, int turn) {
  const int i = turn * kAtOnce<kRows> + lane_index() / kRows;
  if (i >= own.outliers[0]) return 0;
  return static_cast<const int8_t*>(job.w.w)[static_cast<size_t>(n) * job.w.k + own.outliers[1 + i]];
}
// Output `n` of LLM.int8, which lane r, r + kRows, … all have. The outliers are added up in the order of the columns; a
// product of two fp16 numbers is exact, so that it may be another lane's.
template <int kRows>
QB_DEVICE float finish_int8_of_lanes(int32_t acc, const OwnRow& own, float row_absmax, const Job& job,
                                     const Beside& beside) {
  const float out = int8_output(acc, row_absmax, beside.absmax, beside.bias);
  const int count = own.outliers[0];
  if (count == 0) return out;
  float sum = 0;
  for (int turn = 0; turn * kAtOnce<kRows> < count; ++turn) {
    const int first = turn * kAtOnce<kRows>, i = first + lane_index() / kRows;
    const int8_t code = turn == 0   ? beside.outlier[0]
                        : turn == 1 ? beside.outlier[1]
                                    : outlier_code<kRows>(job, beside.n, own, turn);
    const float value = i < count ? float_of_half(own.x16[own.outliers[1 + i]]) : 0.0f;
    const float product = mul_rn(value, outlier_weight(code, beside.absmax));
#pragma unroll
    for (int j = 0; j < kAtOnce<kRows>; ++j) {
      const float other = from_lane(product, lane_index() % kRows + j * kRows);
      if (first + j < count) sum = add_rn(sum, other);
    }
  }
  return float_of_half(half_of_float(add_rn(out, sum)));
}

// Where a warp's stream of weights stands: a piece of each of a unit's rows.
struct Cursor {
  int work, piece = 0;
  Unit unit{};
  const std::byte *low = nullptr, *high = nullptr;  // this lane's of the unit's first rows
};

// kDepth: pieces of each row that are on the way, in shared memory, where each lane reads what it has copied itself.
template <WeightFormat kFormat, int kRows, bool kGate, int kDepth>
__global__ void __launch_bounds__(kThreads, kBlocksByRegisters)
    row_product_kernel(const __grid_constant__ ProductArgs a) {
  using F = Format<kFormat>;
  using Sum = typename F::Sum;
  constexpr bool kInt8 = kFormat == WeightFormat::int8;
  constexpr int kHalf = kLow<kRows>;
  let_next_start();
  const int units = unit_count<kRows, kGate>(a);
  const int lane = lane_index(), pieces = a.x.k / F::kOfPiece, step = blocks_x() * kWarps;
  const int r = lane % kRows;  // the row whose output is this lane's
  const size_t row_bytes = static_cast<size_t>(pieces) * kPieceBytes;
  const Job& second = a.jobs[kGate ? 1 : 0];
  const auto job_of = [&](const Unit& unit) -> const Job& { return kGate && r >= kHalf ? second : a.jobs[unit.job]; };
  const auto begin_unit = [&](Cursor* c) {
    if (c->work >= units) return;
    c->unit = find_unit<kRows, kGate>(a, c->work);
    const auto at = [&](const Job& job, int row) {
      return static_cast<const std::byte*>(job.w.w) + row * row_bytes + lane * sizeof(Bytes16);
    };
    c->low = at(a.jobs[c->unit.job], c->unit.low);
    c->high = at(kGate ? second : a.jobs[c->unit.job], c->unit.high);
  };
  const auto advance = [&](Cursor* c) {
    if (++c->piece < pieces) return;
    c->piece = 0;
    c->work += step;
    begin_unit(c);
  };
  Bytes16* const staged = reinterpret_cast<Bytes16*>(dynamic_shared()) + thread_index();  // [kDepth][kRows][kThreads]
  Cursor asked{block_x() + blocks_x() * warp_index()};
  const auto ask = [&](int slot) {
    if (asked.work < units) {
      const size_t at = static_cast<size_t>(asked.piece) * kPieceBytes;
      Bytes16* const to = staged + slot * kRows * kThreads;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const std::byte* const row = i < kHalf ? asked.low + i * row_bytes : asked.high + (i - kHalf) * row_bytes;
        copy16_async(to + i * kThreads, row + at, true);
      }
      advance(&asked);
    }
    close_copies();
  };
  begin_unit(&asked);
  int work = asked.work;
  Unit unit = asked.unit;
#pragma unroll 1
  for (int slot = 0; slot < kDepth; ++slot) ask(slot);
  prefetch_norm(a.norm, a.x.k, kThreads);
  touch(a);
  wait_for_previous();
  const OwnRow own = own_row(a.x.stride, kDepth * kRows * kThreads * sizeof(Bytes16));
  const int position = a.finish == Finish::qkv ? a.places.position[0] : 0;
  const auto look_beside = [&](const Unit& of) {
    Beside beside;
    const int n = r < kHalf ? of.low + r : of.high + r - kHalf;
    const Job& job = job_of(of);
    beside.n = n;
    if (kInt8) beside.absmax = job.w.absmax[n];
    if (job.bias) beside.bias = job.bias[n];
    if (a.finish == Finish::add) beside.old = job.y[n];
    if (of.rotates) {
      const int half = a.rotation.dims / 2;
      const size_t angle = static_cast<size_t>(position) * half + (r < kHalf ? n : n - half) % a.kv.head_dim;
      beside.cos = a.rotation.cos[angle];
      beside.sin = a.rotation.sin[angle];
    }
    return beside;
  };
  const float absmax = make_row<kThreads, kInt8>(own, a.x, a.norm);
  [[maybe_unused]] const bool has_outliers = kInt8 && own.outliers[0] > 0;
  Beside beside;
  const auto look_at_outliers = [&](const Unit& of) {
    if constexpr (kInt8) {
#pragma unroll
      for (int turn = 0; turn < kHeldOutliers; ++turn)
        beside.outlier[turn] = has_outliers ? outlier_code<kRows>(job_of(of), beside.n, own, turn) : int8_t{0};
    }
  };
  if (work < units) {
    beside = look_beside(unit);
    look_at_outliers(unit);
  }
  const std::byte* const x = reinterpret_cast<const std::byte*>(kInt8 ? static_cast<const void*>(own.codes) : own.x16) +
                             lane * sizeof(Bytes16);
  int slot = 0;
  while (work < units) {
    Sum sum[kRows] = {};
#pragma unroll 2
    for (int piece = 0; piece < pieces; ++piece) {
      const Bytes16 in = load16(x + static_cast<size_t>(piece) * kPieceBytes);
      wait_for_copies<kDepth - 1>();
      Bytes16 w[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) w[i] = load16(staged + (slot * kRows + i) * kThreads);
#pragma unroll
      for (int i = 0; i < kRows; ++i) F::add(&sum[i], w[i], in);
      ask(slot);
      slot = slot + 1 < kDepth ? slot + 1 : 0;
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) sum[i] = warp_sum(sum[i]);
    Sum total = sum[0];
#pragma unroll
    for (int i = 1; i < kRows; ++i) total = r == i ? sum[i] : total;
    const int n = beside.n;
    float value;
    if constexpr (kInt8) {
      value = finish_int8_of_lanes<kRows>(total, own, absmax, job_of(unit), beside);
    } else {
      value = total + beside.bias;
    }
    const float other = from_lane_xor(value, kHalf);
    if constexpr (kGate) {
      if (lane < kHalf) put_gated(a, 0, n, value, other);
    } else if (a.finish == Finish::qkv) {
      if (unit.rotates)
        value = r < kHalf ? value * beside.cos - other * beside.sin : value * beside.cos + other * beside.sin;
      if (lane < kRows) place(a, unit.job, 0, n, value);
    } else if (lane < kRows) {
      const float out = a.finish == Finish::add ? beside.old + value : activate(value, a.act);
      a.jobs[unit.job].y[n] = out;
      if (a.ready.x16) a.ready.x16[n] = half_of_float(out);
    }
    work += step;
    if (work < units) {
      unit = find_unit<kRows, kGate>(a, work);
      beside = look_beside(unit);
      look_at_outliers(unit);
    }
  }
}

// With as much on the way as lets two blocks be on a multiprocessor, one of them of the next kernel if need be.
template <WeightFormat kFormat, int kRows, bool kGate, int kDepth>
bool multiply_units(const ProductArgs& args, const Room& room, const Stream& stream) {
  const size_t shared = own_row_bytes(kFormat, args.x.k) + size_t{kDepth} * kRows * kThreads * sizeof(Bytes16);
  const size_t all = shared + kStaticShared;
  if (blocks_that_fit(all, room) < 2) {
    constexpr int kLess = kDepth > 8 ? 8 : kDepth - 2;
    if constexpr (kLess >= 2) return multiply_units<kFormat, kRows, kGate, kLess>(args, room, stream);
    if (all > room.shared_bytes) return false;
  }
  const int wanted = (unit_count<kRows, kGate>(args) + kWarps - 1) / kWarps;
  launch(row_product_kernel<kFormat, kRows, kGate, kDepth>, {row_blocks(wanted, all, kBlocksByRegisters, room)},
         kThreads, stream, args, shared);
  return true;
}

template <WeightFormat kFormat, int kRows, int kDepth>
bool multiply_rows(const ProductArgs& args, const Room& room, const Stream& stream) {
  for (int i = 0; i < args.job_count; ++i) {
    if (args.jobs[i].w.n % kRows != 0) return false;
  }
  if constexpr (kRows > 1) {
    if (args.finish == Finish::gate) return multiply_units<kFormat, kRows, true, kDepth>(args, room, stream);
  }
  return multiply_units<kFormat, kRows, false, kDepth>(args, room, stream);
}

template <WeightFormat kFormat, int kRows>
bool multiply_by(const ProductArgs& args, const Room& room, const Stream& stream) {
  if (args.x.k % Format<kFormat>::kOfPiece != 0) return false;
  // Those with few rows would leave warps without.
  if (args.finish == Finish::add) return multiply_rows<kFormat, 1, kHeld / 2>(args, room, stream);
  return multiply_rows<kFormat, kRows, kHeld / kRows>(args, room, stream);
}

}  // namespace

bool multiply_row(const ProductArgs& args, const Room& room, const Stream& stream) {
  if (!args.own_rows) return false;
  switch (args.jobs[0].w.format) {
    case WeightFormat::f16: return multiply_by<WeightFormat::f16, 2>(args, room, stream);
    case WeightFormat::int8: return multiply_by<WeightFormat::int8, 4>(args, room, stream);
    case WeightFormat::bf16: return multiply_by<WeightFormat::bf16, 2>(args, room, stream);
    case WeightFormat::nf4:
    case WeightFormat::f32: return false;
  }
  return false;
}

}  // namespace quantbench::QB_CUDA
