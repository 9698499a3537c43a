#include "bench/measure.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "bench/forecast.h"
#include "bench/statistics.h"

namespace quantbench {
namespace {

// Nothing is watched any longer, however the run ends.
struct WatchEnds {
  Monitor* monitor;
  ~WatchEnds() {
    if (monitor) monitor->cancel();
  }
};

// A cell being measured.
struct Visit {
  const Cell* cell = nullptr;
  CellData data;
  std::unique_ptr<Worker> worker;
  double spent_s = 0;  // generating
  bool reported = false;

  bool alive() const { return data.outcome.status == Status::ok && !reported; }
};

class Group {
 public:
  Group(std::span<const Cell> cells, const MeasureOptions& options, const MeasureHooks& hooks, BandwidthProbe& probe)
      : options_(options), hooks_(hooks), probe_(probe), visits_(cells.size()) {
    for (size_t i = 0; i < cells.size(); ++i) visits_[i].cell = &cells[i];
  }

  void run() {
    try {
      if (hooks_.meter) {
        hooks_.progress->status("energy of the idle device");
        if (hooks_.meter->measure_idle() && !hooks_.meter->missing().empty()) {
          hooks_.progress->line(fmt::format("energy is not measured: {}", hooks_.meter->missing()));
        }
      }
      last_read_ = probe_.sample();  // first, so that the memory of its buffer is counted as taken
      for (Visit& v : visits_) attempt(v, [&] { start_and_plan(v); });
      together_ = fits_together();
      if (!together_) {
        for (Visit& v : visits_) v.worker.reset();
        hooks_.progress->line("the precisions do not fit into memory together: one process a visit");
      }
      for (Visit& v : visits_) {
        v.data.resident_together = together_;
        v.data.order_seed = options_.seed;
        attempt(v, [&] { prepare(v); });
      }
      blocks();
      if (hooks_.meter) {
        for (Visit& v : visits_) attempt(v, [&] { measure_energy(v); });
      }
      if (options_.explain) {
        for (Visit& v : visits_) attempt(v, [&] { explain(v); });
      }
      measure_quality();
      for (Visit& v : visits_) attempt(v, [&] { finish(v); });
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::interrupted) throw;
      for (Visit& v : visits_) {
        v.worker.reset();
        if (v.reported) continue;
        fail_visit(v, Status::interrupted,
                   Error(ErrorKind::interrupted, fmt::format("by a signal, after {} timed run{}", v.data.runs.size(),
                                                             v.data.runs.size() == 1 ? "" : "s")));
      }
      throw;
    }
  }

 private:
  // A cell's failure is its record; the others go on. Only a request to stop goes further up.
  template <typename Step>
  void attempt(Visit& v, Step step) {
    if (!v.alive()) return;
    try {
      step();
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
      fail_visit(v, Status::failed, error);
    } catch (const std::exception& error) {
      fail_visit(v, Status::failed, Error(ErrorKind::internal, error.what()));
    }
  }

  void fail_visit(Visit& v, Status status, const Error& error) {
    v.worker.reset();
    v.data.outcome = {status, error.what(), error.kind()};
    v.data.stop_reason = std::string(name_of(status));
    hooks_.progress->line(fmt::format("{}: {}: {}", v.cell->label(), name_of(status), error.what()));
    report(v);
  }

  void report(Visit& v) {
    v.reported = true;
    hooks_.finished(*v.cell, v.data);
  }

  void start_and_plan(Visit& v) {
    v.data.plan = start(v);
    check_fits(*v.data.plan, available_to(v));
  }

  // On a GPU: as it was when this cell's process had opened it, those before it and the probe's buffer included.
  std::optional<int64_t> available_to(const Visit& v) const {
    if (v.data.plan->device.gpu) return static_cast<int64_t>(v.data.plan->device.available_bytes);
    return hooks_.available_memory();
  }

  bool fits_together() const {
    std::optional<int64_t> available;
    int64_t wanted = kSpareBytes;
    for (const Visit& v : visits_) {
      if (!v.alive()) continue;
      wanted += predicted_bytes(*v.data.plan);
      available = available_to(v);  // the last has seen the most taken
    }
    return !available || wanted <= *available;
  }

  // What decides, in one sweep on one device, which engines there are and how fast they run.
  static std::string engine_key(const Cell& cell) {
    return fmt::format("{} in '{}' {} b{}", cell.model.shown(), cell.model.folder, name_of(cell.precision),
                       cell.test.batch);
  }
  // The cell's worker, which is to run on `engine`, or as the cell says where there is none.
  PlanReport start(Visit& v, const std::string& engine = {}) {
    Cell cell = *v.cell;
    const auto known = hooks_.engines->find(engine_key(cell));
    if (known != hooks_.engines->end()) cell.engine.engine = known->second.engine;
    if (!engine.empty()) cell.engine.engine = engine;
    v.worker = nullptr;  // before the next takes memory
    v.worker = hooks_.start(v.cell);
    return v.worker->plan(cell);
  }

  CellLoad load_on_an_engine(Visit& v) {
    const std::string label = v.cell->label(), key = engine_key(*v.cell);
    const auto on_progress = [&](double done) {
      hooks_.progress->status(fmt::format("{}: loading {:.0f} %", label, 100 * done));
    };
    const auto known = hooks_.engines->find(key);
    CellLoad load;
    try {
      load = v.worker->load(on_progress);
    } catch (const Error& error) {
      // An engine may take the GPU from its process when it fails; then a fresh one runs on the engine that always can.
      const std::vector<std::string>& engines = v.data.plan->engines;
      if (error.kind() != ErrorKind::device || engines.size() < 2 || known != hooks_.engines->end()) throw;
      start(v, engines.front());
      load = v.worker->load(on_progress);
      load.engine = {.engine = engines.front(), .by = ChosenBy::failure, .failure = error.what()};
    }
    if (known != hooks_.engines->end()) {
      load.engine = known->second;
      return load;
    }
    EngineChoice choice = load.engine;
    if (choice.by == ChosenBy::failure) {
      hooks_.progress->line(
          fmt::format("{}: on the {} engine, since the other failed: {}", label, choice.engine, choice.failure));
    }
    if (choice.by == ChosenBy::self_test) choice.by = ChosenBy::cache;  // of those that come later
    if (!choice.times.empty() || !choice.failure.empty()) hooks_.engines->emplace(key, choice);
    return load;
  }

  void load(Visit& v) {
    if (!v.worker) start(v);
    CellLoad load = load_on_an_engine(v);
    if (v.data.load) {
      load.engine = v.data.load->engine;  // chosen when the cell was loaded first
      if (load.tuning != v.data.load->tuning) v.data.tuning_varied = true;
      load.tuning = v.data.load->tuning;
    }
    v.data.load = load;
    if (v.cell->context.empty()) return;
    hooks_.progress->status(
        fmt::format("{}: filling the context with {} tokens", v.cell->label(), v.cell->context.size()));
    v.worker->fill_context(v.cell->context);
  }

  RunSample generate(Visit& v) {
    RunSample sample;
    sample.at_ns = hooks_.now();
    sample.report = v.worker->generate(v.cell->prompt, v.cell->test.new_tokens, v.cell->stop_at);
    v.spent_s += static_cast<double>(sample.report.run.total_ns) * 1e-9;
    return sample;
  }

  // Load, cold run, warm-up. Without residence the process ends afterwards.
  void prepare(Visit& v) {
    load(v);
    hooks_.progress->status(v.cell->label() + ": cold run");
    v.data.cold = generate(v);
    while (static_cast<int>(v.data.warmup.size()) < kMaxWarmups) {
      hooks_.progress->status(fmt::format("{}: warm-up {}", v.cell->label(), v.data.warmup.size() + 1));
      v.data.warmup.push_back(generate(v));
      v.data.warmup_settled = warmed_up(latencies_ns(v.data.warmup));
      const bool enough = static_cast<int>(v.data.warmup.size()) >= kMinWarmups;
      if (enough && (v.data.warmup_settled || v.spent_s > options_.max_time_s / 3)) break;
    }
    v.data.memory = v.worker->memory();
    if (!together_) v.worker.reset();
  }

  void visit(Visit& v, int block, int place) {
    if (!together_) {
      load(v);
      generate(v);  // the first run of a process is never timed
    }
    hooks_.progress->status(block_status(block) + ": " + v.cell->label());
    RunSample sample = timed_run(v, block, place);
    while (sample.telemetry && sample.telemetry->throttled() && may_repeat(v)) {
      v.data.throttled.push_back(sample);
      last_read_ = probe_.sample();
      if (last_read_) v.data.throttled.back().read_after = last_read_->bytes_per_second;
      sample = timed_run(v, block, place);
    }
    v.data.runs.push_back(sample);
    if (!together_) {
      v.data.memory = v.worker->memory();
      v.worker.reset();
    }
    last_read_ = probe_.sample();
    if (last_read_) v.data.runs.back().read_after = last_read_->bytes_per_second;
  }

  RunSample timed_run(Visit& v, int block, int place) {
    const bool watched = hooks_.monitor && v.data.plan->device.gpu;
    const WatchEnds ends{hooks_.monitor};
    if (watched) hooks_.monitor->begin();
    RunSample sample = generate(v);
    if (watched) sample.telemetry = hooks_.monitor->end(own_processes());
    sample.block = block;
    sample.place = place;
    if (last_read_) sample.read_before = last_read_->bytes_per_second;
    return sample;
  }

  // A card that stays hot must cost neither for ever nor the cell its runs.
  bool may_repeat(const Visit& v) const {
    return static_cast<int>(v.data.throttled.size()) < kMaxRepeats && v.spent_s < options_.max_time_s;
  }

  // Of this sweep, on the device. Without one's number none can be told from others.
  std::vector<uint32_t> own_processes() const {
    std::vector<uint32_t> own;
    if (const auto process = probe_.process()) own.push_back(*process);
    for (const Visit& v : visits_) {
      if (!v.worker) continue;
      const auto process = v.worker->process();
      if (!process) return {};
      own.push_back(*process);
    }
    return own;
  }

  // Runs back to back, as many as take some seconds: what counts energy does so in steps of up to 0.1 s.
  void measure_energy(Visit& v) {
    if (const std::string& missing = hooks_.meter->missing(); !missing.empty()) {
      v.data.energy = EnergyReport{.missing = missing};
      return;
    }
    if (!v.worker) {
      load(v);
      generate(v);
    }
    hooks_.progress->status(v.cell->label() + ": energy");
    int runs = 0;
    int64_t tokens = 0;
    const WatchEnds ends{hooks_.monitor};
    hooks_.meter->begin();
    do {
      const Run run = generate(v).report.run;
      ++runs;
      tokens +=
          int64_t{run.sequences} * (v.cell->test.kind == TestKind::prefill ? run.prompt_tokens : run.new_tokens());
    } while (hooks_.meter->seconds() < kEnergySeconds);
    v.data.energy = hooks_.meter->end(runs, tokens);
    if (!together_) v.worker.reset();
  }

  // What it fails by is not the cell's fault, which has been measured. Memory is asked for before, since this takes
  // some; so the process has nothing left to tell.
  void explain(Visit& v) {
    if (v.cell->test.new_tokens < 2) {
      v.data.explain = ExplainReport{.missing = "there are no decode steps in this test"};
      return;
    }
    if (v.worker) {
      v.data.memory = v.worker->memory();
    } else {
      load(v);
    }
    hooks_.progress->status(v.cell->label() + ": taking a step apart");
    try {
      v.data.explain = v.worker->explain(v.cell->prompt, v.cell->test.new_tokens);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
      v.data.explain = ExplainReport{.missing = error.what()};
      hooks_.progress->line(fmt::format("{}: its steps are not explained: {}", v.cell->label(), error.what()));
    }
    v.worker.reset();
  }

  // "block 3 of about 10, 2 min left", from the runs so far.
  std::string block_status(int block) const {
    int expected = block + 1, visits = 0, left = 0;
    for (const Visit& v : visits_) {
      visits += static_cast<int>(v.data.runs.size());
      if (wants_visit(v)) {
        expected = std::max(expected, expected_runs(options_, latencies_ns(v.data.runs), v.spent_s));
      }
    }
    for (const Visit& v : visits_) {
      if (wants_visit(v)) left += std::max(0, expected - static_cast<int>(v.data.runs.size()));
    }
    std::string text = fmt::format("block {} of {}{}", block + 1, options_.runs > 0 ? "" : "about ", expected);
    if (visits == 0) return text;
    const double visit_s = static_cast<double>(hooks_.now() - blocks_began_ns_) * 1e-9 / visits;
    return fmt::format("{}, {} left", text, rough_time(visit_s * left));
  }

  // One timed run is made in any case, or what was spent before it would be lost.
  bool out_of_time(const Visit& v) const { return !v.data.runs.empty() && v.spent_s >= options_.max_time_s; }

  // Why the cell needs no further run, or empty.
  std::string satisfied(const Visit& v) const {
    const auto runs = static_cast<int>(v.data.runs.size());
    if (options_.runs > 0)
      return runs >= options_.runs ? fmt::format("{} run{}, as asked", runs, runs == 1 ? "" : "s") : "";
    if (runs >= kMinRuns && relative_half_width(latencies_ns(v.data.runs)) <= options_.target_ci) {
      return fmt::format("interval within {:g} %", 100 * options_.target_ci);
    }
    if (runs >= kMaxRuns) return fmt::format("{} runs, the most", kMaxRuns);
    if (out_of_time(v)) return fmt::format("time cap of {:g} s", options_.max_time_s);
    return "";
  }

  // Complete blocks until every cell is satisfied. A cell that is satisfied early is visited further, so that blocks
  // stay complete, unless its time is up or it has had the most runs.
  bool wants_visit(const Visit& v) const {
    if (!v.alive()) return false;
    if (options_.runs > 0) return static_cast<int>(v.data.runs.size()) < options_.runs;
    return static_cast<int>(v.data.runs.size()) < kMaxRuns && !out_of_time(v);
  }

  void blocks() {
    last_read_ = probe_.sample();
    blocks_began_ns_ = hooks_.now();
    for (int block = 0;; ++block) {
      const bool all_done = std::all_of(visits_.begin(), visits_.end(),
                                        [&](const Visit& v) { return !v.alive() || !satisfied(v).empty(); });
      if (all_done) return;
      const auto count = static_cast<int>(visits_.size());
      int place = 0;
      for (int index : shuffled(count, derived_seed(options_.seed, static_cast<uint64_t>(block)))) {
        Visit& v = visits_[static_cast<size_t>(index)];
        if (!wants_visit(v)) continue;
        attempt(v, [&] { visit(v, block, place); });
        ++place;
      }
    }
  }

  void let_go(Visit& v) {
    if (v.worker) v.data.memory = v.worker->memory();
    v.worker.reset();
  }

  void measure_quality() {
    if (!hooks_.quality) return;
    std::vector<Cell> cells;
    for (Visit& v : visits_) attempt(v, [&] { let_go(v); });
    for (const Visit& v : visits_) {
      if (v.alive()) cells.push_back(*v.cell);
    }
    if (cells.empty()) return;
    std::vector<QualityData> found = hooks_.quality(cells);
    size_t next = 0;
    for (Visit& v : visits_) {
      if (v.alive()) v.data.quality = std::move(found.at(next++));
    }
  }

  void finish(Visit& v) {
    let_go(v);
    v.data.stop_reason = satisfied(v);
    report(v);
  }

  const MeasureOptions& options_;
  const MeasureHooks& hooks_;
  BandwidthProbe& probe_;
  std::vector<Visit> visits_;
  bool together_ = true;
  int64_t blocks_began_ns_ = 0;
  std::optional<ReadSample> last_read_;  // the probe's visit before the next run
};

}  // namespace

Worker& BandwidthProbe::worker() {
  if (!worker_) {
    hooks_.progress->status("starting the read bandwidth probe");
    worker_ = hooks_.start(nullptr);
  }
  return *worker_;
}

std::optional<uint32_t> BandwidthProbe::process() const {
  if (!worker_ || failed_) return std::nullopt;
  return worker_->process();
}

DeviceReport BandwidthProbe::device() { return worker().device(); }

std::optional<ReadSample> BandwidthProbe::sample() {
  if (failed_) return std::nullopt;
  try {
    ReadSample sample = worker().probe();
    sample.at_ns = hooks_.now();
    return sample;
  } catch (const std::exception& error) {
    const auto* known = dynamic_cast<const Error*>(&error);
    if (known && known->kind() == ErrorKind::interrupted) throw;
    failed_ = true;
    worker_.reset();
    hooks_.progress->line(fmt::format("no read bandwidth, so no share of it: {}", error.what()));
    return std::nullopt;
  }
}

void measure(std::span<const Cell> cells, const MeasureOptions& options, const MeasureHooks& hooks,
             BandwidthProbe& probe) {
  Group(cells, options, hooks, probe).run();
}

std::vector<double> latencies_ns(std::span<const RunSample> runs) {
  std::vector<double> result;
  result.reserve(runs.size());
  for (const RunSample& sample : runs) result.push_back(static_cast<double>(sample.report.run.total_ns));
  return result;
}

bool warmed_up(std::span<const double> latencies_ns) {
  constexpr size_t kWindow = 3;
  if (latencies_ns.size() < kWindow + 1) return false;
  const double last = median(latencies_ns.last(kWindow));
  const double before = median(latencies_ns.subspan(latencies_ns.size() - kWindow - 1, kWindow));
  return std::abs(last - before) < kWarmupTolerance * before;
}

double relative_half_width(std::span<const double> latencies_ns) {
  const auto interval = median_interval(latencies_ns);
  if (!interval) return std::numeric_limits<double>::infinity();
  return (interval->high - interval->low) / 2 / median(latencies_ns);
}

}  // namespace quantbench
