#include "backend/cpu/linears.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <vector>

#include "quant/nf4.h"

namespace quantbench::cpu {
namespace {

// Outputs are given out in units, of the streamed products so many at once that they are about kRunBytes: what is
// prefetched beyond the end of a run is read in vain (4 KB of 64 cost 6 %), and a gated pair reads now here, now there.
// Towards the end fewer are given out at a time, so that no thread waits long for another.
constexpr size_t kRunBytes = size_t{1} << 20, kUnitBytes = size_t{16} << 10;
constexpr int kLeastUnit = 4;  // weight rows that kernels read side by side
constexpr int kFewRowsCols = static_cast<int>(Workspace::kTileFloats / kFewRows);  // outputs that fit a tile

bool is_nf4(const Linear& w) { return std::holds_alternative<Nf4Matrix>(w.weight); }

size_t output_bytes(const Job& job) {
  return std::max<size_t>(format_bytes(format_of(job.w->weight), 1, cols_of(job.w->weight)).codes, 1) *
         (job.gate ? 2 : 1);
}

int unit_cols(const Job& job, int rows) {
  if (rows > kFewRows) return kGemmCols;
  if (is_nf4(*job.w)) return kTile;
  const size_t cols = kUnitBytes / output_bytes(job) / kLeastUnit * kLeastUnit;
  return std::clamp(static_cast<int>(cols), kLeastUnit, kTile);
}

size_t units_at_once(const Job& job, int rows) {
  if (rows > kFewRows) return 1;
  const size_t cols = static_cast<size_t>(unit_cols(job, rows));
  return std::clamp<size_t>(kRunBytes / (output_bytes(job) * cols), 1, kFewRowsCols / cols);
}

bool is_int8(const Linear& w) { return std::holds_alternative<Int8Matrix>(w.weight); }

const uint16_t* bits(const f16* p) { return reinterpret_cast<const uint16_t*>(p); }

}  // namespace

Nf4Weight view(const Nf4Matrix& m) {
  return {m.n, m.k, m.w, m.absmax8, m.absmax, m.nested_absmax, nested_code().data(), m.offset};
}

Activation view(Act act) {
  switch (act) {
    case Act::none: return Activation::none;
    case Act::silu: return Activation::silu;
    case Act::gelu_tanh: return Activation::gelu_tanh;
    case Act::relu: return Activation::relu;
  }
  return Activation::none;
}

void Linears::run(Tensor x, const Norm* norm, std::span<const Job> jobs) {
  assert(workspace_.dense && x.rows <= workspace_.shape.rows && x.cols <= workspace_.shape.k);
  // Jobs of one op have one format as a rule; where they do not, each kind gets its own form of the input.
  constexpr size_t kMostJobs = 4;
  for (const bool int8 : {false, true}) {
    Job group[kMostJobs];
    size_t count = 0;
    for (const Job& job : jobs) {
      assert(!job.gate || is_int8(*job.gate) == is_int8(*job.w));
      if (is_int8(*job.w) == int8) group[count++] = job;
    }
    if (count != 0) run_group(x, norm, {group, count}, int8);
  }
}

void Linears::run_group(Tensor x, const Norm* norm, std::span<const Job> jobs, bool int8) {
  if (!int8 && x.rows > kFewRows) {
    const int most = static_cast<int>(workspace_.dense_floats / static_cast<size_t>(x.cols)) / kTile * kTile;
    if (x.rows > most) {
      const int pieces = static_cast<int>(ceil_div(x.rows, most));
      const int each = static_cast<int>(ceil_div(ceil_div(x.rows, pieces), kTile)) * kTile;
      for (int first = 0; first < x.rows; first += each) {
        std::vector<Job> part(jobs.begin(), jobs.end());
        for (Job& job : part) job.y += static_cast<size_t>(first) * static_cast<size_t>(rows_of(job.w->weight));
        run_group(x.slice(first, std::min(each, x.rows - first)), norm, part, int8);
      }
      return;
    }
  }
  const bool nf4 = std::any_of(jobs.begin(), jobs.end(),
                               [](const Job& job) { return std::holds_alternative<Nf4Matrix>(job.w->weight); });
  const Input in = x.rows <= kFewRows ? few_rows(x, norm, int8, nf4)
                   : int8             ? many_rows_int8(x, norm)
                                      : many_rows(x, norm);
  size_t units = 0, most = kRunBytes;
  for (const Job& job : jobs) {
    units += ceil_div(rows_of(job.w->weight), unit_cols(job, x.rows));
    most = std::min(most, units_at_once(job, x.rows));
  }
  pool_.for_runs(units, most, [&](size_t begin, size_t end, int thread) {
    size_t job_begin = 0;  // in units
    for (const Job& job : jobs) {
      const int n = rows_of(job.w->weight), cols = unit_cols(job, x.rows);
      const size_t job_end = job_begin + ceil_div(n, cols);
      const size_t from = std::max(begin, job_begin), to = std::min(end, job_end);
      if (from < to) {
        run_piece(in, job, static_cast<int>(from - job_begin) * cols,
                  std::min(n, static_cast<int>(to - job_begin) * cols), thread);
      }
      job_begin = job_end;
    }
  });
}

Linears::Input Linears::few_rows(Tensor x, const Norm* norm, bool int8, bool nf4) {
  const size_t k = static_cast<size_t>(x.cols);
  Input in{.rows = x.rows, .k = x.cols};
  const float* rows = x.f32();
  if (norm) {
    for (int r = 0; r < x.rows; ++r) {
      kernels_.normalize(workspace_.dense + r * k, x.f32(r), x.cols, norm->weight, norm->bias, norm->eps,
                         norm->centered);
    }
    rows = workspace_.dense;
  }
  if (!int8) {
    in.fp32 = {x.rows, rows, k, nullptr, nullptr};
    if (nf4 && kernels_.nf4_in_int16 && k % kNf4Block == 0) {
      const size_t blocks = k / kNf4Block;
      for (int r = 0; r < x.rows; ++r) {
        kernels_.quantize_nf4_row(workspace_.nf4_codes + r * k, workspace_.nf4_scales + r * blocks, rows + r * k,
                                  x.cols);
      }
      in.fp32.codes = workspace_.nf4_codes;
      in.fp32.scales = workspace_.nf4_scales;
    }
    return in;
  }
  kernels_.round_half(workspace_.dense, rows, k * static_cast<size_t>(x.rows));
  std::memset(workspace_.masks, 0, k);
  bool any = false;
  for (int r = 0; r < x.rows; ++r) {
    any |= kernels_.mark_outliers(workspace_.masks, workspace_.dense + r * k, x.cols, kInt8Threshold);
  }
  const int outliers = any ? list_outliers(1, x.cols) : 0;
  const size_t stride = codes_stride(x.cols);
  auto* codes = static_cast<int8_t*>(workspace_.codes);
  for (int r = 0; r < x.rows; ++r) {
    workspace_.sums[r] = kernels_.quantize_row(codes + r * stride, workspace_.absmax + r, workspace_.dense + r * k,
                                               x.cols, kInt8Threshold, workspace_.columns, outliers);
  }
  in.few = {x.rows,          x.cols, codes, stride, workspace_.absmax, workspace_.sums, outliers, workspace_.columns,
            workspace_.dense};
  return in;
}

// Panels of 16 rows; a thread normalises the rows of a panel in its own scratch and packs them.
Linears::Input Linears::many_rows(Tensor x, const Norm* norm) {
  const size_t k = static_cast<size_t>(x.cols);
  const size_t panels = ceil_div(x.rows, kTile);
  pool_.for_chunks(panels, 1, [&](size_t begin, size_t end, int thread) {
    for (size_t panel = begin; panel < end; ++panel) {
      const int first = static_cast<int>(panel) * kTile, count = std::min(kTile, x.rows - first);
      const float* rows = x.f32(first);
      if (norm) {
        float* const normed = workspace_.scratch(thread);
        for (int r = 0; r < count; ++r) {
          kernels_.normalize(normed + r * k, x.f32(first + r), x.cols, norm->weight, norm->bias, norm->eps,
                             norm->centered);
        }
        rows = normed;
      }
      kernels_.pack_panel(workspace_.dense + static_cast<size_t>(first) * k, rows, k, count, x.cols);
    }
  });
  return {.rows = x.rows, .k = x.cols, .panels = workspace_.dense};
}

// Two passes, because a column with one outlier is an outlier in every row.
Linears::Input Linears::many_rows_int8(Tensor x, const Norm* norm) {
  const size_t k = static_cast<size_t>(x.cols), stride = codes_stride(x.cols);
  const size_t panels = ceil_div(x.rows, kTile);
  const int threads = pool_.size();
  std::memset(workspace_.masks, 0, k * static_cast<size_t>(threads));
  pool_.for_chunks(panels, 1, [&](size_t begin, size_t end, int thread) {
    const int first = static_cast<int>(begin) * kTile, last = std::min(static_cast<int>(end) * kTile, x.rows);
    for (int r = first; r < last; ++r) {
      float* const row = workspace_.dense + r * k;
      const float* from = x.f32(r);
      if (norm) {
        kernels_.normalize(row, from, x.cols, norm->weight, norm->bias, norm->eps, norm->centered);
        from = row;
      }
      kernels_.round_half(row, from, k);
      kernels_.mark_outliers(workspace_.masks + k * static_cast<size_t>(thread), row, x.cols, kInt8Threshold);
    }
  });
  const int outliers = list_outliers(threads, x.cols);
  const size_t panel_bytes = ceil_div(k, static_cast<size_t>(kernels_.int8_per_dword)) * kTile * sizeof(int32_t);
  auto* const packed = static_cast<std::byte*>(workspace_.codes);
  pool_.for_chunks(panels, 1, [&](size_t begin, size_t end, int thread) {
    auto* const codes = reinterpret_cast<int8_t*>(workspace_.scratch(thread));
    for (size_t panel = begin; panel < end; ++panel) {
      const int first = static_cast<int>(panel) * kTile, count = std::min(kTile, x.rows - first);
      for (int r = 0; r < kTile; ++r) {  // rows of padding get neutral numbers
        const bool real = r < count;
        workspace_.absmax[first + r] = 0;
        workspace_.sums[first + r] =
            !real ? 0
                  : kernels_.quantize_row(codes + static_cast<size_t>(r) * stride, workspace_.absmax + first + r,
                                          workspace_.dense + static_cast<size_t>(first + r) * k, x.cols, kInt8Threshold,
                                          workspace_.columns, outliers);
      }
      kernels_.pack_codes(packed + panel * panel_bytes, codes, stride, count, x.cols);
    }
  });
  Input in{.rows = x.rows, .k = x.cols};
  in.many = {x.rows,          x.cols, packed, workspace_.absmax, workspace_.sums, outliers, workspace_.columns,
             workspace_.dense};
  return in;
}

// The columns marked in any of the first `masks` masks, ascending.
int Linears::list_outliers(int masks, int k) {
  constexpr int kWord = sizeof(uint64_t);  // marks are few: eight columns are passed over at a time
  int count = 0;
  for (int i = 0; i < k;) {
    if (i + kWord <= k) {
      uint64_t marks = 0, of_mask = 0;
      for (int m = 0; m < masks; ++m) {
        std::memcpy(&of_mask, workspace_.masks + static_cast<size_t>(m) * k + i, kWord);
        marks |= of_mask;
      }
      if (marks == 0) {
        i += kWord;
        continue;
      }
    }
    for (const int end = std::min(k, i + kWord); i < end; ++i) {
      uint8_t marked = 0;
      for (int m = 0; m < masks; ++m) marked |= workspace_.masks[static_cast<size_t>(m) * k + i];
      if (marked) workspace_.columns[count++] = i;
    }
  }
  return count;
}

void Linears::run_piece(const Input& in, const Job& job, int first, int last, int thread) {
  float* const tile = workspace_.tile(thread);
  float* const gate = workspace_.second_tile(thread);
  float* const scratch = workspace_.scratch(thread);
  const int n = rows_of(job.w->weight), count = last - first;
  const size_t ld = static_cast<size_t>(count);
  // int8 products carry their bias already.
  const auto bias_of = [first](const Linear& w) { return w.bias && !is_int8(w) ? w.bias + first : nullptr; };
  const Activation act = view(job.act);
  for (int row = 0; row < in.rows; row += kGemmRows) {
    const int rows = std::min(kGemmRows, in.rows - row);
    multiply(tile, ld, in, *job.w, first, last, row, rows, scratch);
    if (job.gate) multiply(gate, ld, in, *job.gate, first, last, row, rows, scratch);
    for (int r = 0; r < rows; ++r) {
      float* const y = job.y + static_cast<size_t>(row + r) * n + first;
      const float* from = tile + r * ld;
      switch (job.finish) {
        case Job::Finish::store: kernels_.finish_store(y, from, bias_of(*job.w), count, act); break;
        case Job::Finish::add: kernels_.finish_add(y, from, bias_of(*job.w), count); break;
        case Job::Finish::gate:
          kernels_.finish_gate(y, gate + r * ld, bias_of(*job.gate), from, bias_of(*job.w), count, act);
          break;
      }
    }
  }
}

// y: [rows, ldy], rows [row, row + rows) of the input times rows [first, last) of the weight.
void Linears::multiply(float* y, size_t ldy, const Input& in, const Linear& w, int first, int last, int row, int rows,
                       float* scratch) const {
  const size_t k = static_cast<size_t>(in.k);
  const bool few = in.rows <= kFewRows;
  const float* panels = few ? nullptr : in.panels + static_cast<size_t>(row) * k;
  if (const auto* m = std::get_if<F16Matrix>(&w.weight)) {
    if (few) return kernels_.few_rows_f16(y, ldy, in.fp32.x, k, rows, bits(m->w), m->k, first, last, fetches_);
    return kernels_.gemm_f16(y, ldy, panels, rows, bits(m->w), m->k, first, last, scratch);
  }
  if (const auto* m = std::get_if<Bf16Matrix>(&w.weight)) {
    const auto* bf16s = reinterpret_cast<const Bf16*>(m->w);
    if (few) return kernels_.few_rows_bf16(y, ldy, in.fp32.x, k, rows, bf16s, m->k, first, last, fetches_);
    return kernels_.gemm_bf16(y, ldy, panels, rows, bf16s, m->k, first, last, scratch);
  }
  if (const auto* m = std::get_if<F32Matrix>(&w.weight)) {
    if (few) return kernels_.few_rows_f32(y, ldy, in.fp32.x, k, rows, m->w, m->k, first, last, fetches_);
    return kernels_.gemm_f32(y, ldy, panels, rows, m->w, m->k, first, last, scratch);
  }
  if (const auto* m = std::get_if<Nf4Matrix>(&w.weight)) {
    if (few) return kernels_.few_rows_nf4(y, ldy, in.fp32, view(*m), first, last, scratch);
    return kernels_.gemm_nf4(y, ldy, panels, rows, view(*m), first, last, scratch);
  }
  const auto& m = std::get<Int8Matrix>(w.weight);
  const Int8Weight weight{m.w, m.absmax};
  if (few) return kernels_.few_rows_int8(y, ldy, in.few, weight, w.bias, first, last);
  Int8Panels part = in.many;
  const size_t panel_bytes = ceil_div(k, static_cast<size_t>(kernels_.int8_per_dword)) * kTile * sizeof(int32_t);
  part.rows = rows;
  part.codes = static_cast<const std::byte*>(part.codes) + static_cast<size_t>(row / kTile) * panel_bytes;
  part.absmax += row;
  part.sums += row;
  part.x += static_cast<size_t>(row) * k;
  kernels_.gemm_int8(y, ldy, part, weight, w.bias, first, last, scratch);
}

}  // namespace quantbench::cpu
