// What every backend that computes in host memory shares: its ledger, its buffers, the weights it keeps, the byte sums
// of a plan, and the replay of a tape.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/os.h"

namespace quantbench {

// Every piece of memory starts on a cache line and is booked in whole lines.
constexpr size_t kPieceAlignment = 64;
constexpr size_t piece_bytes(size_t bytes) { return (bytes + kPieceAlignment - 1) / kPieceAlignment * kPieceAlignment; }

// One thread at a time. Lives longer than every Buffer it gave out.
class HostMemory {
 public:
  HostMemory() = default;
  HostMemory(const HostMemory&) = delete;

  // Zeroed; booked under `use` until the Buffer is destroyed. Error out_of_memory.
  std::unique_ptr<Buffer> allocate(Use use, size_t bytes);
  // Zeroed; stays until this object is destroyed. Error out_of_memory.
  void* keep(Use use, size_t bytes);
  // So many bytes of pieces will be kept: they come from one block of that size, so that nothing is left over between
  // blocks, where a huge page would be resident for a few of its bytes. Does nothing while such a block has room. Error
  // out_of_memory.
  void expect(size_t bytes);
  template <typename T>
  T* keep_array(Use use, size_t count) {
    return static_cast<T*>(keep(use, count * sizeof(T)));
  }

  const MemoryUse& use() const { return use_; }

 private:
  MemoryUse use_;
  std::vector<os::Block> blocks_;
  size_t used_of_last_ = 0;
  bool last_is_expected_ = false;
};

// Where the ledger books a weight: what bitsandbytes would quantise is `weights` in every precision, so that fp16, int8
// and nf4 compare row by row; scales are `scales`; embedding, head, norms and biases are `unquantized`.
Use codes_use(Role role);

// Rows that an nf4 weight [n, k] takes where a backend pads it; null: n.
using Nf4Rows = int (*)(int n, int k);
// The pieces that one weight takes, but for that padding in its canonical layout, added to `use`.
void add_weight(const Matrix& weight, Role role, Nf4Rows nf4_rows, MemoryUse* use);
// Of a plan: what its weights and all that is packed with them will take.
size_t packed_bytes(const MemoryUse& predicted);
// All weights, norms and biases of a step and of what is called beside it, each counted once.
MemoryUse weight_bytes(const Tape& step, const Tape& before = {}, Nf4Rows nf4_rows = nullptr);

// A Program that calls the ops of the plan's tape one by one. tuning: what it says of its own.
std::unique_ptr<Program> replay(const Plan& plan, Ops& ops, const std::string& tuning = {});

// Name, memory and available memory of this machine (the tighter of the machine's and the cgroup's).
DeviceInfo host_device(const std::string& backend, const std::string& features, int threads);

}  // namespace quantbench
