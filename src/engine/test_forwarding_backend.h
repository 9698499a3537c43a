// The reference backend, for tests that change what one or another of its functions does.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace quantbench {

class ForwardingBackend : public Backend {
 public:
  using Backend::plan;
  const DeviceInfo& device() const override { return inner_->device(); }
  ThreadPool& host_pool() override { return inner_->host_pool(); }
  Plan plan(const Tape& step, int max_rows, const Tape& before) override {
    return inner_->plan(step, max_rows, before);
  }
  Matrix pack(const HostMatrix& weight, Role role, const Plan& plan) override {
    return inner_->pack(weight, role, plan);
  }
  std::unique_ptr<Buffer> allocate(Use use, size_t bytes) override { return inner_->allocate(use, bytes); }
  void upload(Buffer& to, size_t offset, const void* from, size_t bytes) override {
    inner_->upload(to, offset, from, bytes);
  }
  void download(void* to, const void* from, size_t bytes) override { inner_->download(to, from, bytes); }
  Ops& ops() override { return inner_->ops(); }
  std::unique_ptr<Program> record(const Plan& plan) override { return inner_->record(plan); }
  void synchronize() override { inner_->synchronize(); }
  MemoryUse memory() const override { return inner_->memory(); }

 protected:
  std::unique_ptr<Backend> inner_ = make_backend("reference", {});
};

}  // namespace quantbench
