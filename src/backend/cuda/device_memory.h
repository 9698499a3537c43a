// Device memory with its ledger: pieces that stay until the end, and buffers with an owner.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/runtime.h"

namespace quantbench::QB_CUDA {

// One thread at a time. Lives longer than every Buffer it gave out.
class DeviceMemory {
 public:
  explicit DeviceMemory(Runtime& runtime) : runtime_(runtime) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;

  std::unique_ptr<Buffer> allocate(Use use, size_t bytes);  // zeroed; booked until destroyed. Error out_of_memory
  void* keep(Use use, size_t bytes);                        // zeroed; until this object is destroyed. The same Error
  // So many bytes of pieces will be kept: they come from one block of that size, so that no block's end stays unused.
  // Does nothing while some of the last ones are still to come. The same Error.
  void expect(size_t bytes);
  const MemoryUse& use() const { return use_; }

 private:
  Runtime& runtime_;
  MemoryUse use_;
  std::vector<void*> blocks_;
  struct Open {  // a block that has room
    std::byte* at = nullptr;
    size_t left = 0;
  };
  Open large_, small_;
  Open expected_;       // large pieces come from its beginning, small ones from its end
  size_t to_come_ = 0;  // of the pieces that it was taken for
};

}  // namespace quantbench::QB_CUDA
