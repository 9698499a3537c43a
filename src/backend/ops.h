// The operations a forward pass is made of, one argument struct each. A model states their order; a backend decides
// how they are done. Common contract:
//  - outputs come first; no operand may alias an output unless the op says so;
//  - ops neither allocate nor synchronise with the host, and shapes never depend on the data;
//  - activations are fp32 tensors; rows are independent unless the op mixes them (attend, and LLM.int8's rule below);
//  - one thread at a time calls into an Ops.
// Linears: fp16 weights multiply fp32 activations, which a backend may round to fp16 first (tensor cores), accumulated
// in fp32; bf16 weights likewise, which may become fp16 first. int8 is LLM.int8 at threshold 6.0: its input
// is rounded to fp16 first, its output is rounded to fp16 twice (bitsandbytes' arithmetic, see quant/int8.h), and with
// more than one row an outlier column is one for all rows of the call. nf4 multiplies unscaled codes, scales each block
// of 64 in fp32 and accumulates in fp32; code and activation may be rounded to whole numbers inside a block as long as
// the error stays below that of bitsandbytes' fp16 products.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "core/tensor.h"
#include "quant/matrix.h"

namespace quantbench {

enum class Act : uint8_t {
  none,
  silu,
  gelu_tanh,
  relu
};  // gelu_tanh: 0.5x(1+tanh(√(2/π)(x+0.044715x³))), HF's gelu_new

struct Norm {                     // RMSNorm, or LayerNorm if centered; computed in fp32
  const float* weight = nullptr;  // [d]
  const float* bias = nullptr;    // [d] or null
  float eps = 0;
  bool centered = false;
};
struct Linear {                 // y = x·Wᵀ + b
  Matrix weight;                // [n, k]
  const float* bias = nullptr;  // [n] or null
  bool biased = false;          // whether a bias belongs here; known before it is loaded
};
struct Rope {  // rotates the first `dims` of a head: pairs (i, i + dims/2), angle = position · frequency i
  int dims = 0;
  const float* cos = nullptr;  // [positions, dims / 2]
  const float* sin = nullptr;  // [positions, dims / 2]
};
struct Rows {                   // one row a token; arrays on the device
  int32_t* token = nullptr;     // [count]
  int32_t* position = nullptr;  // [count] slot in its sequence's cache
  int32_t* sequence = nullptr;  // [count]
  int count = 0;
  Rows slice(int first, int rows) const { return {token + first, position + first, sequence + first, rows}; }
};
struct DistanceBias {             // what T5 adds to the scores of head h: values[bucket of (key − query)][h]
  const float* values = nullptr;  // [buckets, heads]
  // [2 · reach + 1]: the bucket of each distance from −reach to reach; beyond, that of the nearest of these.
  const int32_t* bucket = nullptr;
  int reach = 0, buckets = 0;
};
struct KvLayer {  // fp16 keys and values of one layer; the order inside is the backend's own
  f16* k = nullptr;
  f16* v = nullptr;
  int sequences = 0, positions = 0, heads = 0, head_dim = 0;
};

struct Embed {          // x[r] = table[token[r]] · scale; an id outside the table is the caller's mistake
  Tensor x;             // out [rows, d]
  const Matrix* table;  // [vocab, d], f16 or bf16
  float scale = 1;
  Rows rows;
};
struct Qkv {   // n = norm(x); q = rope(n·Wqᵀ + bq); cache[position] = rope(n·Wkᵀ + bk), n·Wvᵀ + bv (both fp16)
  Tensor q;    // out [rows, q_heads · head_dim]
  KvLayer kv;  // out, at each row's sequence and position
  Tensor x;    // [rows, d]
  const Norm* norm;
  const Linear *wq, *wk, *wv;
  const Rope* rope;  // or null
  Rows rows;
};
// cache[position] = n·Wkᵀ + bk, n·Wvᵀ + bv (both fp16), n = norm(x): the keys and values of a cross-attention.
struct StoreKv {
  KvLayer kv;  // out, at each row's sequence and position
  Tensor x;    // [rows, d]
  const Norm* norm;
  const Linear *wk, *wv;
  Rows rows;
};
struct Attend {  // a = softmax(scale · q·Kᵀ + bias)·V over positions of the row's sequence; head h reads h / group
  Tensor a;      // out [rows, q_heads · head_dim]
  Tensor q;      // [rows, q_heads · head_dim]
  KvLayer kv;    // group = q_heads / kv.heads
  float scale = 1;
  Rows rows;
  // [rows] on the device: how many positions each row sees, from 0 on, at least 1; null: those up to its own.
  const int32_t* lengths = nullptr;
  const DistanceBias* bias = nullptr;  // or null; a row's own position is the query's
  int whole = 0;  // for counting bytes: positions of a cache that every step reads whole; 0: the context counts
};
struct AddLinear {  // x += a·Wᵀ + b
  Tensor x;         // in and out [rows, n]
  Tensor a;         // [rows, k]
  const Linear* w;
};
struct GatedUp {  // h = act(n·Gᵀ) ∘ (n·Uᵀ), n = norm(x)
  Tensor h;       // out [rows, ff]
  Tensor x;       // [rows, d]
  const Norm* norm;
  const Linear *gate, *up;
  Act act = Act::silu;
};
struct Project {  // y = act(n·Wᵀ + b), n = norm(x), or x where norm is null
  Tensor y;       // out [rows, n]
  Tensor x;       // [rows, k]
  const Norm* norm = nullptr;
  const Linear* w;
  Act act = Act::none;
};
// How the next token is chosen. At a temperature, first the ids that may be chosen are found as transformers' warpers
// find them, in their order: temperature, then top_k, then top_p over the renormalised rest. Ids with the same logit
// stay or go together, so nothing depends on the order of a sort; the largest logit always stays, NaN never does.
// Probability mass is counted in whole numbers (sampling.h), whose sums have no order: for the same logits every
// backend keeps the same ids, also where a sum lies at top_p.
struct Sampling {
  float temperature = 0;  // 0: arg-max (lowest id wins a tie), whatever top_k and top_p are
  uint64_t seed = 0;      // of the Gumbel noise hash(seed, position, id): same seed, same text, whatever the batch
  int top_k = 0;          // ids whose logit is at least the top_k-th largest stay; 0, or the vocabulary and more: all
  double top_p = 1;       // ids above which there is less than top_p of the mass stay; 1: all

  // Whether some ids may have to go, of so many.
  bool cuts(int vocab) const { return temperature > 0 && (cuts_by_rank(vocab) || cuts_by_mass()); }
  bool cuts_by_rank(int vocab) const { return top_k > 0 && top_k < vocab; }
  bool cuts_by_mass() const { return top_p < 1; }
  bool operator==(const Sampling&) const = default;
};
// token = arg-max of the logits that stay (plus Gumbel noise · temperature); position += 1. A sequence is done with the
// first token that is one of `stops`. From then on its rows stay as they are, token and position, and its history as
// well: each further step writes the same key and value of that token to the same slot, so steps may be run ahead of
// whoever looks for the end, and what they give is to be ignored.
struct NextToken {
  Rows rows;      // in and out: token and position of each row
  Tensor logits;  // [rows, vocab], left as they are
  Sampling sampling;
  int32_t* history = nullptr;  // out [sequences, positions] or null: the new token at its sequence and new position,
  int history_positions = 0;   // so that a generation is fetched once, at its end
  const int32_t* stops = nullptr;  // how many ids there are, then the ids; null with `done`
  int32_t* done = nullptr;         // in and out [sequences], 0 or 1; or null: no sequence ends
};

using Op = std::variant<Embed, Qkv, StoreKv, Attend, AddLinear, GatedUp, Project, NextToken>;

class Ops {
 public:
  virtual ~Ops() = default;
  virtual void embed(const Embed&) = 0;
  virtual void qkv(const Qkv&) = 0;
  virtual void store_kv(const StoreKv&) = 0;
  virtual void attend(const Attend&) = 0;
  virtual void add_linear(const AddLinear&) = 0;
  virtual void gated_up(const GatedUp&) = 0;
  virtual void project(const Project&) = 0;
  virtual void next_token(const NextToken&) = 0;
};

// The ops of one step in order, for planning, replaying and counting. Operands keep pointing at the model's own
// Linears and Norms, so weights may be loaded after the tape was made.
using Tape = std::vector<Op>;

class TapeOps final : public Ops {
 public:
  void embed(const Embed& op) override { tape_.emplace_back(op); }
  void qkv(const Qkv& op) override { tape_.emplace_back(op); }
  void store_kv(const StoreKv& op) override { tape_.emplace_back(op); }
  void attend(const Attend& op) override { tape_.emplace_back(op); }
  void add_linear(const AddLinear& op) override { tape_.emplace_back(op); }
  void gated_up(const GatedUp& op) override { tape_.emplace_back(op); }
  void project(const Project& op) override { tape_.emplace_back(op); }
  void next_token(const NextToken& op) override { tape_.emplace_back(op); }
  const Tape& tape() const { return tape_; }

 private:
  Tape tape_;
};

void run(const Op& op, Ops& ops);  // calls the member that fits

// For backends whose device memory is the host's: what next_token does for a row once its token is chosen, and whether
// the row's sequence is done already.
void take_token(const NextToken& op, int row, int32_t token);
bool is_done(const NextToken& op, int row);

}  // namespace quantbench
