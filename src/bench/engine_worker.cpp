#include "bench/engine_worker.h"

#include <algorithm>
#include <array>

#include "backend/cost_ops.h"
#include "bench/environment.h"
#include "bench/process_memory.h"
#include "bench/statistics.h"
#include "core/os.h"
#include "engine/buffers.h"
#include "engine/step_times.h"
#include "image/image.h"
#include "image/pixels.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {
namespace {

// Adds the time that it lives.
class Timed {
 public:
  explicit Timed(int64_t* ns) : ns_(ns) {}
  ~Timed() { *ns_ += os::steady_now_ns() - start_ns_; }
  Timed(const Timed&) = delete;

 private:
  int64_t* ns_;
  int64_t start_ns_ = os::steady_now_ns();
};

}  // namespace

EngineWorker::EngineWorker(EngineOptions probe_options, ChooseDevice choose, EngineCache cache)
    : probe_options_(std::move(probe_options)),
      choose_(std::move(choose)),
      cache_(std::move(cache)),
      cache_bytes_(read_environment().last_level_cache_bytes) {
  if (!choose_) choose_ = [](std::string_view name, const BackendOptions& o) { return choose_device(name, o); };
}

DeviceReport EngineWorker::device() {
  ChosenDevice chosen = choose_(probe_options_.device, {.threads = probe_options_.threads, .several_processes = true});
  backend_ = std::move(chosen.backend);
  DeviceReport report{backend_->device(), chosen.passed_over};
  if (report.device.gpu) report.device.gpu->cublaslt = backend_->matrix_library();
  return report;
}

PlanReport EngineWorker::plan(const Cell& cell) {
  load_ = {};
  {
    const Timed timed(&load_.context_ns);
    backend_ = choose_(cell.engine.device, {.threads = cell.engine.threads, .engine = cell.engine.engine}).backend;
  }
  if (const auto use = backend_->device_use()) {
    memory_.count = use->process_bytes ? MemoryCount::driver : MemoryCount::allocations;
    memory_.start_bytes = use->context_bytes;
  } else {
    memory_.start_bytes = resident_bytes();
  }
  {
    const Timed timed(&load_.weights_ns);
    opened_ = open_model(cell.model, cell.precision);
  }
  const Test& test = cell.test;
  // A CPU's steps end before the host's eyes anyway.
  host_tokens_ = cell.host_tokens && backend_->device().gpu;
  const Shape& model = opened_.model->shape();
  shape_ = session_shape(model, test.batch, test.depth, test.prompt_tokens, test.new_tokens);
  step_ = decode_shapes(*opened_.model, test.batch, shape_.encoder_positions);
  if (model.has_picture()) load_picture(cell.picture, *model.encoder->picture);
  {
    const Timed timed(&load_.context_ns);  // a library may be opened for it
    plan_ = backend_->plan(step_, shape_.rows, encode_shapes(*opened_.model, shape_.encoder_rows));
  }
  engine_ = choose_untested(&plan_, cell.engine.engine, backend_->device(), cache_);
  PlanReport report;
  report.shape = opened_.model->shape();
  report.device = backend_->device();
  for (const StepEngine& engine : plan_.engines) report.engines.emplace_back(engine.name);
  report.predicted = predict_memory(plan_, *opened_.model, shape_);
  report.skipped = skipped_modules(*opened_.model, cell.precision);
  const Cost first = cost_of(step_, 1).total(), second = cost_of(step_, 2).total();
  report.token_weight_bytes = load_.token_weight_bytes = first.weight_bytes;
  report.kv_position_bytes = load_.kv_position_bytes =
      (second.kv_bytes - first.kv_bytes) / static_cast<size_t>(shape_.sequences);
  load_.part_bytes = bytes_by_part(step_, shape_.sequences);
  report.kv_fixed_bytes = load_.kv_fixed_bytes = load_.part_bytes[StepPart::attention].kv_fixed_bytes;
  return report;
}

// Each sequence has the same picture. What it takes on the host is told by the median of several times.
void EngineWorker::load_picture(const std::string& path, const Picture& picture) {
  constexpr size_t kTimes = 5;
  Image image;
  std::array<double, kTimes> decode_ns{}, resize_ns{};
  for (size_t i = 0; i < kTimes; ++i) {
    image = load_image(path, picture.size, backend_->host_pool());
    decode_ns[i] = static_cast<double>(image.decode_ns);
    resize_ns[i] = static_cast<double>(image.resize_ns);
  }
  picture_ = {.width = image.source_width,
              .height = image.source_height,
              .size = picture.size,
              .decode_ns = static_cast<int64_t>(median(decode_ns)),
              .resize_ns = static_cast<int64_t>(median(resize_ns)),
              .warning = image.warning};
  const size_t values = static_cast<size_t>(picture.tokens()) * static_cast<size_t>(picture.values());
  patches_.resize(values * static_cast<size_t>(shape_.sequences));
  siglip_patches(image.pixels, picture.patch, std::span(patches_).first(values));
  for (size_t at = values; at < patches_.size(); at += values) {
    std::copy_n(patches_.begin(), values, patches_.begin() + static_cast<std::ptrdiff_t>(at));
  }
}

CellLoad EngineWorker::load(const OnProgress& progress) {
  if (!backend_) fail(ErrorKind::internal, "a worker was asked to load before it was told what");
  const auto on_bytes = [&](int64_t done, int64_t total) {
    if (progress && total > 0) progress(static_cast<double>(done) / static_cast<double>(total));
  };
  CellLoad report = load_;
  {
    const Timed timed(&report.weights_ns);
    report.resident = quantbench::load(*opened_.model, *opened_.weights, *backend_, plan_, on_bytes).resident;
    opened_.weights.reset();
  }
  {
    const Timed timed(&report.session_ns);
    session_ = std::make_unique<Session>(*backend_, *opened_.model, shape_, engine_.engine);
  }
  report.weight_form = opened_.weight_form;
  report.picture = picture_;
  memory_.load_peak_bytes = memory_of_device().peak_bytes;
  memory_.load_use = backend_->memory();
  if (engine_.engine.empty()) engine_ = choose_by_test(*session_, plan_, backend_->device(), cache_);
  report.engine = engine_;
  report.tuning = session_->tuning();
  if (backend_->device_use()) {
    backend_->reset_device_peak();
    memory_.peaks_separate = true;
  } else {
    memory_.peaks_separate = reset_peak_resident();
  }
  return report;
}

void EngineWorker::fill_context(std::span<const int32_t> context) {
  if (!session_) fail(ErrorKind::internal, "a worker was asked to fill the context before its model was loaded");
  session_->fill_context(context);
}

GenerateReport EngineWorker::generate(std::span<const int32_t> prompt, int new_tokens,
                                      std::span<const int32_t> stop_at) {
  if (!session_) fail(ErrorKind::internal, "a worker was asked to generate before its model was loaded");
  GenerateOptions options;
  options.max_new_tokens = new_tokens;
  options.stop_at.assign(stop_at.begin(), stop_at.end());
  if (host_tokens_) options.on_token = [](int32_t) {};
  const auto before = cpu_times();
  const int64_t start_ns = os::steady_now_ns();
  GenerateReport report{session_->generate({prompt, patches_}, options), {}, {}};
  const double wall_s = static_cast<double>(os::steady_now_ns() - start_ns) * 1e-9;
  const auto after = cpu_times();
  if (before && after && wall_s > 0) {
    // Of all CPUs of the machine: /proc/stat counts those that this process may not use as well.
    static const double cpus = std::max(1, logical_cpus_of_machine());
    const double others_s = (after->all_s - before->all_s) - (after->own_s - before->own_s);
    report.other_cpu = std::clamp(others_s / (wall_s * cpus), 0.0, 1.0);  // the kernel counts in ticks of 10 ms
  }
  report.launches = session_->launches();
  return report;
}

ExplainReport EngineWorker::explain(std::span<const int32_t> prompt, int new_tokens) {
  if (!session_) fail(ErrorKind::internal, "a worker was asked to explain before its model was loaded");
  GenerateOptions options;
  options.max_new_tokens = new_tokens;
  const Run run = session_->generate({prompt, patches_}, options);
  ExplainReport report;
  // Before the times, which leave in the cache what is no step's.
  report.outliers = count_outliers(*backend_, *session_, run, kOutlierSteps);
  const auto& of = report.outliers.of;
  if (std::any_of(of.begin(), of.end(), [](const OutlierCount& c) { return c.columns > 0; })) {
    report.outlier_steps = std::min(kOutlierSteps, new_tokens - 1);
  }
  const StepTimes times = time_parts(*backend_, *session_, run);
  report.engine = backend_->device().gpu ? "graph" : "native";  // Backend::record_part
  report.step_ns = times.step_ns;
  report.part_ns = times.part_ns;
  report.part_launches = times.launches;
  report.rounds = times.rounds;
  return report;
}

MemoryReport EngineWorker::memory() {
  if (!session_) fail(ErrorKind::internal, "a worker was asked for its memory before its model was loaded");
  const MemoryNow now = memory_of_device();
  memory_.run_peak_bytes = now.peak_bytes;
  memory_.end_bytes = now.bytes;
  memory_.end_use = backend_->memory();
  if (const auto use = backend_->device_use()) {
    memory_.host_peak_bytes = peak_resident_bytes();
    memory_.driver_process_bytes = use->process_bytes;
    memory_.driver_device_bytes = use->device_bytes;
    memory_.taken_bytes = use->taken_bytes;
  }
  return memory_;
}

MemoryNow EngineWorker::memory_of_device() {
  const auto use = backend_->device_use();
  if (use) return memory_now(*use);
  // The peak first: asking for what is resident takes memory itself.
  const int64_t peak_bytes = peak_resident_bytes();
  return {resident_bytes(), peak_bytes};
}

MemoryNow memory_now(const DeviceUse& use) {
  const int64_t bytes = use.process_bytes.value_or(use.context_bytes + use.held_bytes);
  return {bytes, bytes + use.peak_bytes - use.held_bytes};
}

ReadSample EngineWorker::probe() {
  if (!probe_) {
    if (!backend_) backend_ = choose_(probe_options_.device, {.threads = probe_options_.threads}).backend;
    probe_ = make_read_probe(*backend_, cache_bytes_);
  }
  return sample(*probe_);
}

QualityReport EngineWorker::quality(const QualityRequest& request, const OnProgress& progress) {
  return measure_quality(request, choose_, progress);
}

std::unique_ptr<ReadProbe> make_read_probe(Backend& backend, int64_t cache_bytes) {
  const std::optional<GpuInfo>& gpu = backend.device().gpu;
  const size_t cache = gpu ? gpu->cache_bytes : static_cast<size_t>(cache_bytes);
  const size_t bytes = std::max(gpu ? kGpuProbeBytes : kProbeBytes, kProbeCaches * cache);
  const size_t available = backend.device().available_bytes;
  if (available > 0 && bytes > available / 2) {
    fail(ErrorKind::out_of_memory,
         "the bandwidth probe reads {:.2f} GiB and leaves as much free, {:.2f} GiB are available; free memory",
         static_cast<double>(bytes) / (1 << 30), static_cast<double>(available) / (1 << 30));
  }
  auto probe = backend.read_probe(bytes);
  if (!probe) {
    fail(ErrorKind::device, "the {} backend makes no claim on speed and has no bandwidth probe",
         backend.device().backend);
  }
  return probe;
}

ReadSample sample(ReadProbe& probe) {
  std::array<double, kProbePasses> rates;
  for (double& rate : rates) rate = probe.measure();
  return {0, median(rates), probe.kernel()};
}

}  // namespace quantbench
