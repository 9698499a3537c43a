// What this machine's memory gives to a program that only reads.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/features.h"
#include "core/os.h"

namespace quantbench::cpu {

// The best of several read loops is chosen when the probe is made; measure() then repeats that one. The bytes are read
// by all threads of the pool in pieces of 2 MB, which they take as they become free.
class HostReadProbe final : public ReadProbe {
 public:
  // bytes: rounded up to 2 MB; must be several times the last-level cache. Error out_of_memory.
  HostReadProbe(ThreadPool& pool, Isa isa, size_t bytes);
  double measure() override;
  std::string kernel() const override;

 private:
  double pass(uint64_t (*read)(const void*, size_t));

  ThreadPool& pool_;
  os::Block block_;
  size_t chosen_ = 0;
  Isa isa_;
  uint64_t sink_ = 0;  // what was read, so that reading cannot be left out
};

}  // namespace quantbench::cpu
