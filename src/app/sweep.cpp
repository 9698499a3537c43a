// A sweep: plan → measure → write.
#include "app/sweep.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "app/dry_run.h"
#include "app/flags.h"
#include "app/progress.h"
#include "app/sweep_folder.h"
#include "backend/host_memory.h"
#include "backend/telemetry.h"
#include "bench/energy.h"
#include "bench/monitor.h"
#include "bench/quality_sweep.h"
#include "bench/record_builder.h"
#include "bench/worker_process.h"
#include "core/os.h"
#include "report/database.h"
#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

enum class Output { table, markdown, csv, json, jsonl };

Output parse_output(const std::string& text) {
  if (text == "table") return Output::table;
  if (text == "md") return Output::markdown;
  if (text == "csv") return Output::csv;
  if (text == "json") return Output::json;
  if (text == "jsonl") return Output::jsonl;
  fail(ErrorKind::usage, "-o: '{}' is not known; expected table, md, csv, json or jsonl", text);
}

CsvSchema parse_schema(const std::string& text, Output output) {
  if (text.empty()) return CsvSchema::own;
  if (output != Output::csv) fail(ErrorKind::usage, "--schema chooses the columns of -o csv; give both");
  if (text == "predecessor") return CsvSchema::predecessor;
  if (text == "predecessor-full") return CsvSchema::predecessor_full;
  fail(ErrorKind::usage, "--schema: '{}' is not known; expected predecessor or predecessor-full", text);
}

// "20260131T123456Z": a name that sorts by time.
std::string compact_utc(std::string utc) {
  std::erase_if(utc, [](char c) { return c == '-' || c == ':'; });
  return utc;
}

// In small parts, so that a request to stop is heard.
void pause(double seconds) {
  const int64_t end_ns = os::steady_now_ns() + static_cast<int64_t>(seconds * 1e9);
  while (os::steady_now_ns() < end_ns) {
    if (os::stop_requested()) fail(ErrorKind::interrupted, "interrupted while measuring the idle device");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

// One sweep: what it has measured so far, and where it goes.
class Sweep {
 public:
  Sweep(const RunFlags& flags, RunPlan plan)
      : plan_(std::move(plan)),
        engine_(flags.engine),
        resume_(flags.resume),
        zero_ns_(os::steady_now_ns()),
        records_(plan_.rows) {
    facts_ = {os::utc_now(), read_environment(), build_info(), plan_.options, {}};
    folder_ = !flags.out.empty() ? os::expand_home(flags.out) : own_folder();
    if (!flags.database.empty() && !flags.dry_run) {
      database_ = std::make_unique<Database>(os::expand_home(flags.database), Database::Access::append);
    }
    for (const std::string& name : plan_.devices) {
      places_.push_back(std::make_unique<Place>());
      Place& place = *places_.back();
      place.id = name;
      place.hooks.start = [&place, flags](const Cell*) { return start_worker(flags, place.id); };
      place.hooks.finished = [this](const Cell& cell, const CellData& data) { finished(cell, data); };
      place.hooks.now = [this] { return os::steady_now_ns() - zero_ns_; };
      place.hooks.available_memory = []() -> std::optional<int64_t> {
        const size_t bytes = host_device("", "", 1).available_bytes;
        if (bytes == 0) return std::nullopt;
        return static_cast<int64_t>(bytes);
      };
      if (flags.quality_given) {
        place.quality = std::make_unique<QualitySweep>(flags.quality_reference == "fp32");
        place.hooks.quality = [this, &place](std::span<const Cell> of) {
          return place.quality->measure(of, *plan_.models[group_->model].quality, place.hooks.start, progress_);
        };
      }
      place.hooks.engines = &place.engines;
      place.hooks.progress = &progress_;
      place.probe = std::make_unique<BandwidthProbe>(place.hooks);
    }
  }

  // Instead of measuring: what it would take. Throws what would fail.
  void print_forecast(Output output, bool probe) {
    choose_devices();
    std::vector<ForecastRow> rows;
    std::optional<ReadSpeed> speed;
    MeasureOptions options = plan_.options;
    const Place* last = nullptr;
    for (const PlannedGroup& group : plan_.groups) {
      Place& place = *places_[group.device];
      double idle_s = 0;  // that energy takes once a device, before its first cell
      if (&place != last && !group.cells.empty()) {
        last = &place;
        speed = probe ? read_speed(place) : std::nullopt;
        watch(place);
        options.energy = place.meter && place.meter->look().empty();
        if (options.energy) idle_s = kSettleSeconds + kEnergySeconds;
        if (place.meter && !options.energy) {
          progress_.line(fmt::format("energy will not be measured: {}", place.meter->missing()));
        }
      }
      const auto of_group = forecast_group(group, options, place.hooks, speed, idle_s);
      rows.insert(rows.end(), of_group.begin(), of_group.end());
    }
    progress_.clear();
    switch (output) {
      case Output::table:
      case Output::markdown: os::write_output(forecast_text(rows, output == Output::markdown)); break;
      case Output::csv: os::write_output(forecast_csv(rows)); break;
      case Output::json: os::write_output(to_text(forecast_json(rows))); break;
      case Output::jsonl:
        for (const ForecastRow& row : rows) {
          os::write_output(forecast_json(row).dump(-1, ' ', false, Record::error_handler_t::replace) + "\n");
        }
    }
    const auto is_bad = [](const ForecastRow& row) { return row.error.has_value(); };
    const auto first = std::find_if(rows.begin(), rows.end(), is_bad);
    if (first == rows.end()) return;
    fail(first->error->kind(), "{} of {} cells would fail, the first: {}: {}",
         std::count_if(rows.begin(), rows.end(), is_bad), rows.size(), one_line(first->cell.label()),
         first->error->what());
  }

  void measure_all() {
    try {
      choose_devices();
      open_folder();
      for (size_t g = 0; g < plan_.groups.size(); ++g) {
        const PlannedGroup& group = plan_.groups[g];
        Place& place = *places_[group.device];
        group_ = &group;
        in_blocks_.clear();
        facts_.device = place.info;
        for (auto before = places_.begin(); before->get() != &place; ++before) {
          before->get()->probe.reset();  // its process and its buffer
        }
        if (place.info) watch(place);
        for (const RefusedCell& refused : group.refused) {
          CellData data;
          data.outcome = {Status::failed, refused.error.what(), refused.error.kind()};
          data.stop_reason = std::string(name_of(Status::failed));
          progress_.line(fmt::format("{}: {}: {}", refused.cell.label(), data.stop_reason, refused.error.what()));
          finished(refused.cell, data);
        }
        in_blocks_ = unfinished(group);
        if (!in_blocks_.empty()) {
          std::string precisions;
          for (const Cell& cell : in_blocks_) {
            if (cell.half == "B" && in_blocks_.size() == group.cells.size()) continue;
            const bool is_alone = cell.half.empty() || in_blocks_.size() != group.cells.size();
            precisions += is_alone ? fmt::format(" {}", with_half(std::string(name_of(cell.precision)), cell.half))
                                   : fmt::format(" {} twice", name_of(cell.precision));
          }
          const Cell& first = in_blocks_.front();
          progress_.line(
              fmt::format("measuring {}, {}:{}{}{}", first.model.shown(), first.test.name(), precisions,
                          plan_.devices.size() > 1 ? " on " + place.id : "",
                          plan_.groups.size() > 1 ? fmt::format(" ({} of {})", g + 1, plan_.groups.size()) : ""));
          measure(in_blocks_, plan_.options, place.hooks, *place.probe);
        }
        write_group();
      }
    } catch (const Error& error) {
      write_group();
      if (error.kind() != ErrorKind::interrupted) throw;
      interrupted_ = true;
    }
    progress_.clear();
  }

  void print(Output output, CsvSchema schema) const {
    const std::vector<RecordView> views = all_views();
    switch (output) {
      case Output::table:
      case Output::markdown: os::write_output(page(views, output == Output::markdown)); break;
      case Output::csv: os::write_output(csv(views, schema)); break;
      case Output::json: {
        Record all = Record::array();
        for (const auto& record : records_) {
          if (record) all.push_back(*record);
        }
        os::write_output(to_text(all));
        break;
      }
      case Output::jsonl:
        for (const auto& record : records_) {
          if (record) os::write_output(record->dump(-1, ' ', false, Record::error_handler_t::replace) + "\n");
        }
    }
  }

  bool interrupted() const { return interrupted_; }

  // Throws what the exit code and the last line are made of, if anything was not as it should be.
  void conclude(Output output) {
    if (output != Output::table && output != Output::markdown && sweep_folder_ && sweep_folder_->count() > 0) {
      progress_.line(records_line());
    }
    if (interrupted_) fail(ErrorKind::interrupted, "interrupted; {}", records_line());
    if (write_failure_) throw Error(*write_failure_);
    const RecordView* first = nullptr;
    size_t bad = 0;
    const std::vector<RecordView> views = all_views();
    for (const RecordView& v : views) {
      if (v.status == "ok" && v.stamp.kind != StampKind::invalid) continue;
      ++bad;
      if (!first) first = &v;
    }
    if (!first && quality_failure_) throw Error(*quality_failure_);
    if (!first) return;
    fail(first->status == "ok" ? ErrorKind::internal : first_failure_, "{} of {} cells failed, the first: {} {} {}: {}",
         bad, views.size(), one_line(first->shown_model()), first->precision, first->test,
         first->status == "ok" ? "INVALID: " + first->stamp.reasons.front() : first->error);
  }

 private:
  // A device of the plan: what it stands for, and what its cells share.
  struct Place {
    std::string id;  // as the flag has it, then what it stood for
    std::optional<DeviceInfo> info;
    MeasureHooks hooks;
    ChosenEngines engines;
    std::unique_ptr<BandwidthProbe> probe;  // null once its cells are done
    std::string telemetry_missing;          // why no card is watched; empty: one is
    std::unique_ptr<Monitor> monitor;       // of the card, in this process, which opens no context there
    std::unique_ptr<EnergyMeter> meter;     // with --energy
    std::unique_ptr<QualitySweep> quality;  // with --quality
  };

  // Found out once, by a worker: so that all cells run on the same device whatever becomes free or taken meanwhile, and
  // this process, which starts the others, takes no GPU itself.
  void choose_devices() {
    const bool any = std::any_of(plan_.groups.begin(), plan_.groups.end(),
                                 [](const PlannedGroup& group) { return !group.cells.empty(); });
    if (!any) return;
    for (const PlannedModel& model : plan_.models) {
      if (!model.picture_warning.empty()) progress_.line(model.picture_warning);
    }
    for (const auto& place : places_) {
      const DeviceReport chosen = place->probe->device();
      check_engine_acts(engine_, chosen.device, chosen.passed_over);
      if (!chosen.passed_over.empty()) {
        progress_.line(fmt::format("measuring on the CPU, not the GPU: {}", chosen.passed_over));
      }
      if (chosen.device.gpu) {
        progress_.line(fmt::format("measuring on {}: {}, {}{}", chosen.device.id, chosen.device.name,
                                   chosen.device.gpu->uuid,
                                   chosen.device.gpu->is_mig_slice ? ", a MIG slice: a part of the card" : ""));
      }
      for (const auto& other : places_) {
        if (!other->info || other->info->id != chosen.device.id) continue;
        fail(ErrorKind::usage, "--device: two of {} are the same device, {}; name it once",
             fmt::join(plan_.devices, ","), chosen.device.id);
      }
      place->id = chosen.device.id;
      place->info = chosen.device;
    }
    for (PlannedGroup& group : plan_.groups) {
      const std::string& id = places_[group.device]->id;
      for (Cell& cell : group.cells) cell.engine.device = id;
      for (RefusedCell& refused : group.refused) refused.cell.engine.device = id;
    }
  }

  // From the first of its cells on.
  void watch(Place& place) {
    if (!place.monitor) {
      OpenedTelemetry opened = open_telemetry(*place.info);
      if (place.info->gpu && !opened.telemetry) {
        progress_.line(fmt::format("clocks, throttling and other processes are not watched: {}", opened.missing));
      }
      place.telemetry_missing = opened.missing;
      place.monitor = std::make_unique<Monitor>(std::move(opened), place.hooks.now);
      place.hooks.monitor = place.monitor.get();
      if (plan_.options.energy) {
        place.meter = std::make_unique<EnergyMeter>(
            *place.monitor, place.info->gpu ? std::nullopt : std::optional(Rapl()), place.hooks.now, pause);
        place.hooks.meter = place.meter.get();
      }
    }
    facts_.telemetry_missing = place.telemetry_missing;
  }

  // The first visit to the probe makes its buffer and chooses its kernel; the second is as all that follow.
  std::optional<ReadSpeed> read_speed(Place& place) {
    if (!place.probe->sample()) return std::nullopt;
    const int64_t start_ns = os::steady_now_ns();
    const auto sample = place.probe->sample();
    if (!sample) return std::nullopt;
    return ReadSpeed{sample->bytes_per_second, static_cast<double>(os::steady_now_ns() - start_ns) * 1e-9};
  }

  // Of this sweep alone, also where another began in the same second.
  std::string own_folder() const {
    const std::string name = fmt::format("quantbench-results/{}-{}", compact_utc(facts_.started_utc),
                                         file_name_part(plan_.models.front().source.name));
    std::string folder = name;
    for (int copy = 2; os::exists(folder); ++copy) folder = fmt::format("{}-{}", name, copy);
    return folder;
  }

  // Before anything is measured.
  void open_folder() {
    std::vector<DeviceInfo> devices;
    for (const auto& place : places_) devices.push_back(place->info.value_or(DeviceInfo{}));
    const Record plan = plan_document(plan_, devices, facts_.build, facts_.environment);
    sweep_folder_.emplace(folder_, plan, resume_, [this](const std::string& text) { progress_.line(text); });
    if (!resume_) return;
    size_t ok = 0, failed = 0;
    for (size_t row = 0; row < plan_.rows; ++row) {
      const Record* found = sweep_folder_->found(row);
      if (!found) continue;
      records_[row] = *found;
      ++(is_finished(*found) ? ok : failed);
    }
    if (ok + failed == 0) return;
    if (database_) {  // what was killed between the folder and the database
      std::vector<Record> there;
      for (const auto& record : records_) {
        if (record) there.push_back(*record);
      }
      database_->add(there, sweep_name());
    }
    progress_.line(fmt::format(
        "--resume: of {} cells {} {} finished and not measured again{}", plan_.rows, ok, ok == 1 ? "is" : "are",
        failed > 0 ? fmt::format("; {} that failed or {} interrupted begin anew", failed, failed == 1 ? "was" : "were")
                   : ""));
  }

  static bool is_finished(const Record& record) { return record.at("outcome").at("status") == "ok"; }

  // The cells of a group that are to be measured: together, in blocks of their own.
  std::vector<Cell> unfinished(const PlannedGroup& group) const {
    std::vector<Cell> cells;
    for (const Cell& cell : group.cells) {
      const auto& record = records_[row_of(group, cell)];
      if (!record || !is_finished(*record)) cells.push_back(cell);
    }
    return cells;
  }

  static size_t row_of(const PlannedGroup& group, const Cell& cell) {
    size_t row = group.first_row;
    for (const RefusedCell& refused : group.refused) {
      if (refused.cell.precision == cell.precision) return row;
      ++row;
    }
    for (const Cell& planned : group.cells) {
      if (planned.precision == cell.precision && planned.half == cell.half) return row;
      ++row;
    }
    return row;
  }

  static std::unique_ptr<Worker> start_worker(const RunFlags& flags, const std::string& device) {
    const WorkerCommand command{os::executable_path(),
                                {"worker", "--device", device, "--threads", flags.threads},
                                parse_number("--cell-timeout", flags.cell_timeout, 0.01, 1e7)};
    return std::make_unique<WorkerProcess>(command);
  }

  void finished(const Cell& cell, const CellData& data) {
    const PlannedModel& model = plan_.models[group_->model];
    CellFacts facts{model.identity, group_->prompt_text, {}};
    if (model.tokenizer) {
      facts.decode = [&](const std::vector<int32_t>& ids) { return model.tokenizer->decode(ids, true); };
    }
    if (data.outcome.status == Status::failed && first_failure_ == ErrorKind::internal)
      first_failure_ = data.outcome.kind;
    if (data.quality && !data.quality->error.empty() && !quality_failure_) {
      quality_failure_ = Error(data.quality->kind,
                               fmt::format("quality of {} was not measured: {}", cell.label(), data.quality->error));
    }
    const size_t row = row_of(*group_, cell);
    Record record = make_record(cell, data, facts_, facts);
    std::vector<std::string> with;
    for (const Cell& other : in_blocks_) {
      with.push_back(with_half(std::string(name_of(other.precision)), other.half));
    }
    record["sweep"] = {{"plan_sha256", sweep_folder_->plan_sha256()},
                       {"row", row},
                       {"rows", plan_.rows},
                       {"resumed", resume_},
                       {"blocks_of", with}};
    seal(&record);
    if (database_ && records_[row]) replaced_.push_back(sha256_of(*records_[row]));
    records_[row] = record;
    to_write_.emplace_back(row, std::move(record));
    if (data.outcome.status != Status::ok) return;
    const RecordView v = view_of(*records_[row]);
    const Summary* rate = v.find(headline_metric(v));
    to_say_.emplace_back(row, fmt::format("{}: {} t/s, {} run{} ({}), {}", cell.label(),
                                          rate ? fmt::format("{:.4g}", rate->median) : "no", data.runs.size(),
                                          data.runs.size() == 1 ? "" : "s", data.stop_reason, name_of(v.stamp.kind)));
  }

  // What finished() was told since the last time. A result is said once its record is on disk: what was said is never
  // lost.
  void write_group() {
    if (to_write_.empty()) return;
    const auto failures = sweep_folder_->write(to_write_);
    for (const auto& [row, text] : to_say_) {
      const bool lost =
          std::any_of(failures.begin(), failures.end(), [row = row](const auto& f) { return f.first == row; });
      if (!lost) progress_.line(text);
    }
    to_say_.clear();
    for (const auto& [row, error] : failures) {
      const RecordView v = view_of(*records_[row]);
      progress_.line(
          fmt::format("{} {} {}: its record is lost: {}", v.shown_model(), v.precision, v.test, error.what()));
      if (!write_failure_) write_failure_ = error;
    }
    append_to_database();
    to_write_.clear();
  }

  void append_to_database() {
    if (!database_) return;
    std::vector<Record> records;
    for (const SweepFolder::RowRecord& record : to_write_) records.push_back(record.second);
    try {
      database_->add(records, sweep_name(), replaced_);
    } catch (const Error& error) {  // the folder has them
      progress_.line(fmt::format("--db: {} record{} could not be added: {}", records.size(),
                                 records.size() == 1 ? "" : "s", error.what()));
      if (!write_failure_) write_failure_ = error;
    }
    replaced_.clear();
  }

  // The last part of the folder's name.
  std::string sweep_name() const {
    const size_t end = folder_.find_last_not_of('/') + 1, begin = folder_.rfind('/', end - 1) + 1;
    return folder_.substr(begin, end - begin);
  }

  std::vector<RecordView> all_views() const {
    std::vector<RecordView> views;
    for (const auto& record : records_) {
      if (record) views.push_back(view_of(*record));
    }
    return views;
  }

  std::string records_line() const {
    const size_t count = sweep_folder_ ? sweep_folder_->count() : 0;
    return fmt::format("{} record{} in {}", count, count == 1 ? "" : "s", folder_);
  }

  std::string page(const std::vector<RecordView>& views, bool markdown) const {
    return whole_text(views, markdown, plan_.options.explain) + records_line() + "\n";
  }

  RunPlan plan_;
  std::string engine_;
  bool resume_;
  SweepFacts facts_;
  std::string folder_;
  TerminalProgress progress_;
  int64_t zero_ns_;
  std::vector<std::unique_ptr<Place>> places_;
  std::optional<SweepFolder> sweep_folder_;
  const PlannedGroup* group_ = nullptr;
  std::vector<Cell> in_blocks_;                 // of the group: those that are measured now
  std::vector<std::optional<Record>> records_;  // by row of the plan
  std::vector<SweepFolder::RowRecord> to_write_;
  std::unique_ptr<Database> database_;                  // with --db
  std::vector<std::string> replaced_;                   // hashes of records in it that to_write_ takes the place of
  std::vector<std::pair<size_t, std::string>> to_say_;  // by row
  std::optional<Error> write_failure_, quality_failure_;
  ErrorKind first_failure_ = ErrorKind::internal;
  bool interrupted_ = false;
};

}  // namespace

int run_sweep(const RunFlags& flags, const std::string& output_name, const std::string& schema_name) {
  const Output output = parse_output(output_name);
  const CsvSchema schema = parse_schema(schema_name, output);
  parse_number("--cell-timeout", flags.cell_timeout, 0.01, 1e7);
  if (flags.no_probe && !flags.dry_run) {
    fail(ErrorKind::usage, "--no-probe leaves the read rate out of a --dry-run; a measurement needs it: leave it out");
  }
  if (flags.dry_run && (flags.resume || schema != CsvSchema::own)) {
    fail(ErrorKind::usage, "--dry-run measures nothing and looks into no folder; leave {} out",
         flags.resume ? "--resume" : "--schema");
  }
  if (flags.resume && flags.out.empty()) {
    fail(ErrorKind::usage,
         "--resume goes on with the sweep in a folder; give --out DIR, as the command that began it did");
  }
  os::catch_stop_signals();
  Sweep sweep(flags, plan_run(flags));
  if (flags.dry_run) {
    sweep.print_forecast(output, !flags.no_probe);
    return 0;
  }
  sweep.measure_all();
  try {
    sweep.print(output, schema);
  } catch (const Error&) {
    if (!sweep.interrupted()) throw;  // else the terminal may be what went away
  }
  sweep.conclude(output);
  return 0;
}

}  // namespace quantbench
