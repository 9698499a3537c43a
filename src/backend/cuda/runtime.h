// The part of CUDA's runtime that the backend stands on, so that it can also stand on the emulator. One device, one
// stream: everything asked for happens in order.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "backend/backend.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/stream.h"

namespace quantbench::QB_CUDA {

class Runtime {
 public:
  virtual ~Runtime() = default;
  virtual DeviceInfo device() const = 0;  // available_bytes: free now
  virtual DeviceUse use() const = 0;
  virtual void reset_peak() = 0;  // of use()
  virtual int multiprocessors() const = 0;
  virtual size_t shared_bytes() const = 0;          // the most that a block can have
  virtual double memory_rate() const { return 0; }  // bytes/s, by the memory's clock and width; 0: not known
  virtual int compiled_for() const = 0;             // compute capability, 75: whose code of ours runs
  Room room() const { return {multiprocessors(), shared_bytes(), compiled_for()}; }
  virtual Stream stream() const = 0;
  virtual bool has_tensor_products() const { return false; }  // tensor_products.h

  virtual void* allocate(size_t bytes) = 0;  // zeroed. Error out_of_memory
  virtual void release(void* data) noexcept = 0;
  virtual void zero(void* data, size_t bytes) = 0;                         // in order with the kernels
  virtual void to_device(void* to, const void* from, size_t bytes) = 0;    // the host's bytes may be reused on return
  virtual void from_device(void* to, const void* from, size_t bytes) = 0;  // waits
  virtual void synchronize() = 0;
  virtual std::unique_ptr<Lookout> lookout(size_t /*bytes*/, int /*most*/) { return nullptr; }  // null: as Backend's
  virtual std::unique_ptr<Timeline> timeline() = 0;
  virtual double seconds(
      const std::function<void()>& work) = 0;  // from the start of the first kernel to the end of the last
  // What `step` asks for, ready to be repeated. `step` is called at least once and must ask for the same every time.
  virtual std::unique_ptr<Program> record(std::function<void()> step) = 0;
  // The tape as one launch of the persistent kernel: why device or tape do not allow it, a sentence, or nothing; where
  // they do, the device memory that it takes, and the program, with that memory.
  virtual std::string persistent_obstacle(const Tape& tape) const = 0;
  virtual size_t persistent_bytes(const Tape& tape) const = 0;
  virtual std::unique_ptr<Program> record_persistent(const Tape& tape, const Tables& tables, std::byte* memory) = 0;
};

std::unique_ptr<Runtime> open_runtime(const BackendOptions& options);

}  // namespace quantbench::QB_CUDA
