// What the host calls: one argument struct and one launch function a kernel. Pointers are to device memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/stream.h"

namespace quantbench::QB_CUDA {

// The rows of one product, made ready: normalised or as they are, and rounded to what the weights are multiplied with.
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

struct PrepareArgs {    // x → x32 and x16, through a norm if there is one; columns with |x16| ≥ 6 marked
  const float* x;       // [rows, k]
  const float* weight;  // of the norm [k]; null: no norm
  const float* bias;    // [k] or null
  float eps;
  bool centered;
  int rows, k, stride;
  float* x32;      // [rows, k] or null
  uint16_t* x16;   // [rows, stride]
  uint8_t* marks;  // [k], zeroed before; or null
};
void prepare(const PrepareArgs& args, Stream stream);

struct QuantizeArgs {    // x16 and marks → LLM.int8's codes, absmax and the list of outlier columns (quant/int8.h)
  const uint16_t* x16;   // [rows, stride]
  const uint8_t* marks;  // [k]
  int rows, k, stride;
  int8_t* codes;      // [rows, stride]
  float* absmax;      // [rows]
  int32_t* outliers;  // [1 + k]
};
void quantize(const QuantizeArgs& args, Stream stream);

enum class WeightFormat : uint8_t { f16, f32, int8, nf4 };
enum class Activation : uint8_t { none, silu, gelu_tanh };
enum class Finish : uint8_t { store, add, gate };

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
constexpr int kMostJobs = 3;
struct ProductArgs {
  Input x;
  Job jobs[kMostJobs];  // of one format and k; gate: jobs[0] is the gate, jobs[1] what it gates, y is jobs[1]'s
  int job_count = 0;
  Finish finish = Finish::store;
  Activation act = Activation::none;
  const float* nested_code = nullptr;  // [256] (quant/nf4.h)
};
// blocks: as many as the device can run at once, for a share of the work each.
void multiply(const ProductArgs& args, int blocks, Stream stream);

struct EmbedArgs {
  float* x;               // [rows, d]
  const uint16_t* table;  // [vocab, d]
  const int32_t* token;   // [rows]
  int rows, d;
  float scale;
};
void embed(const EmbedArgs& args, Stream stream);

struct Cache {  // fp16 [sequences, heads, positions, head_dim]
  uint16_t *k, *v;
  int positions, heads, head_dim;
};
struct StoreArgs {         // rotates q in place, rotates and stores k, stores v
  float* q;                // [rows, q_heads · head_dim]
  const float *k, *v;      // [rows, kv.heads · head_dim]
  const float *cos, *sin;  // [positions, rope_dims / 2]; null: no rotation
  int rope_dims;
  int rows, q_heads;
  const int32_t *position, *sequence;  // [rows]
  Cache kv;
};
void rotate_and_store(const StoreArgs& args, Stream stream);

constexpr int kMostHeadDim = 256;
struct AttendArgs {
  float* a;        // [rows, q_heads · head_dim]
  const float* q;  // [rows, q_heads · head_dim]
  int rows, q_heads;
  const int32_t *position, *sequence;  // [rows]
  Cache kv;
  float scale;
};
void attend(const AttendArgs& args, Stream stream);

struct NextTokenArgs {
  const float* logits;  // [rows, vocab]
  int rows, vocab;
  int32_t *token, *position;  // [rows], in and out
  const int32_t* sequence;    // [rows]
  int32_t* history;           // [sequences, history_positions] or null
  int history_positions;
  float temperature;
  uint64_t seed;
};
void next_token(const NextTokenArgs& args, Stream stream);

}  // namespace quantbench::QB_CUDA
