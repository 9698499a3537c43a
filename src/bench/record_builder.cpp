#include "bench/record_builder.h"

#include <algorithm>

#include "bench/explain_record.h"
#include "bench/metrics.h"
#include "bench/quality_record.h"
#include "bench/stamp.h"
#include "bench/statistics.h"
#include "bench/telemetry_record.h"

namespace quantbench {
namespace {

Record environment_part(const Environment& e) {
  return {{"cpu", e.cpu_name},
          {"cpu_features", e.cpu_features},
          {"logical_cpus", e.logical_cpus},
          {"physical_cores", e.physical_cores},
          {"last_level_cache_bytes", e.last_level_cache_bytes},
          {"virtual_machine", e.virtual_machine},
          {"memory_bytes", or_null(e.memory_bytes)},
          {"available_bytes", or_null(e.available_bytes)},
          {"kernel", e.kernel},
          {"operating_system", e.operating_system},
          {"huge_pages", or_null(e.huge_pages)},
          {"governor", or_null(e.governor)},
          {"load_average", or_null(e.load_average)}};
}

Record build_part(const BuildInfo& b) {
  return {{"version", b.version},       {"git_commit", b.git_commit}, {"compiler", b.compiler},
          {"build_type", b.build_type}, {"sanitizers", b.flags},      {"optimized", b.optimized}};
}

Record model_part(const Cell& cell, const CellData& data, const ModelIdentity& identity) {
  Record files = Record::array();
  for (const WeightFile& f : identity.files) {
    files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"header_sha256", f.header_sha256}});
  }
  Record model{{"name", cell.model.name},
               {"commit", text_or_null(cell.model.commit)},
               {"weights", cell.model.random_weights ? "random" : "checkpoint"},
               {"weight_form", data.load ? Record(data.load->weight_form) : Record(nullptr)},
               {"config_sha256", text_or_null(identity.config_sha256)},
               {"files", files}};
  if (cell.model.random_weights) {
    model["weight_seed"] = cell.model.weight_seed;
    model["outlier_channels"] = cell.model.outlier_channels;
  }
  if (data.plan) {
    const Shape& s = data.plan->shape;
    model["architecture"] = s.architecture;
    model["parameters"] = s.parameters;
    model["layers"] = s.layers;
    model["vocab"] = s.vocab;
  }
  return model;
}

Record cublaslt_part(const std::optional<MatrixLibrary>& library) {
  if (!library) return nullptr;
  return {{"version", text_or_null(library->version)},
          {"path", text_or_null(library->path)},
          {"missing", text_or_null(library->missing)}};
}

Record gpu_part(const GpuInfo& g, const std::optional<MatrixLibrary>& library) {
  return {{"uuid", g.uuid},
          {"driver", text_or_null(g.driver)},
          {"driver_cuda", g.driver_cuda},
          {"runtime_cuda", g.runtime_cuda},
          {"compute_capability", fmt::format("{}.{}", g.major, g.minor)},
          {"multiprocessors", g.multiprocessors},
          {"cache_bytes", g.cache_bytes},
          {"mig_slice", g.is_mig_slice},
          {"cublaslt", cublaslt_part(library)}};
}

// As the cell's own process saw it; of a cell that did not get so far, as the sweep did, which alone looks for
// cuBLASLt.
Record devices_part(const CellData& data, const std::optional<DeviceInfo>& of_sweep) {
  Record devices = Record::array();
  if (!data.plan && !of_sweep) return devices;
  const DeviceInfo& d = data.plan ? data.plan->device : *of_sweep;
  std::optional<MatrixLibrary> library;
  if (of_sweep && of_sweep->gpu) library = of_sweep->gpu->cublaslt;
  devices.push_back({{"index", 0},
                     {"id", d.id},
                     {"backend", d.backend},
                     {"name", d.name},
                     {"features", d.features},
                     {"threads", d.threads},
                     {"memory_bytes", d.memory_bytes},
                     {"available_bytes", d.available_bytes},
                     {"gpu", d.gpu ? gpu_part(*d.gpu, library) : Record(nullptr)}});
  return devices;
}

// Of a cell that failed before it was chosen: what was asked for.
std::string engine_of(const Cell& cell, const CellData& data) {
  if (data.load) return data.load->engine.engine;
  if (!data.plan) return "none";
  return data.plan->engines.size() == 1 ? data.plan->engines.front() : cell.engine.engine;
}

Record engine_choice_part(const EngineChoice& choice) {
  Record times = Record::object();
  for (const EngineTime& time : choice.times) times[time.engine] = time.step_ns;
  return {{"by", name_of(choice.by)},
          {"step_ns", choice.times.empty() ? Record(nullptr) : times},
          {"failure", text_or_null(choice.failure)}};
}

Record cell_part(const Cell& cell, const CellData& data, const ModelIdentity& identity) {
  Record placement = Record::array();
  if (data.plan) {
    placement.push_back({{"device", 0}, {"first_layer", 0}, {"layers", data.plan->shape.layers}});
  }
  return {{"model", model_part(cell, data, identity)},
          {"precision", name_of(cell.precision)},
          {"precision_long", long_name_of(cell.precision, cell.nf4_double_quantized)},
          {"skipped_modules", data.plan ? Record(data.plan->skipped) : Record::array()},
          {"test", cell.test.name()},
          {"kind", name_of(cell.test.kind)},
          {"prompt_tokens", cell.test.prompt_tokens},
          {"new_tokens", cell.test.new_tokens},
          {"depth", cell.test.depth},
          {"batch", cell.test.batch},
          {"picture", text_or_null(cell.picture)},
          {"stop_at_eos", !cell.stop_at.empty()},
          {"host_tokens", cell.host_tokens},
          {"aa_half", text_or_null(cell.half)},
          {"engine", engine_of(cell, data)},
          {"tuning", text_or_null(data.load ? data.load->tuning : "")},
          {"engine_choice", data.load ? engine_choice_part(data.load->engine) : Record(nullptr)},
          {"placement", placement}};
}

Record use_part(const MemoryUse& use) {
  Record part = Record::object();
  for (int i = 0; i < kUses; ++i) part[std::string(name_of(static_cast<Use>(i)))] = use.bytes[static_cast<size_t>(i)];
  return part;
}

Record picture_part(const PictureReport& p) {
  return {{"width", p.width},         {"height", p.height},       {"size", p.size},
          {"decode_ns", p.decode_ns}, {"resize_ns", p.resize_ns}, {"warning", text_or_null(p.warning)}};
}

Record load_part(const std::optional<CellLoad>& load) {
  if (!load) return nullptr;
  return {{"time_ns", load->load_ns()},
          {"context_ns", load->context_ns},
          {"weights_ns", load->weights_ns},
          {"session_ns", load->session_ns},
          {"picture", load->picture ? picture_part(*load->picture) : Record(nullptr)},
          {"resident", use_part(load->resident)}};
}

Record run_part(const RunSample& sample, Outlier outlier) {
  const Run& run = sample.report.run;
  Record spans = Record::array();
  for (const Span& s : run.spans) spans.push_back({name_of(s.phase), name_of(s.clock), s.start_ns, s.end_ns});
  return {{"at_ns", sample.at_ns},
          {"block", sample.block < 0 ? Record(nullptr) : Record(sample.block)},
          {"place", sample.place < 0 ? Record(nullptr) : Record(sample.place)},
          {"total_ns", run.total_ns},
          {"prompt_tokens", run.prompt_tokens},
          {"new_tokens", run.new_tokens()},
          {"output_sha256", hash_of(run.tokens)},
          {"finite", run.finite},
          {"outlier", outlier == Outlier::none   ? "none"
                      : outlier == Outlier::mild ? "mild"
                                                 : "severe"},
          {"read_before_bytes_per_second", or_null(sample.read_before)},
          {"read_after_bytes_per_second", or_null(sample.read_after)},
          {"other_cpu_share", or_null(sample.report.other_cpu)},
          {"telemetry", run_telemetry_part(sample.telemetry)},
          {"spans", spans}};
}

Record runs_part(const std::vector<RunSample>& runs, bool timed) {
  const std::vector<Outlier> outliers =
      timed ? classify_outliers(latencies_ns(runs)) : std::vector<Outlier>(runs.size(), Outlier::none);
  Record part = Record::array();
  for (size_t i = 0; i < runs.size(); ++i) part.push_back(run_part(runs[i], outliers[i]));
  return part;
}

// What `total` is made of: the process before the model, the backend's bytes by use, and the rest.
Record ledger_part(int64_t total, const MemoryReport& m, const MemoryUse& use) {
  Record ledger{{"process", m.start_bytes}};
  ledger.update(use_part(use));
  ledger["other"] = total - m.start_bytes - static_cast<int64_t>(use.total());
  return ledger;
}

// What was booked against what others count at the end, each difference with its sign.
Record reconciliation_part(const MemoryReport& m) {
  const auto difference = [&](const std::optional<int64_t>& counted) {
    return counted ? Record(*counted - m.accounted_bytes()) : Record(nullptr);
  };
  return {{"accounted_bytes", m.accounted_bytes()},
          {"counted_difference_bytes", m.other_bytes()},
          {"driver_process_difference_bytes", difference(m.driver_process_bytes)},
          {"driver_device_difference_bytes", difference(m.driver_device_bytes)},
          {"taken_difference_bytes", difference(m.taken_bytes)}};
}

// One entry a device; on a CPU the process's resident memory is the device's, and the last four are null.
Record memory_part(const CellData& data) {
  Record part = Record::array();
  if (!data.memory) return part;
  const MemoryReport& m = *data.memory;
  part.push_back({{"device", 0},
                  {"counted_by", name_of(m.count)},
                  {"start_bytes", m.start_bytes},
                  {"load_peak_bytes", m.load_peak_bytes},
                  {"run_peak_bytes", m.run_peak_bytes},
                  {"peaks_separate", m.peaks_separate},
                  {"peak_bytes", m.peak_bytes()},
                  {"end_bytes", m.end_bytes},
                  {"start_ledger", ledger_part(m.start_bytes, m, {})},
                  {"load_peak_ledger", ledger_part(m.load_peak_bytes, m, m.load_use)},
                  {"run_peak_ledger", ledger_part(m.run_peak_bytes, m, m.end_use)},
                  {"end_ledger", ledger_part(m.end_bytes, m, m.end_use)},
                  {"predicted", data.plan ? use_part(data.plan->predicted) : Record(nullptr)},
                  {"host_peak_bytes", or_null(m.host_peak_bytes)},
                  {"driver_process_bytes", or_null(m.driver_process_bytes)},
                  {"driver_device_bytes", or_null(m.driver_device_bytes)},
                  {"taken_bytes", or_null(m.taken_bytes)},
                  {"reconciliation", reconciliation_part(m)}});
  return part;
}

std::optional<double> first_bytes_per_step(const CellData& data) {
  return data.runs.empty() ? std::nullopt : bytes_per_step(data.runs.front(), data);
}

// Whether what a step reads fits into the last-level cache, so that it need not come from memory.
bool in_cache(const CellData& data, const Environment& e) {
  if (!data.load) return false;
  const auto read = first_bytes_per_step(data).value_or(static_cast<double>(data.load->token_weight_bytes));
  const bool on_gpu = data.plan && data.plan->device.gpu;
  return read < static_cast<double>(on_gpu ? data.plan->device.gpu->cache_bytes
                                           : static_cast<size_t>(e.last_level_cache_bytes));
}

Record read_peak_part(const CellData& data) {
  const std::optional<ReadPeak> peak = read_peak(data);
  if (!peak) return nullptr;
  return {{"known_bytes_per_second", peak->known}, {"best_bytes_per_second", peak->best}, {"reached", peak->reached()}};
}

Record cost_part(const Cell& cell, const CellData& data, const Environment& e) {
  if (!data.load) return nullptr;
  const std::optional<double> bytes = first_bytes_per_step(data);
  return {{"token_weight_bytes", data.load->token_weight_bytes},
          {"kv_position_bytes", data.load->kv_position_bytes},
          {"bytes_per_token", bytes ? Record(*bytes / cell.test.batch) : Record(nullptr)},
          {"bytes_per_step", or_null(bytes)},
          {"in_last_level_cache", in_cache(data, e)},
          {"read_peak", read_peak_part(data)}};
}

// A share of the read rate says nothing of a model that is read from the cache, nor where the rate is not the device's.
bool has_share(const CellData& data, const Environment& e) {
  const std::optional<ReadPeak> peak = read_peak(data);
  return !in_cache(data, e) && (!peak || peak->reached());
}

// All metrics there are, null where the cell has none.
Record metrics_part(const std::vector<Summary>& summaries, bool with_share) {
  Record part = Record::object();
  for (const MetricInfo& m : metric_infos()) part[std::string(m.name)] = nullptr;
  for (const Summary& s : summaries) {
    if (!with_share && s.name == kReadShare) continue;
    Record metric{{"unit", name_of(s.unit)},
                  {"better", s.better == Better::higher ? "higher" : "lower"},
                  {"runs", s.runs},
                  {"median", s.median}};
    if (s.runs > 0) {
      metric["low"] = or_null(s.low);
      metric["high"] = or_null(s.high);
      metric["coverage"] = s.coverage;
      metric["mad"] = s.mad;
      metric["min"] = s.min;
      metric["max"] = s.max;
      metric["samples"] = s.samples;
    }
    part[s.name] = metric;
  }
  return part;
}

std::optional<double> share_of(const std::vector<Summary>& summaries, bool with_share) {
  const auto found =
      std::find_if(summaries.begin(), summaries.end(), [](const Summary& s) { return s.name == kReadShare; });
  if (!with_share || found == summaries.end()) return std::nullopt;
  return found->median;
}

Record protocol_part(const CellData& data, const MeasureOptions& o) {
  return {{"seed", o.seed},
          {"runs", o.runs > 0 ? Record(o.runs) : Record("auto")},
          {"min_runs", kMinRuns},
          {"max_runs", kMaxRuns},
          {"target_ci", o.target_ci},
          {"max_time_s", o.max_time_s},
          {"interval", "order statistics of the median, at least 95 %"},
          {"order", "randomised complete blocks"},
          {"resident_together", data.resident_together},
          {"warmup_settled", data.warmup_settled}};
}

}  // namespace

Record make_record(const Cell& cell, const CellData& data, const SweepFacts& sweep, const CellFacts& facts) {
  const Stamp stamp = judge(cell, data, sweep.options, sweep.build);
  const std::vector<Summary> summaries = summarize(data);
  const bool with_share = has_share(data, sweep.environment);
  const RunSample* shown = !data.runs.empty() ? &data.runs.front() : data.cold ? &*data.cold : nullptr;
  const std::vector<int32_t> response = shown ? shown->report.run.tokens : std::vector<int32_t>{};
  const auto of_first = response.begin() + (shown ? shown->report.run.new_tokens() : 0);
  const Record text = facts.decode && shown ? Record(facts.decode({response.begin(), of_first})) : Record(nullptr);
  return {{"schema", "quantbench.record"},
          {"schema_version", kRecordVersion},
          {"started_utc", sweep.started_utc},
          {"build", build_part(sweep.build)},
          {"environment", environment_part(sweep.environment)},
          {"devices", devices_part(data, sweep.device)},
          {"cell", cell_part(cell, data, facts.identity)},
          {"outcome",
           {{"status", name_of(data.outcome.status)},
            {"stamp", name_of(stamp.kind)},
            {"reasons", stamp.reasons},
            {"flags", stamp.flags},
            {"stop_reason", data.stop_reason},
            {"error", data.outcome.status == Status::ok ? Record(nullptr) : Record(data.outcome.error)},
            {"error_kind", data.outcome.status == Status::ok ? Record(nullptr) : Record(name_of(data.outcome.kind))}}},
          {"protocol", protocol_part(data, sweep.options)},
          {"prompt",
           {{"text", or_null(facts.prompt_text)},
            {"ids", cell.prompt},
            {"context_sha256", cell.context.empty() ? Record(nullptr) : Record(hash_of(cell.context))}}},
          {"response", {{"text", text}, {"ids", response}, {"sha256", hash_of(response)}}},
          {"load", load_part(data.load)},
          {"memory", memory_part(data)},
          {"cost", cost_part(cell, data, sweep.environment)},
          {"telemetry", telemetry_part(data, sweep.telemetry_missing)},
          {"energy", energy_part(data.energy)},
          {"quality", data.quality ? quality_part(*data.quality, sweep.options.seed) : Record(nullptr)},
          {"explain", explain_part(cell, data, share_of(summaries, with_share))},
          {"metrics", metrics_part(summaries, with_share)},
          {"cold", data.cold ? run_part(*data.cold, Outlier::none) : Record(nullptr)},
          {"warmup", runs_part(data.warmup, false)},
          {"runs", runs_part(data.runs, true)},
          {"repeated_runs", runs_part(data.throttled, false)}};
}

}  // namespace quantbench
