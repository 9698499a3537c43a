// A worker without an engine, for tests: plausible reports, latencies that are told to it.
#pragma once

#include <algorithm>
#include <functional>

#include "bench/protocol.h"

namespace quantbench {

class FakeWorker : public Worker {
 public:
  std::function<int64_t()> latency_ns = [] { return int64_t{64'000'000}; };

  DeviceInfo device_ = [] {
    DeviceInfo d;
    d.backend = d.id = "fake";
    d.name = "Fake CPU";
    return d;
  }();
  // A GPU with so much memory free.
  void be_a_gpu(size_t available_bytes) {
    device_.backend = "cuda";
    device_.id = "cuda:0";
    device_.name = "Fake GPU";
    device_.memory_bytes = size_t{80} << 30;
    device_.available_bytes = available_bytes;
    device_.gpu = {.uuid = "GPU-fake",
                   .driver = "580.1",
                   .driver_cuda = "13.0",
                   .runtime_cuda = "13.0",
                   .major = 9,
                   .minor = 0,
                   .multiprocessors = 132,
                   .cache_bytes = size_t{50} << 20};
  }

  DeviceReport device() override { return {device_, ""}; }
  PlanReport plan(const Cell& cell) override {
    test_ = cell.test;
    PlanReport r;
    r.shape.architecture = "FakeForCausalLM";
    r.shape.layers = 4;
    r.shape.parameters = 1'000'000;
    r.shape.vocab = 32000;
    r.device = device_;
    r.engines = {device_.gpu ? "graph" : "native"};
    r.predicted = use_;
    r.skipped = {"lm_head"};
    r.token_weight_bytes = 2'000'000;
    r.kv_position_bytes = 1000;
    return r;
  }
  CellLoad load(const OnProgress& progress) override {
    if (progress) progress(0.5);
    CellLoad r;
    r.context_ns = 3'000'000;
    r.weights_ns = 8'000'000;
    r.session_ns = 1'000'000;
    r.resident = use_;
    r.token_weight_bytes = 2'000'000;
    r.kv_position_bytes = 1000;
    r.part_bytes[StepPart::mlp].weight_bytes = 1'500'000;
    r.part_bytes[StepPart::head].weight_bytes = 500'000;
    r.part_bytes[StepPart::attention].kv_position_bytes = 1000;
    r.engine.engine = device_.gpu ? "graph" : "native";
    r.weight_form = "fake";
    return r;
  }
  void fill_context(std::span<const int32_t> context) override { context_.assign(context.begin(), context.end()); }
  // Prefill takes a tenth, the decode steps share the rest.
  GenerateReport generate(std::span<const int32_t> prompt, int new_tokens, std::span<const int32_t>) override {
    GenerateReport r;
    r.run.total_ns = latency_ns();
    r.run.sequences = test_.batch;
    r.run.context_tokens = static_cast<int>(context_.size()) / test_.batch;
    r.run.prompt_tokens = static_cast<int>(prompt.size()) / test_.batch;
    int64_t at = r.run.total_ns / 10;
    r.run.spans.push_back({Phase::prefill, Clock::host, 0, at});
    for (int i = 0; i < test_.batch * new_tokens; ++i) r.run.tokens.push_back(100 + i);
    for (int i = 1; i < new_tokens; ++i) {
      const int64_t end = r.run.total_ns / 10 + (r.run.total_ns - r.run.total_ns / 10) * i / (new_tokens - 1);
      r.run.spans.push_back({Phase::decode, Clock::host, at, end});
      at = end;
    }
    return r;
  }
  MemoryReport memory() override {
    MemoryReport r;
    r.start_bytes = 6'000'000;
    r.load_peak_bytes = 9'000'000;
    r.run_peak_bytes = 8'800'000;
    r.end_bytes = 8'700'000;
    r.peaks_separate = true;
    r.load_use = use_;
    r.end_use = use_;
    if (device_.gpu) {
      r.count = MemoryCount::driver;
      r.host_peak_bytes = 400'000'000;
      r.driver_process_bytes = r.end_bytes;
      r.driver_device_bytes = 20'000'000;
      r.taken_bytes = 21'000'000;
    }
    return r;
  }
  // A step of 1 ms, of which the MLP has three quarters; one column of a thousand is an outlier.
  ExplainReport explain(std::span<const int32_t>, int new_tokens) override {
    ExplainReport r;
    r.engine = device_.gpu ? "graph" : "native";
    r.step_ns = 1e6;
    r.part_ns[StepPart::mlp] = 750e3;
    r.part_ns[StepPart::attention] = 50e3;
    r.part_ns[StepPart::head] = 200e3;
    if (device_.gpu) r.part_launches[StepPart::mlp] = 8;
    r.rounds = 20;
    r.outlier_steps = std::min(kOutlierSteps, new_tokens - 1);
    r.outliers[StepPart::mlp] = {4000, 4};
    return r;
  }
  ReadSample probe() override { return {0, 40e9, "fake"}; }
  // Each token as likely as 1 in e², model m an m-th of a nat from its reference, half of the likeliest ids the same.
  QualityReport quality(const QualityRequest& request, const OnProgress& progress) override {
    QualityReport report;
    for (size_t m = 0; m < request.models.size(); ++m) {
      report.models.emplace_back();
      for (const ForcedText& text : request.texts) {
        const auto tokens = static_cast<int>(text.targets.size());
        const bool compared = request.references[m] >= 0;
        report.models[m].texts.push_back({.tokens = tokens,
                                          .nll = 2.0 * tokens,
                                          .kl = compared ? 0.1 * static_cast<double>(m) * tokens : 0,
                                          .reference_nll = compared ? 2.0 * tokens : 0,
                                          .same_top = compared ? tokens / 2 : 0});
      }
      if (request.references[m] >= 0) report.models[m].kl_p99 = 0.5;
    }
    if (progress) progress(1);
    return report;
  }

  Test test_;
  std::vector<int32_t> context_;  // as it was filled
  MemoryUse use_ = [] {
    MemoryUse use;
    use[Use::weights] = 2'000'000;
    use[Use::kv_cache] = 500'000;
    return use;
  }();
};

}  // namespace quantbench
