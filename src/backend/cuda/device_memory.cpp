#include "backend/cuda/device_memory.h"

#include <algorithm>

#include "backend/host_memory.h"

namespace quantbench::QB_CUDA {
namespace {

// Weights share blocks of this size: an allocation of its own takes 2 MB at the least.
constexpr size_t kBlockBytes = size_t{64} << 20;

class DeviceBuffer final : public Buffer {
 public:
  DeviceBuffer(Runtime& runtime, Use use, size_t bytes, MemoryUse* ledger)
      : runtime_(runtime), data_(runtime.allocate(piece_bytes(bytes))), bytes_(bytes), booked_(&(*ledger)[use]) {
    *booked_ += piece_bytes(bytes);
  }
  ~DeviceBuffer() override {
    runtime_.release(data_);
    *booked_ -= piece_bytes(bytes_);
  }
  void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  Runtime& runtime_;
  void* data_;
  size_t bytes_;
  size_t* booked_;
};

}  // namespace

DeviceMemory::~DeviceMemory() {
  for (void* block : blocks_) runtime_.release(block);
}

std::unique_ptr<Buffer> DeviceMemory::allocate(Use use, size_t bytes) {
  return std::make_unique<DeviceBuffer>(runtime_, use, bytes, &use_);
}

void* DeviceMemory::keep(Use use, size_t bytes) {
  const size_t piece = piece_bytes(bytes);
  if (blocks_.empty() || last_bytes_ - used_of_last_ < piece) {
    const size_t block_bytes = std::max(piece, kBlockBytes);
    blocks_.push_back(runtime_.allocate(block_bytes));
    last_bytes_ = block_bytes;
    used_of_last_ = 0;
  }
  void* const data = static_cast<std::byte*>(blocks_.back()) + used_of_last_;
  used_of_last_ += piece;
  use_[use] += piece;
  return data;
}

}  // namespace quantbench::QB_CUDA
