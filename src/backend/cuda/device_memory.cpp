#include "backend/cuda/device_memory.h"

#include <algorithm>

#include "backend/host_memory.h"

namespace quantbench::QB_CUDA {
namespace {

// What was not expected shares blocks of this size: an allocation of its own takes 2 MB at the least.
constexpr size_t kBlockBytes = size_t{64} << 20;
// Above this it has one, so that less of a block's end stays unused.
constexpr size_t kOwnBytes = kBlockBytes / 4;
// Scales and vectors have blocks or an end of their own, so that the weights of neighbouring linears lie behind one
// another and products of many rows can take them as one.
constexpr size_t kSmallBytes = size_t{32} << 10, kSmallBlockBytes = size_t{2} << 20;
// Where a large piece begins, so that lines of weights are whole ones; and what this may cost a block that is expected
// (few weights are no whole number of it).
constexpr size_t kLargeAlignment = 256, kSlackBytes = size_t{64} << 10;

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
  const bool small = piece < kSmallBytes || use == Use::scales;
  const size_t whole = small ? piece : (piece + kLargeAlignment - 1) / kLargeAlignment * kLargeAlignment;
  if (whole <= expected_.left) {
    expected_.left -= whole;
    to_come_ -= std::min(piece, to_come_);
    if (small) return expected_.at + expected_.left;
    expected_.at += whole;
    return expected_.at - whole;
  }
  if (piece > kOwnBytes) {
    blocks_.push_back(runtime_.allocate(piece));
    return blocks_.back();
  }
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

void DeviceMemory::expect(size_t bytes) {
  if (bytes == 0 || to_come_ > 0) return;
  to_come_ = bytes;
  expected_.left = bytes + kSlackBytes;
  expected_.at = static_cast<std::byte*>(runtime_.allocate(expected_.left));
  blocks_.push_back(expected_.at);
}

}  // namespace quantbench::QB_CUDA
