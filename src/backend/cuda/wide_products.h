// Products of many rows: rows made ready once, a library's tensor-core product, our own kernel to finish its sums.
// Rows that one op leaves ready for the next are not made ready again.
#pragma once

#include <optional>
#include <vector>

#include "backend/cuda/gemm.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/wide.h"
#include "backend/ops.h"

namespace quantbench::QB_CUDA {

// More rows than this are made ready beforehand: up to 32 for kernels of our own, where k allows it, else for matrix
// products. Fewer, and NF4's and bf16's up to twice eight, whose weights would have to be expanded, take the kernels
// that stream the weights, eight rows at a time; so does attention.
constexpr int kStreamedRows = 1, kStreamedNf4Rows = 16, kStreamedAttentionRows = 16;

struct WideShape {  // zero: no product here has many rows
  int rows = 0;
  int raw_cols = 0;                    // sums of a product that cannot stand where its outputs go, numbers a row
  size_t raw_numbers = 0;              // of all rows
  int general = 0;                     // the largest input that is no output of a gated_up or project
  int attended = 0;                    // outputs of an attention
  int inner = 0;                       // outputs of a gated_up or project
  bool int8 = false, expands = false;  // expands: nf4 or bf16
  bool beyond_batches = true;          // room for products of more rows than those of a batch
  size_t scratch_numbers = 0;          // where it expands
};
// Of a step's products, were they called with max_rows on a device with a second-level cache of cache_bytes. tensor:
// whether it has products that finish their sums in registers.
WideShape wide_shape(const Tape& step, int max_rows, size_t cache_bytes, bool tensor);

// How many weights of NF4 are expanded to fp16 at a time: two thirds of the second-level cache, so that the product
// finds them there, but whole tiles of rows of k numbers, and 32 MiB at the most, which an H100's 50 MiB come to: with
// half of that a product of long rows was cut into pieces too narrow for all multiprocessors, 43 instead of 30 µs there
// (n 2048, k 8192). cache_bytes 0: not known, taken as large.
constexpr int kExpandedTile = 128;  // rows: a multiple of the library's tiles
constexpr size_t expanded_at_once(size_t cache_bytes, int k) {
  constexpr size_t kMost = size_t{16} << 20;
  const size_t in_cache = cache_bytes == 0 ? kMost : cache_bytes * 2 / 3 / sizeof(uint16_t);
  const size_t tile = size_t{kExpandedTile} * static_cast<size_t>(k);
  const size_t most = in_cache < kMost ? in_cache : kMost;
  return most > tile ? most : tile;
}

// Pointers into the backend's workspace.
struct WideWorkspace {
  int rows = 0;
  void* raw = nullptr;  // [raw_numbers] float or int32
  size_t raw_numbers = 0;
  uint16_t* scratch = nullptr;  // [scratch_numbers] weights as fp16
  size_t scratch_numbers = 0;
  int32_t* arrived = nullptr;  // [counters] zero between calls
  int counters = 0;
  void* gemm = nullptr;  // kGemmWorkspaceBytes
  struct Ready {
    uint16_t* x16 = nullptr;   // [rows, stride]
    uint8_t* marks = nullptr;  // [stride], int8
    int stride = 0;
  };
  Ready general, attended, inner;
  int8_t* codes = nullptr;      // [rows, padded_k(k)], int8, as are the next two
  float* absmax = nullptr;      // [rows]
  int32_t* outliers = nullptr;  // [1 + k]
};

class WideProducts {
 public:
  WideProducts(Runtime& runtime, const Tables& tables) : runtime_(runtime), tables_(tables) {}
  // Opens the library unless that was tried; whether there is one, or products of our own that take its place.
  // QUANTBENCH_CUBLASLT=off: as if there were none.
  bool open();
  MatrixLibrary library() const;  // what open() finds; opens and closes it
  void use(const WideWorkspace& workspace);
  // Has the library choose its algorithms for the products of this step with `rows` rows. Weights are loaded.
  void tune(const Tape& step, int rows);
  // For records, what tune() came to: Gemm::tune's text, "own kernels" where no product is the library's; empty where
  // no product has many rows.
  const std::string& tuning() const { return tuning_; }

  struct Product {
    Tensor x;
    const Norm* norm = nullptr;
    struct Output {
      Weight w;
      const float* bias;
      float* y;
    };
    std::vector<Output> outputs;
    Finish finish = Finish::store;
    Activation act = Activation::none;
    Cache kv;  // qkv, as are the next two
    Rotation rotation;
    RowPlaces places;
  };
  // False, and nothing is done, if this product is not for it.
  bool multiply(const Product& product);
  // Where attention shall leave its outputs `a` ready; nowhere if they do not fit.
  ReadyRows attended(Tensor a);
  // An op wrote this tensor: rows made ready from it are stale.
  void wrote(Tensor t);
  // Device memory was written by other means than these ops.
  void forget();

 private:
  struct Slot {
    WideWorkspace::Ready ready;
    const std::byte *begin = nullptr, *end = nullptr;  // of the tensor that it was made from; null: holds nothing
    const void* norm = nullptr;
    bool marked = false;    // marks are those of x16
    bool clean = false;     // marks are zero
    bool gathered = false;  // x16 holds outlier columns only
  };
  // One call of the library, with what is expanded before it.
  struct Call {
    GemmCall gemm;
    ExpandArgs expand;
  };

  bool fits(const Product& product) const;
  bool has_scratch(int k) const;  // for rows of NF4 or bf16
  bool fits_batch(const Product& product) const;
  // By our own kernels, from rows that are ready; false, and nothing done, where there is no room.
  bool multiply_batch(const Product& product, Slot& slot);
  Input input_of(const Product& product, const Slot& slot) const;
  std::vector<Call> calls_of(const Product& product, int rows, int x_stride) const;
  bool finishes(const Product& product) const;
  // Whether our own kernels on Hopper's tensor cores take it, and are the better choice.
  bool fits_turned(const Product& product) const;
  bool fits_tensor(const Product& product) const;
  void multiply_by_tensor(const FinishArgs& args, const void* rows);
  // Of a product whose sums are there, or will be finished by the kernel that makes them.
  FinishArgs finish_args(const Product& product, Slot& slot);
  void quantize_rows(const Product& product, Slot& slot);
  ReadyRows produce(Slot& slot, Tensor from, const void* norm);
  Slot& ready_rows(const Product& product, bool int8);
  bool has_room(int k) const;  // for rows of so many inputs
  Slot& room_for(int k);       // what is made ready there, where it is nowhere yet

  Runtime& runtime_;
  Tables tables_;
  bool tried_ = false;
  std::unique_ptr<Gemm> gemm_;
  std::string tuning_;
  WideWorkspace w_;
  Slot general_, attended_, inner_;
  const Slot* quantized_ = nullptr;  // whose codes, absmax and outliers the workspace holds
};

}  // namespace quantbench::QB_CUDA
