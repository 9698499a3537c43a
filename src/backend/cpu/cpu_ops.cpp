#include "backend/cpu/cpu_ops.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "backend/sampling.h"

namespace quantbench::cpu {
namespace {

// Rows are cheap to embed, rotate and store: below this many the calling thread does it alone.
constexpr int kRowsWorthSharing = 8;
constexpr size_t kRowsAtOnce = kTile;  // whole key tiles, so that two threads seldom write to one line

// First element of a head's part of the cache.
size_t head_at(const KvLayer& kv, int sequence, int head) {
  return (static_cast<size_t>(sequence) * kv.heads + head) * kv.positions * kv.head_dim;
}

uint16_t* bits(f16* p) { return reinterpret_cast<uint16_t*>(p); }

template <typename Body>
void for_rows(ThreadPool& pool, int rows, const Body& body) {
  if (rows < kRowsWorthSharing) {
    for (int r = 0; r < rows; ++r) body(r);
    return;
  }
  pool.for_chunks(static_cast<size_t>(rows), kRowsAtOnce, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) body(static_cast<int>(r));
  });
}

}  // namespace

void CpuOps::embed(const Embed& op) {
  const size_t d = static_cast<size_t>(op.table->k);
  for_rows(pool_, op.rows.count, [&](int r) {
    const auto* row = reinterpret_cast<const uint16_t*>(op.table->w) + static_cast<size_t>(op.rows.token[r]) * d;
    kernels_.widen(op.x.f32(r), row, d, op.scale);
  });
}

void CpuOps::qkv(const Qkv& op) {
  const Workspace& w = linears_.workspace();
  const KvLayer& kv = op.kv;
  const Job jobs[] = {{.w = op.wq, .y = op.q.f32()}, {.w = op.wk, .y = w.keys}, {.w = op.wv, .y = w.values}};
  linears_.run(op.x, op.norm, jobs);
  const int d = kv.head_dim;
  const size_t kv_cols = static_cast<size_t>(kv.heads) * d;
  for_rows(pool_, op.rows.count, [&](int r) {
    const int position = op.rows.position[r], sequence = op.rows.sequence[r];
    float* const keys = w.keys + r * kv_cols;
    if (op.rope) {
      const size_t half = static_cast<size_t>(op.rope->dims) / 2;
      const float *cos = op.rope->cos + position * half, *sin = op.rope->sin + position * half;
      for (int i = 0; i < op.q.cols; i += d) kernels_.rotate(op.q.f32(r) + i, cos, sin, op.rope->dims);
      for (int h = 0; h < kv.heads; ++h) kernels_.rotate(keys + h * d, cos, sin, op.rope->dims);
    }
    for (int h = 0; h < kv.heads; ++h) {
      const size_t at = head_at(kv, sequence, h);
      kernels_.store_key(bits(kv.k + at), keys + h * d, position, kv.positions, d);
      kernels_.narrow(bits(kv.v + at) + static_cast<size_t>(position) * d, w.values + r * kv_cols + h * d,
                      static_cast<size_t>(d));
    }
  });
}

// Work is cut by key/value head and by queries that share its keys: all rows and all q heads of the group, eight at a
// time, later rows first because they see more positions.
void CpuOps::attend(const Attend& op) {
  const Workspace& w = linears_.workspace();
  const KvLayer& kv = op.kv;
  const int d = kv.head_dim, group = op.q.cols / d / kv.heads;
  const int queries = op.rows.count * group;
  const size_t blocks = ceil_div(static_cast<size_t>(queries), kAttendQueries);
  pool_.for_chunks(blocks * static_cast<size_t>(kv.heads), 1, [&](size_t begin, size_t end, int thread) {
    for (size_t item = begin; item < end; ++item) {
      const int head = static_cast<int>(item % static_cast<size_t>(kv.heads));
      const int first = static_cast<int>(blocks - 1 - item / static_cast<size_t>(kv.heads)) * kAttendQueries;
      const int last = std::min(first + kAttendQueries, queries);
      for (int q = first; q < last;) {
        const int sequence = op.rows.sequence[q / group];
        AttendBlock block;
        for (; q < last && op.rows.sequence[q / group] == sequence; ++q) {
          const int row = q / group, column = (head * group + q % group) * d;
          block.q[block.count] = op.q.f32(row) + column;
          block.out[block.count] = op.a.f32(row) + column;
          block.length[block.count++] = op.rows.position[row] + 1;
        }
        const size_t at = head_at(kv, sequence, head);
        block.k = bits(kv.k + at);
        block.v = bits(kv.v + at);
        block.positions = kv.positions;
        block.head_dim = d;
        block.scale = op.scale;
        kernels_.attend(block, w.scratch(thread));
      }
    }
  });
}

void CpuOps::add_linear(const AddLinear& op) {
  const Job job{.finish = Job::Finish::add, .w = op.w, .y = op.x.f32()};
  linears_.run(op.a, nullptr, {&job, 1});
}

void CpuOps::gated_up(const GatedUp& op) {
  const Job job{.finish = Job::Finish::gate, .w = op.up, .gate = op.gate, .y = op.h.f32(), .act = op.act};
  linears_.run(op.x, op.norm, {&job, 1});
}

void CpuOps::project(const Project& op) {
  const Job job{.w = op.w, .y = op.y.f32(), .act = op.act};
  linears_.run(op.x, op.norm, {&job, 1});
}

void CpuOps::next_token(const NextToken& op) {
  for (int r = 0; r < op.rows.count; ++r) {
    const int32_t position = op.rows.position[r];
    const int32_t token = best_token(op.logits.f32(r), op.logits.cols, op.sampling, position);
    op.rows.token[r] = token;
    op.rows.position[r] = position + 1;
    if (op.history && position + 1 < op.history_positions) {
      op.history[static_cast<size_t>(op.rows.sequence[r]) * op.history_positions + position + 1] = token;
    }
  }
}

// The vocabulary in parts, each thread finding the best of some; then the best part, the first one where they tie.
int32_t CpuOps::best_token(const float* logits, int vocab, const Sampling& sampling, int32_t position) {
  const Workspace& w = linears_.workspace();
  const int part = static_cast<int>(ceil_div(static_cast<size_t>(vocab), Workspace::kArgMaxParts));
  const int parts = static_cast<int>(ceil_div(static_cast<size_t>(vocab), static_cast<size_t>(part)));
  const auto search = [&](size_t begin, size_t end, int) {
    for (size_t p = begin; p < end; ++p) {
      const int first = static_cast<int>(p) * part, count = std::min(part, vocab - first);
      float best = -INFINITY;
      int at = -1;
      if (sampling.temperature > 0) {
        for (int i = 0; i < count; ++i) {
          const float score =
              sampling_score(logits[first + i], sampling.temperature, sampling.seed, position, first + i);
          if (score > best) best = score, at = i;
        }
      } else {
        at = kernels_.arg_max(logits + first, count, &best);
      }
      w.best[p] = best;
      w.best_id[p] = at < 0 ? -1 : first + at;
    }
  };
  constexpr size_t kPartsAtOnce = 8;
  pool_.for_chunks(static_cast<size_t>(parts), kPartsAtOnce, search);
  int32_t token = 0;
  float best = -INFINITY;
  for (int p = 0; p < parts; ++p) {
    if (w.best_id[p] >= 0 && w.best[p] > best) best = w.best[p], token = w.best_id[p];
  }
  return token;
}

}  // namespace quantbench::cpu
