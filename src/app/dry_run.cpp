#include "app/dry_run.h"

#include <algorithm>

#include "report/format.h"

namespace quantbench {
namespace {

constexpr const char* kBasis =
    "Predicted, not measured. Memory: what the plan of each cell's step asks for, and 16 MiB for its process. The "
    "bandwidth probe has a process of its own beside it, with 1 GiB on a CPU and 2.4 on a GPU, or four last-level "
    "caches if that is more (--no-probe: none), and so has --quality's reference. Time: the bytes that a generation "
    "must read, at the read rate of the device that was measured just now, times the "
    "generations of the protocol (least: warm-up settles and intervals are narrow at once; most: never), with a visit "
    "to the bandwidth probe for each timed run, and what --energy and --explain add. Loading, filling a context, "
    "computing a long prompt and --quality are not in it, and no cell reaches the read rate quite, so it will take "
    "somewhat longer.";

std::string fit_of(const ForecastRow& row) {
  if (row.error) return row.error->kind() == ErrorKind::out_of_memory ? "does not fit" : "would fail";
  return row.resident_together ? "together" : "a process a visit";
}

std::string seconds_of(const ForecastRow& row) {
  if (!row.range || !row.generation_s) return "n/a";
  return fmt::format("{} to {}", rough_time(row.range->low.seconds), rough_time(row.range->high.seconds));
}

std::vector<Use> used_by(const std::vector<ForecastRow>& rows) {
  std::vector<Use> uses;
  for (int i = 0; i < kUses; ++i) {
    const auto use = static_cast<Use>(i);
    const bool any = std::any_of(rows.begin(), rows.end(),
                                 [&](const ForecastRow& row) { return row.plan && row.plan->predicted[use] > 0; });
    if (any) uses.push_back(use);
  }
  return uses;
}

Record nanoseconds(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

// RFC 4180.
std::string csv_field(const Record& value) {
  if (value.is_null()) return "";
  std::string text =
      value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, Record::error_handler_t::replace);
  if (text.find_first_of(",\"\r\n") == text.npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

std::vector<ForecastRow> forecast_group(const PlannedGroup& group, const MeasureOptions& options,
                                        const MeasureHooks& hooks, const std::optional<ReadSpeed>& speed,
                                        double before_s) {
  std::vector<ForecastRow> rows;
  for (const RefusedCell& refused : group.refused) rows.push_back({.cell = refused.cell, .error = refused.error});
  std::vector<std::unique_ptr<Worker>> workers;  // at once, as when they are measured: on a GPU each has a context
  std::optional<int64_t> available;
  int64_t wanted = kSpareBytes;
  for (const Cell& cell : group.cells) {
    ForecastRow row{.cell = cell};
    try {
      hooks.progress->status(cell.label() + ": planning");
      auto worker = hooks.start(&cell);
      row.plan = worker->plan(cell);
      row.available_bytes =
          row.plan->device.gpu ? static_cast<int64_t>(row.plan->device.available_bytes) : hooks.available_memory();
      check_fits(*row.plan, row.available_bytes);
      workers.push_back(std::move(worker));
      wanted += predicted_bytes(*row.plan);
      available = row.available_bytes;
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
      row.error = error;
    }
    rows.push_back(std::move(row));
  }
  const bool together = !available || wanted <= *available;
  for (ForecastRow& row : rows) {
    row.resident_together = together;
    if (row.error || !row.plan) continue;
    if (speed) row.generation_s = generation_bytes(row.cell, *row.plan) / speed->bytes_per_second;
    row.range = forecast(options, row.generation_s.value_or(0), speed ? speed->visit_s : 0, together);
    if (!row.generation_s) continue;
    const double more_s = seconds_after_runs(options, row.cell.test, *row.generation_s, together) + before_s;
    before_s = 0;
    row.range->low.seconds += more_s;
    row.range->high.seconds += more_s;
  }
  return rows;
}

std::string forecast_text(const std::vector<ForecastRow>& rows, bool markdown) {
  using enum Grid::Align;
  const std::vector<Use> uses = used_by(rows);
  std::vector<std::string> headings{"model", "precision", "test", "device"};
  std::vector<Grid::Align> align{left, left, left, left};
  for (const Use use : uses) {
    headings.emplace_back(name_of(use));
    align.push_back(right);
  }
  for (const char* heading : {"in all", "available"}) {
    headings.emplace_back(heading);
    align.push_back(right);
  }
  headings.insert(headings.end(), {"fits", "time"});
  align.insert(align.end(), {left, left});
  Grid grid(headings, align);
  double low_s = 0, high_s = 0;
  bool timed = false;
  std::vector<std::string> failures;
  for (const ForecastRow& row : rows) {
    std::vector<std::string> line{one_line(row.cell.model.shown()), std::string(name_of(row.cell.precision)),
                                  row.cell.test.name(), row.cell.engine.device};
    const auto bytes = [](std::optional<double> value) { return value ? format_bytes(*value) : std::string("–"); };
    for (const Use use : uses) {
      line.push_back(row.plan ? bytes(static_cast<double>(row.plan->predicted[use])) : "–");
    }
    line.push_back(row.plan ? bytes(static_cast<double>(predicted_bytes(*row.plan))) : "–");
    line.push_back(row.available_bytes ? bytes(static_cast<double>(*row.available_bytes)) : "–");
    line.push_back(fit_of(row));
    line.push_back(row.error ? "–" : seconds_of(row));
    grid.add(std::move(line));
    if (row.error) {
      failures.push_back(
          fmt::format("{} on {}: {}", one_line(row.cell.label()), row.cell.engine.device, one_line(row.error->what())));
    }
    if (!row.range || !row.generation_s) continue;
    timed = true;
    low_s += row.range->low.seconds;
    high_s += row.range->high.seconds;
  }
  std::string text = (markdown ? grid.markdown() : grid.text()) + "\n";
  for (const std::string& failure : failures) text += fmt::format("{}{}\n", markdown ? "- " : "", failure);
  if (!failures.empty()) text += '\n';
  text += fmt::format("{} cells, {}\n", rows.size(),
                      timed ? fmt::format("{} to {}", rough_time(low_s), rough_time(high_s))
                            : "no time predicted: no read rate was measured");
  return text + kBasis + "\n";
}

Record forecast_json(const ForecastRow& row) {
  Record memory = nullptr;
  if (row.plan) {
    memory = Record::object();
    for (int i = 0; i < kUses; ++i) {
      const auto use = static_cast<Use>(i);
      memory[std::string(name_of(use))] = row.plan->predicted[use];
    }
    memory["process"] = kProcessBytes;
    memory["total"] = predicted_bytes(*row.plan);
  }
  Record generations = nullptr, time_ns = nullptr;
  if (row.range) {
    generations = {{"low", row.range->low.generations}, {"high", row.range->high.generations}};
    if (row.generation_s) {
      time_ns = {{"low", nanoseconds(row.range->low.seconds)}, {"high", nanoseconds(row.range->high.seconds)}};
    }
  }
  return {{"model", row.cell.model.name},
          {"random_weights", row.cell.model.random_weights},
          {"precision", name_of(row.cell.precision)},
          {"test", row.cell.test.name()},
          {"device", row.cell.engine.device},
          {"fits", fit_of(row)},
          {"error", row.error ? Record(row.error->what()) : Record(nullptr)},
          {"error_kind", row.error ? Record(name_of(row.error->kind())) : Record(nullptr)},
          {"memory_bytes", memory},
          {"available_bytes", row.available_bytes ? Record(*row.available_bytes) : Record(nullptr)},
          {"resident_together", row.resident_together},
          {"generation_bytes",
           row.plan ? Record(static_cast<int64_t>(generation_bytes(row.cell, *row.plan))) : Record(nullptr)},
          {"generation_ns", row.generation_s ? nanoseconds(*row.generation_s) : Record(nullptr)},
          {"generations", generations},
          {"time_ns", time_ns}};
}

Record forecast_json(const std::vector<ForecastRow>& rows) {
  Record cells = Record::array();
  for (const ForecastRow& row : rows) cells.push_back(forecast_json(row));
  return {{"schema", "quantbench.dry_run"}, {"schema_version", 1}, {"basis", kBasis}, {"cells", cells}};
}

std::string forecast_csv(const std::vector<ForecastRow>& rows) {
  std::string text =
      "model,precision,test,device,fits,error,weights_bytes,scales_bytes,unquantized_bytes,kv_cache_bytes,"
      "activations_bytes,workspace_bytes,tables_bytes,process_bytes,total_bytes,available_bytes,generation_bytes,"
      "generation_ns,generations_low,generations_high,time_ns_low,time_ns_high\n";
  for (const ForecastRow& row : rows) {
    const Record j = forecast_json(row);
    std::vector<Record> fields;
    for (const char* key : {"model", "precision", "test", "device", "fits", "error"}) fields.push_back(j.at(key));
    for (const char* key :
         {"weights", "scales", "unquantized", "kv_cache", "activations", "workspace", "tables", "process", "total"}) {
      fields.push_back(j.at("memory_bytes").is_null() ? Record(nullptr) : j.at("memory_bytes").at(key));
    }
    for (const char* key : {"available_bytes", "generation_bytes", "generation_ns"}) fields.push_back(j.at(key));
    for (const char* key : {"generations", "time_ns"}) {
      for (const char* end : {"low", "high"}) {
        fields.push_back(j.at(key).is_null() ? Record(nullptr) : j.at(key).at(end));
      }
    }
    for (size_t i = 0; i < fields.size(); ++i) {
      if (i > 0) text += ',';
      text += csv_field(fields[i]);
    }
    text += '\n';
  }
  return text;
}

}  // namespace quantbench
