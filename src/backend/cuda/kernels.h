// What the host calls: one argument struct and one launch function a kernel. Pointers are to device memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/stream.h"

namespace quantbench::QB_CUDA {

// --- rows on their way into a product --------------------------------------------------------------------------------
// Ready rows: normalised or as they are, and rounded to what the weights are multiplied with.
struct Input {
  int rows = 0, k = 0, stride = 0;    // stride: numbers from row to row of x16 and codes, k rounded up; the rest is 0
  const float* x = nullptr;           // [rows, k]
  const uint16_t* x16 = nullptr;      // [rows, stride], x in fp16
  const int8_t* codes = nullptr;      // [rows, stride], LLM.int8's codes of x16; 0 in outlier columns
  const float* absmax = nullptr;      // [rows]
  const int32_t* outliers = nullptr;  // their number, then [k] columns, ascending
};
// Rows are padded to whole pieces of any product below: 64 numbers.
constexpr int padded_k(int k) { return (k + 63) / 64 * 64; }

// Rows that a kernel leaves ready for the product after it, beside its own output.
struct ReadyRows {
  uint16_t* x16 = nullptr;  // [rows, stride] or null
  int stride = 0;
  uint8_t* marks = nullptr;  // [stride], 1 where |x16| ≥ 6 in any row, zeroed before; or null
};

struct RowNorm {
  const float* weight = nullptr;  // [k]; null: no norm
  const float* bias = nullptr;    // [k] or null
  float eps = 0;
  bool centered = false;
};
struct PrepareArgs {  // x → x32 and x16, through the norm; columns with |x16| ≥ 6 marked
  const float* x;     // [rows, k]
  RowNorm norm;
  int rows, k, stride;
  float* x32;      // [rows, k] or null
  uint16_t* x16;   // [rows, stride]
  uint8_t* marks;  // [k], zeroed before; or null
};
void prepare(const PrepareArgs& args, const Stream& stream);

constexpr int kGathered = 64;
struct QuantizeArgs {    // x16 and marks → LLM.int8's codes, absmax and the list of outlier columns (quant/int8.h)
  uint16_t* x16;         // [rows, stride]
  const uint8_t* marks;  // [k]
  int rows, k, stride;
  int8_t* codes;      // [rows, stride]
  float* absmax;      // [rows]
  int32_t* outliers;  // [1 + k]
  // Whether x16 becomes what it has in the outlier columns, side by side, with zeros up to the next kGathered numbers:
  // k a multiple of 8, can_gather(k).
  bool gather;
};
bool can_gather(int k);
void quantize(const QuantizeArgs& args, const Stream& stream);

// --- products --------------------------------------------------------------------------------------------------------
enum class WeightFormat : uint8_t { f16, f32, int8, nf4, bf16 };
enum class Activation : uint8_t { none, silu, gelu_tanh, relu };
enum class Finish : uint8_t { store, add, gate, qkv };

struct Weight {  // as Matrix (quant/matrix.h), canonical layout
  WeightFormat format = WeightFormat::f16;
  int n = 0, k = 0;
  const void* w = nullptr;
  const uint8_t* absmax8 = nullptr;      // nf4
  const float* nested_absmax = nullptr;  // nf4
  const float* absmax = nullptr;         // int8 [n]; nf4 without double quantisation [blocks]
  float offset = 0;                      // nf4
};
struct Job {  // y (=, +=) act(x·Wᵀ + b)
  Weight w;
  const float* bias = nullptr;  // [n] or null
  float* y = nullptr;           // [rows, n]
};
struct Cache {  // fp16 [sequences, heads, positions, head_dim]
  uint16_t *k = nullptr, *v = nullptr;
  int positions = 0, heads = 0, head_dim = 0;
};
struct Rotation {
  const float *cos = nullptr, *sin = nullptr;  // [positions, dims / 2]; null: no rotation
  int dims = 0;
};
struct RowPlaces {
  const int32_t *position = nullptr, *sequence = nullptr;  // [rows]
};

// NF4's, on the device.
struct Tables {
  const float* nested_code = nullptr;    // [256] (quant/nf4.h)
  const uint32_t* code_pairs = nullptr;  // [256] a byte's two codes as fp16, the first in the low half
};

struct BatchPlan {  // of multiply_batch()
  // Workspace for sums that several blocks share: numbers of 4 bytes, and counters that are zero before and after.
  void* partial = nullptr;
  size_t most_partial = 0;
  int32_t* arrived = nullptr;
  int most_counters = 0;
  // Decided by the launch: groups of weights that a warp has on the way, groups of inputs in a block's shared memory,
  // whether these are all that it needs, and how many blocks share a sum.
  int depth = 0, inputs = 0;
  bool keeps = false;
  int splits = 1;
};

constexpr int kMostJobs = 3;
struct ProductArgs {
  Input x;
  // Own rows: nothing of x but x.x [1, k] or x.x16 [1, k] is there yet; every block makes the row ready for itself,
  // the former through this norm.
  bool own_rows = false;
  RowNorm norm;
  ReadyRows ready;  // store and gate: y in fp16 beside it, for the next product, whose x.x16 it may be
  // Of one format and k. gate: jobs[0] is the gate, jobs[1] what it gates, y is jobs[1]'s. qkv: q, k and v; q is
  // rotated into y, k rotated and v as it is go into the cache.
  Job jobs[kMostJobs];
  int job_count = 0;
  Finish finish = Finish::store;
  Activation act = Activation::none;
  Tables tables;
  Cache kv;  // qkv, as are the next two
  Rotation rotation;
  RowPlaces places;
  // multiply_batch() alone, marks to be zeroed or null among them.
  uint8_t* used = nullptr;
  int used_count = 0;
  BatchPlan batch;
};
// Whether multiply() has tiles for this format and k; only then can it do the next two.
bool has_tiles(WeightFormat format, int k);
// Dynamic shared memory that own rows take.
size_t own_row_bytes(WeightFormat format, int k);
inline bool can_place_qkv(const Cache& kv, const Rotation& rotation) {
  constexpr int kTileRows = 16;
  if (rotation.dims == 0) return kv.head_dim % kTileRows == 0;
  return rotation.dims / 2 % 8 == 0 && (kv.head_dim - rotation.dims) % kTileRows == 0;
}
struct Room {  // of the device
  int multiprocessors = 1;
  size_t shared_bytes = 0;  // the most that a block can have
  int compiled_for = 75;    // compute capability: whose code runs there
};
void multiply(const ProductArgs& args, const Room& room, const Stream& stream);

constexpr int kMostBatchRows = 32;
// 2 to kMostBatchRows rows at once, where k is a whole number of this format's groups. int8: x.x16 gathered
// (QuantizeArgs).
bool can_multiply_batch(WeightFormat format, int k, int rows);
// False, and nothing is done, where it cannot: then, or where there is no room.
bool multiply_batch(const ProductArgs& args, const Room& room, const Stream& stream);

// --- attention -------------------------------------------------------------------------------------------------------
struct StoreArgs {     // rotates q in place, rotates and stores k, stores v
  float* q;            // [rows, q_heads · head_dim]
  const float *k, *v;  // [rows, kv.heads · head_dim]
  Rotation rotation;
  int rows, q_heads;
  RowPlaces places;
  Cache kv;
};
void rotate_and_store(const StoreArgs& args, const Stream& stream);

constexpr int kMostHeadDim = 256;
struct ScoreBias {                // DistanceBias (ops.h)
  const float* values = nullptr;  // [buckets, q_heads]; null: none
  const int32_t* bucket = nullptr;
  int reach = 0;
};
struct AttendArgs {
  float* a;        // [rows, q_heads · head_dim]
  const float* q;  // [rows, q_heads · head_dim]
  int rows, q_heads;
  RowPlaces places;
  Cache kv;
  float scale;
  // Workspace of rows whose positions are shared out among blocks: attend_parts() floats and q_heads counters a row,
  // these zero before and after; or null, and a block takes all positions.
  float* parts;
  int32_t* arrived;
  ReadyRows ready = {};              // a, for the product that follows
  const int32_t* lengths = nullptr;  // [rows] positions that a row sees; null: up to its own
  ScoreBias bias = {};
};
size_t attend_parts(int q_heads, int head_dim);
void attend(const AttendArgs& args, const Stream& stream);

// --- weights, from fp16 (quant/int8.h, quant/nf4.h)
// -------------------------------------------------------------------
struct RowsArgs {     // LLM.int8's codes and absmax
  const uint16_t* w;  // [rows, k]
  int rows, k;
  int8_t* codes;  // [rows, k]
  float* absmax;  // [rows]
};
void quantize_rows(const RowsArgs& args, const Stream& stream);

struct BlocksArgs {     // NF4's codes and absmax
  const uint16_t* w;    // [count]
  size_t count;         // of weights
  uint8_t* codes;       // [ceil(count / 2)]
  float* absmax;        // [ceil(count / 64)]
  float midpoints[15];  // nf4_midpoints()
};
void quantize_blocks(const BlocksArgs& args, const Stream& stream);

struct ScalesArgs {  // the second quantisation, of absmax
  const float* absmax;
  size_t blocks;
  const float* nested_code;  // Tables
  float* offset;             // [1]
  uint8_t* absmax8;          // [blocks]
  float* nested_absmax;      // [ceil(blocks / 256)]
};
void quantize_scales(const ScalesArgs& args, const Stream& stream);

// --- reading ---------------------------------------------------------------------------------------------------------
struct FillArgs {  // numbers that look random
  uint32_t* data;
  size_t count;
};
void fill(const FillArgs& args, int blocks, const Stream& stream);
struct ReadArgs {    // reads all bytes once
  const void* data;  // aligned to 16
  size_t bytes;      // a multiple of kReadBytes
  uint32_t* sink;    // [1] written if what was read adds up to a number that it never does
};
constexpr size_t kReadBytes = size_t{64} << 10;
void read(const ReadArgs& args, int blocks, const Stream& stream);
// The same by copies into shared memory that no thread loads, for code of compute capability 9.0: a block a
// multiprocessor.
constexpr size_t kCopyReadBytes = size_t{32} << 10;  // a copy
constexpr int kCopyReadStages = 6;                   // copies that a block has on the way
constexpr size_t kCopyReadShared = kCopyReadStages * (kCopyReadBytes + sizeof(uint64_t));
void read_by_copies(const ReadArgs& args, int blocks, const Stream& stream);

// --- hashing ---------------------------------------------------------------------------------------------------------
struct HashArgs {  // backend/hashing.h
  uint64_t* hash;  // [1], in and out
  const uint32_t* words;
  int count;
};
void hash(const HashArgs& args, const Stream& stream);

// --- tokens ----------------------------------------------------------------------------------------------------------
struct EmbedArgs {
  float* x;               // [rows, d]
  const uint16_t* table;  // [vocab, d]
  const int32_t* token;   // [rows]
  int rows, d;
  float scale;
  bool bf16;  // the table's type; else fp16
};
void embed(const EmbedArgs& args, const Stream& stream);

// Where the search for the least key that stays has come to (sampling.h).
struct CutState {
  uint64_t rank;    // counted or weighed from the largest key with `prefix` down; 0: not known yet
  uint32_t prefix;  // the digits found
  uint32_t least;   // found before, by top_k or at the end
};
struct CutArgs {    // which ids may be chosen
  int top_k;        // 0: all
  double top_p;     // 1: all
  uint64_t* sums;   // [rows, kCutSums] of a digit's values, three times; the first is zero before and after
  CutState* state;  // [rows, 2]
  uint32_t* most;   // [rows] the largest key; zero before and after
};
constexpr int kCutSums = 3 * 2048;

struct NextTokenArgs {
  const float* logits;  // [rows, vocab]
  int rows, vocab;
  int32_t *token, *position;  // [rows], in and out
  const int32_t* sequence;    // [rows]
  int32_t* history;           // [sequences, history_positions] or null
  int history_positions;
  const int32_t* stops;  // [1 + their number]; null with done
  int32_t* done;         // [sequences], in and out; or null
  float temperature;
  uint64_t seed;
  // Workspace: kTokenBlocks scores and ids, and a counter, for each row; counters are zero before and after.
  float* scores;
  int32_t *ids, *arrived;
  CutArgs cut;
};
constexpr int kTokenBlocks = 64;
// One kernel; three more with top_k, four with top_p, six with both.
void next_token(const NextTokenArgs& args, const Stream& stream);

}  // namespace quantbench::QB_CUDA
