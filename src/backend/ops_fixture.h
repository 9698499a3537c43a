// Random operands for one op case and the case run on a backend: what ops_test compares and ops_bench times.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/ops_cases.h"
#include "quant/nf4.h"

namespace quantbench {

// A small fast generator: the same numbers on every machine for a seed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  uint32_t bits() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>(state_ >> 33);
  }
  float uniform(float low, float high) { return low + (high - low) * static_cast<float>(bits() >> 7) * 0x1p-24f; }
  int below(int count) { return static_cast<int>(bits() % static_cast<uint32_t>(count)); }

 private:
  uint64_t state_;
};

// What numbers a case is made of.
enum class Numbers : uint8_t {
  any,
  // LLM.int8: codes of -1, 0 and 1 but for a single 127 a row, of weights and of activations, and no outliers. The
  // int32 sums are then below fp16's 2,048, so that one that is wrong by 1 is a wrong output, and nothing is left to
  // order.
  small_sums,
};

// One weight in the canonical layout of its format, with its bias.
class HostWeight {
 public:
  HostWeight(Format format, bool double_quantized, int n, int k, bool biased, Random& random, ThreadPool& pool,
             Numbers numbers = Numbers::any);
  HostMatrix view() const;
  const std::vector<float>& bias() const { return bias_; }  // empty without one; fp16 numbers
  int n() const { return n_; }
  int k() const { return k_; }

 private:
  Format format_;
  int n_, k_;
  std::vector<f16> f16_;
  std::vector<float> f32_, absmax_, bias_;
  std::vector<int8_t> codes_;
  Nf4Weights nf4_;
};

constexpr int kBiasBuckets = 11, kBiasReach = 37;

struct CaseSizes {  // of the operands; tests shrink what only costs time
  int heads, kv_heads, ff, vocab;
};
CaseSizes full_sizes(const OpCase& c);
CaseSizes test_sizes(const OpCase& c);  // few enough outputs for the scalar reference, still an odd number of pieces

// Everything a case reads, on the host.
struct CaseData {
  CaseData(const OpCase& c, CaseSizes sizes, uint64_t seed, ThreadPool& pool, Numbers numbers = Numbers::any);

  OpCase op;
  CaseSizes sizes;
  int sequences = 1;                           // attention: 2 for even rows
  std::vector<float> x;                        // [rows, in], with planted outliers in some rows (Numbers::any)
  std::vector<float> start;                    // add_linear: what is added to; [rows, out]
  std::vector<float> norm_weight, norm_bias;   // [hidden]
  std::vector<float> cos, sin;                 // [positions, rope_dims / 2]
  std::vector<float> next_x;                   // attention: rows of the step after; [sequences, hidden]
  std::vector<int32_t> lengths, next_lengths;  // attention that sees all: of its rows, and of those of the step after
  std::vector<float> bias_values;              // [kBiasBuckets, heads], or empty
  std::vector<int32_t> bias_buckets;           // [2 · kBiasReach + 1]
  std::vector<HostWeight> weights;             // in the order of the op's operands
  std::vector<int32_t> tokens, positions, row_sequences;
};

// The case on one backend. Outputs are poisoned with NaN before the run.
class CaseRun {
 public:
  // copies: of the weights, so that a bench can take turns and never find one in the cache.
  CaseRun(const CaseData& data, Backend& backend, int copies = 1, Sampling sampling = {});
  ~CaseRun();

  void run(int copy = 0);              // the op (attention: qkv and attend)
  void run_turns(int turns);           // all copies one after the other, as one program, so many times
  void run_next_step(int copy = 0);    // attention only: one row a sequence, behind the cached ones
  const Tape& tape() const;            // of run(), for counting bytes and flops
  std::vector<float> outputs() const;  // of the last run, all outputs behind one another; tokens as numbers

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// How far a result may lie from the reference, which sums in double: |value - expected| ≤ absolute +
// relative·|expected|.
struct Tolerance {
  double absolute = 0, relative = 0;
  double rare_share = 0, rare_count = 0;  // this share of the outputs and so many more may lie kRareFactor times as far
};
constexpr double kRareFactor = 50;
// What a backend multiplies fp16, fp32 and nf4 weights with.
enum class Activations : uint8_t { fp32, fp16 };
Tolerance tolerance_of(const OpCase& c, const CaseSizes& sizes, Activations activations = Activations::fp32,
                       Numbers numbers = Numbers::any);
// The outputs that lie further away than they may; a NaN does. `first`: index of the first of them.
size_t count_wrong(const std::vector<float>& got, const std::vector<float>& expected, Tolerance t, size_t* first);

}  // namespace quantbench
