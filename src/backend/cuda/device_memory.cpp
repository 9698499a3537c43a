#include "backend/cuda/device_memory.h"

#include <algorithm>

#include "backend/host_memory.h"

namespace quantbench::QB_CUDA {
namespace {

// Weights share blocks of this size: an allocation of its own takes 2 MB at the least.
constexpr size_t kBlockBytes = size_t{64} << 20;
// Above this it has one, so that less of a block's end stays unused.
constexpr size_t kOwnBytes = kBlockBytes / 4;
// Scales and vectors have blocks of their own, so that the weights of neighbouring linears lie behind one another and
// products of many rows can take them as one.
constexpr size_t kSmallBytes = size_t{32} << 10, kSmallBlockBytes = size_t{8} << 20;

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
  use_[use] += piece;
  if (piece > kOwnBytes) {
    blocks_.push_back(runtime_.allocate(piece));
    return blocks_.back();
  }
  const bool small = piece < kSmallBytes || use == Use::scales;
  Open& open = small ? small_ : large_;
  if (open.left < piece) {
    open.left = std::max(piece, small ? kSmallBlockBytes : kBlockBytes);
    open.at = static_cast<std::byte*>(runtime_.allocate(open.left));
    blocks_.push_back(open.at);
  }
  void* const data = open.at;
  open.at += piece;
  open.left -= piece;
  return data;
}

}  // namespace quantbench::QB_CUDA
