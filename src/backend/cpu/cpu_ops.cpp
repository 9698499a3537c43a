#include "backend/cpu/cpu_ops.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

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

// The vocabulary cut for the threads.
struct Parts {
  explicit Parts(int ids)
      : vocab(ids),
        size(ceil_div(static_cast<size_t>(ids), Workspace::kArgMaxParts)),
        count(ceil_div(static_cast<size_t>(ids), size)) {}
  int first(size_t part) const { return std::min(static_cast<int>(part * size), vocab); }
  int vocab;
  size_t size, count;
};
constexpr size_t kPartsAtOnce = 8;

// A head's biases by distance, of those distances that occur in the block. bias: [2 · reach + 1]
void fill_biases(const DistanceBias& of, const AttendBlock& block, size_t heads, size_t head, float* bias) {
  const auto [first, last] = std::minmax_element(block.position, block.position + block.count);
  const int length = *std::max_element(block.length, block.length + block.count);
  const int nearest = std::max(of.reach - *last, 0), furthest = std::min(of.reach + length - 1 - *first, 2 * of.reach);
  for (int i = nearest; i <= furthest; ++i) bias[i] = of.values[static_cast<size_t>(of.bucket[i]) * heads + head];
}

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
  const size_t d = static_cast<size_t>(cols_of(*op.table));
  const auto* const half = std::get_if<F16Matrix>(op.table);
  for_rows(pool_, op.rows.count, [&](int r) {
    const size_t at = static_cast<size_t>(op.rows.token[r]) * d;
    if (half) {
      kernels_.widen(op.x.f32(r), reinterpret_cast<const uint16_t*>(half->w) + at, d, op.scale);
    } else {
      const auto* rows = reinterpret_cast<const Bf16*>(std::get<Bf16Matrix>(*op.table).w);
      kernels_.widen_bf16(op.x.f32(r), rows + at, d, op.scale);
    }
  });
}

void CpuOps::qkv(const Qkv& op) {
  const Workspace& w = linears_.workspace();
  const KvLayer& kv = op.kv;
  const Job jobs[] = {{.w = op.wq, .y = op.q.f32()}, {.w = op.wk, .y = w.keys}, {.w = op.wv, .y = w.values}};
  linears_.run(op.x, op.norm, jobs);
  const int d = kv.head_dim;
  const size_t kv_cols = static_cast<size_t>(kv.heads) * static_cast<size_t>(d);
  for_rows(pool_, op.rows.count, [&](int r) {
    const int position = op.rows.position[r];
    float* const keys = w.keys + r * kv_cols;
    if (op.rope) {
      const size_t half = static_cast<size_t>(op.rope->dims) / 2;
      const float *cos = op.rope->cos + position * half, *sin = op.rope->sin + position * half;
      for (int i = 0; i < op.q.cols; i += d) kernels_.rotate(op.q.f32(r) + i, cos, sin, op.rope->dims);
      for (int h = 0; h < kv.heads; ++h) kernels_.rotate(keys + static_cast<size_t>(h) * d, cos, sin, op.rope->dims);
    }
    store_row(kv, op.rows, r);
  });
}

void CpuOps::store_kv(const StoreKv& op) {
  const Workspace& w = linears_.workspace();
  const Job jobs[] = {{.w = op.wk, .y = w.keys}, {.w = op.wv, .y = w.values}};
  linears_.run(op.x, op.norm, jobs);
  for_rows(pool_, op.rows.count, [&](int r) { store_row(op.kv, op.rows, r); });
}

// Key and value of a row go from the workspace to its place in the cache.
void CpuOps::store_row(const KvLayer& kv, const Rows& rows, int r) {
  const Workspace& w = linears_.workspace();
  const int position = rows.position[r], d = kv.head_dim;
  const size_t from = static_cast<size_t>(r) * static_cast<size_t>(kv.heads) * static_cast<size_t>(d);
  for (int h = 0; h < kv.heads; ++h) {
    const size_t at = head_at(kv, rows.sequence[r], h);
    kernels_.store_key(bits(kv.k + at), w.keys + from + static_cast<size_t>(h) * d, position, kv.positions, d);
    kernels_.narrow(bits(kv.v + at) + static_cast<size_t>(position) * d, w.values + from + static_cast<size_t>(h) * d,
                    static_cast<size_t>(d));
  }
}

// Work is cut by key/value head and by queries that share its keys: all rows and all q heads of the group, eight at a
// time, later rows first because they see more positions. Where that leaves threads without work (one head for all
// queries and one row), as many at a time as give each thread some.
void CpuOps::attend(const Attend& op) {
  const Workspace& w = linears_.workspace();
  const KvLayer& kv = op.kv;
  const int d = kv.head_dim, group = op.q.cols / d / kv.heads;
  const int queries = op.rows.count * group;
  const size_t heads = static_cast<size_t>(op.q.cols / d), kv_heads = static_cast<size_t>(kv.heads);
  const size_t each = ceil_div(static_cast<size_t>(queries) * kv_heads, static_cast<size_t>(pool_.size()));
  const int at_once = static_cast<int>(std::min<size_t>(each, kAttendQueries));
  const size_t blocks = ceil_div(static_cast<size_t>(queries), static_cast<size_t>(at_once));
  pool_.for_chunks(blocks * kv_heads, 1, [&](size_t begin, size_t end, int thread) {
    for (size_t item = begin; item < end; ++item) {
      const int head = static_cast<int>(item % kv_heads);
      const int first = static_cast<int>(blocks - 1 - item / kv_heads) * at_once;
      const int last = std::min(first + at_once, queries);
      // A thread's scratch begins with the biases of a head by distance.
      float* const bias = w.scratch(thread);
      float* const scratch = op.bias ? bias + bias_scratch(op.bias->reach) : bias;
      for (int q = first; q < last;) {
        const int sequence = op.rows.sequence[q / group], first_head = head * group + q % group;
        AttendBlock block;
        if (op.bias) {
          block.bias = bias;
          block.reach = op.bias->reach;
        }
        // With a bias the queries of a block are of one head.
        do {
          const int row = q / group, column = (head * group + q % group) * d;
          block.q[block.count] = op.q.f32(row) + column;
          block.out[block.count] = op.a.f32(row) + column;
          block.position[block.count] = op.rows.position[row];
          block.length[block.count++] = op.lengths ? op.lengths[row] : op.rows.position[row] + 1;
        } while (++q < last && op.rows.sequence[q / group] == sequence &&
                 (!op.bias || head * group + q % group == first_head));
        if (op.bias) fill_biases(*op.bias, block, heads, static_cast<size_t>(first_head), bias);
        const size_t at = head_at(kv, sequence, head);
        block.k = bits(kv.k + at);
        block.v = bits(kv.v + at);
        block.positions = kv.positions;
        block.head_dim = d;
        block.scale = op.scale;
        kernels_.attend(block, scratch);
      }
    }
  });
}

void CpuOps::add_linear(const AddLinear& op) {
  const Job job{.w = op.w, .y = op.x.f32(), .finish = Job::Finish::add};
  linears_.run(op.a, nullptr, {&job, 1});
}

void CpuOps::gated_up(const GatedUp& op) {
  const Job job{.w = op.up, .gate = op.gate, .y = op.h.f32(), .finish = Job::Finish::gate, .act = op.act};
  linears_.run(op.x, op.norm, {&job, 1});
}

void CpuOps::project(const Project& op) {
  const Job job{.w = op.w, .y = op.y.f32(), .act = op.act};
  linears_.run(op.x, op.norm, {&job, 1});
}

void CpuOps::next_token(const NextToken& op) {
  for (int r = 0; r < op.rows.count; ++r) {
    if (is_done(op, r)) continue;
    take_token(op, r, best_token(op.logits.f32(r), op.logits.cols, op.sampling, op.rows.position[r]));
  }
}

// The vocabulary in parts, each thread finding the best of some; then the best part, the first one where they tie.
int32_t CpuOps::best_token(const float* logits, int vocab, const Sampling& sampling, int32_t position) {
  const Workspace& w = linears_.workspace();
  const Parts parts(vocab);
  const uint32_t least = sampling.cuts(vocab) ? least_key(logits, vocab, sampling) : 0;
  const auto search = [&](size_t begin, size_t end, int) {
    for (size_t p = begin; p < end; ++p) {
      const int first = parts.first(p), count = parts.first(p + 1) - first;
      float best = -INFINITY;
      int at = -1;
      if (sampling.temperature > 0) {
        for (int i = 0; i < count; ++i) {
          if (order_key(logits[first + i]) < least) continue;
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
  pool_.for_chunks(parts.count, kPartsAtOnce, search);
  int32_t token = 0;
  float best = -INFINITY;
  for (size_t p = 0; p < parts.count; ++p) {
    if (w.best_id[p] >= 0 && w.best[p] > best) best = w.best[p], token = w.best_id[p];
  }
  return token;
}

// The key of the least logit that stays.
uint32_t CpuOps::least_key(const float* logits, int vocab, const Sampling& sampling) {
  uint32_t least = 0;
  if (sampling.cuts_by_rank(vocab)) {
    const auto rank = [&](uint64_t) { return static_cast<uint64_t>(sampling.top_k); };
    least = key_at_rank(logits, vocab, rank, [](uint32_t, float) { return uint64_t{1}; });
  }
  if (!sampling.cuts_by_mass()) return least;
  float most = -INFINITY;
  kernels_.arg_max(logits, vocab, &most);
  const auto mass = [&](uint32_t key, float logit) {
    return key < least ? 0 : sampling_mass(logit, most, sampling.temperature);
  };
  return key_at_rank(
      logits, vocab, [&](uint64_t total) { return mass_to_keep(sampling.top_p, total); }, mass);
}

// The largest key so that all ids from it on have at least a weight of rank_of(all ids' weight); 0 for a rank of 0.
template <typename Rank, typename Weight>
uint32_t CpuOps::key_at_rank(const float* logits, int vocab, const Rank& rank_of, const Weight& weight_of) {
  const Parts parts(vocab);
  const size_t all = static_cast<size_t>(pool_.size()) * kDigitValues;
  uint64_t* const sums = linears_.workspace().digits;  // of the first thread, then of all
  uint32_t prefix = 0;
  uint64_t rank = 0;
  for (int digit = 0; digit < kKeyDigits; ++digit) {
    std::fill_n(sums, all, 0);
    pool_.for_chunks(parts.count, kPartsAtOnce, [&](size_t begin, size_t end, int thread) {
      uint64_t* const own = sums + static_cast<size_t>(thread) * kDigitValues;
      for (int id = parts.first(begin); id < parts.first(end); ++id) {
        const uint32_t key = order_key(logits[id]);
        if (has_prefix(key, digit, prefix)) own[digit_of(key, digit)] += weight_of(key, logits[id]);
      }
    });
    for (size_t i = kDigitValues; i < all; ++i) sums[i % kDigitValues] += sums[i];
    if (digit == 0) rank = rank_of(std::accumulate(sums, sums + kDigitValues, uint64_t{0}));
    if (rank == 0) return 0;
    uint32_t value = (1u << digit_bits(digit)) - 1;
    for (; sums[value] < rank; --value) rank -= sums[value];
    prefix = prefix << digit_bits(digit) | value;
  }
  return prefix;
}

}  // namespace quantbench::cpu
