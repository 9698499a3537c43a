// Tiny models of testdata/ and what Hugging Face's libraries computed of them. Errors are compared, not outputs: both
// sides are measured against the same mode run in fp32.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/host_memory.h"
#include "checkpoint/safetensors.h"
#include "model/model.h"

namespace quantbench {

inline const std::string kGoldenModels = std::string(QB_SOURCE_DIR) + "/testdata/models/";

// How near is near enough.
struct Limits {
  double error_ratio = 2;  // ours to Hugging Face's, both against the fp32 reference; max and RMS
  double kl = 1e-3;        // mean, from Hugging Face's distribution to ours
  double top1 = 0.995;     // where Hugging Face's best leads by more than the noise
};
inline Limits limits_of(const std::string& mode) { return mode == "fp16" ? Limits{2, 1e-4, 1.0} : Limits{}; }

inline Precision precision_of(const std::string& mode) {
  return mode == "fp16" ? Precision::fp16 : mode == "int8" ? Precision::int8 : Precision::nf4;
}

struct Golden {
  SafetensorsFile file;
  explicit Golden(const std::string& model)
      : file(SafetensorsFile::open(kGoldenModels + model + ".golden.safetensors")) {}

  bool has(const std::string& name) const { return file.header().tensors.count(name) != 0; }
  template <typename T>
  std::vector<T> read(const std::string& name) const {
    const SafetensorsTensor& tensor = file.header().tensors.at(name);
    std::vector<T> out(static_cast<size_t>(tensor.bytes) / sizeof(T));
    file.read(tensor, 0, std::as_writable_bytes(std::span(out)));
    return out;
  }
  std::vector<float> read_f16(const std::string& name) const {
    const auto half = read<f16>(name);
    std::vector<float> out(half.size());
    std::transform(half.begin(), half.end(), out.begin(), [](f16 h) { return to_float(h); });
    return out;
  }
};

struct Figures {
  double max_ratio = 0, rms_ratio = 0, kl = 0, top1 = 1;
  int compared = 0;   // positions that entered top1
  int positions = 0;  // of these
  double next = 1;    // as top1, of the positions whose logits are not kept
};

// Logits [positions, vocab] of each.
inline Figures compare(const std::vector<float>& ours, const std::vector<float>& hf,
                       const std::vector<float>& reference, int vocab) {
  double max_ours = 0, max_hf = 0, sum_ours = 0, sum_hf = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double a = double{ours[i]} - reference[i], b = double{hf[i]} - reference[i];
    max_ours = std::max(max_ours, std::abs(a)), max_hf = std::max(max_hf, std::abs(b));
    sum_ours += a * a, sum_hf += b * b;
  }
  Figures f{max_ours / max_hf, std::sqrt(sum_ours / sum_hf)};
  // Both sides may be off by Hugging Face's largest error, so only gaps beyond twice it decide.
  const double noise = 2 * max_hf;
  int agree = 0;
  for (size_t at = 0; at < ours.size(); at += static_cast<size_t>(vocab)) {
    const auto softmax_log = [at, vocab](const std::vector<float>& logits) {
      const double most = *std::max_element(&logits[at], &logits[at] + vocab);
      double sum = 0;
      for (int i = 0; i < vocab; ++i) sum += std::exp(logits[at + i] - most);
      return most + std::log(sum);
    };
    const double log_p = softmax_log(hf), log_q = softmax_log(ours);
    for (int i = 0; i < vocab; ++i) {
      const double p = hf[at + i] - log_p, q = ours[at + i] - log_q;
      f.kl += std::exp(p) * (p - q);
    }
    std::vector<float> sorted(&hf[at], &hf[at] + vocab);
    std::partial_sort(sorted.begin(), sorted.begin() + 2, sorted.end(), std::greater<>());
    if (sorted[0] - sorted[1] <= noise) continue;
    ++f.compared;
    agree += std::max_element(&ours[at], &ours[at] + vocab) - &ours[at] ==
             std::max_element(&hf[at], &hf[at] + vocab) - &hf[at];
  }
  f.positions = static_cast<int>(ours.size() / static_cast<size_t>(vocab));
  f.kl /= f.positions;
  if (f.compared > 0) f.top1 = static_cast<double>(agree) / f.compared;
  return f;
}

inline bool meets(const Figures& f, const Limits& limits) {
  return f.max_ratio <= limits.error_ratio && f.rms_ratio <= limits.error_ratio && f.kl <= limits.kl &&
         f.top1 >= limits.top1;
}

// Runs the reference backend's ops with a mistake, or an observer, in between.
class MistakenBackend : public Backend, protected Ops {
 public:
  const DeviceInfo& device() const override { return true_->device(); }
  ThreadPool& host_pool() override { return true_->host_pool(); }
  Plan plan(const Tape& step, int max_rows, const Tape& before) override { return true_->plan(step, max_rows, before); }
  Matrix pack(const HostMatrix& m, Role role, const Plan& plan) override { return true_->pack(m, role, plan); }
  std::unique_ptr<Buffer> allocate(Use use, size_t bytes) override { return true_->allocate(use, bytes); }
  void upload(Buffer& to, size_t at, const void* from, size_t n) override { true_->upload(to, at, from, n); }
  void download(void* to, const void* from, size_t bytes) override { true_->download(to, from, bytes); }
  Ops& ops() override { return *this; }
  std::unique_ptr<Program> record(const Plan& plan) override { return replay(plan, *this); }
  void synchronize() override { true_->synchronize(); }
  MemoryUse memory() const override { return true_->memory(); }
  std::unique_ptr<ReadProbe> read_probe(size_t) override { return nullptr; }

 protected:
  void embed(const Embed& op) override { right().embed(op); }
  void qkv(const Qkv& op) override { right().qkv(op); }
  void store_kv(const StoreKv& op) override { right().store_kv(op); }
  void attend(const Attend& op) override { right().attend(op); }
  void add_linear(const AddLinear& op) override { right().add_linear(op); }
  void gated_up(const GatedUp& op) override { right().gated_up(op); }
  void project(const Project& op) override { right().project(op); }
  void next_token(const NextToken& op) override { right().next_token(op); }
  Ops& right() { return true_->ops(); }

 private:
  std::unique_ptr<Backend> true_ = make_backend("reference", {});
};

// One row a call: what is an outlier in one row no longer is one for all.
class NoRuleForMoreThanOneRow final : public MistakenBackend {
  void store_kv(const StoreKv& op) override {
    for (int r = 0; r < op.rows.count; ++r) {
      right().store_kv({op.kv, op.x.slice(r, 1), op.norm, op.wk, op.wv, op.rows.slice(r, 1)});
    }
  }
  void qkv(const Qkv& op) override {
    for (int r = 0; r < op.rows.count; ++r) {
      right().qkv(
          {op.q.slice(r, 1), op.kv, op.x.slice(r, 1), op.norm, op.wq, op.wk, op.wv, op.rope, op.rows.slice(r, 1)});
    }
  }
  void add_linear(const AddLinear& op) override {
    for (int r = 0; r < op.x.rows; ++r) right().add_linear({op.x.slice(r, 1), op.a.slice(r, 1), op.w});
  }
  void gated_up(const GatedUp& op) override {
    for (int r = 0; r < op.x.rows; ++r) {
      right().gated_up({op.h.slice(r, 1), op.x.slice(r, 1), op.norm, op.gate, op.up, op.act});
    }
  }
  void project(const Project& op) override {
    for (int r = 0; r < op.x.rows; ++r) right().project({op.y.slice(r, 1), op.x.slice(r, 1), op.norm, op.w, op.act});
  }
};

}  // namespace quantbench
