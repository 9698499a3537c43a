#include "import/imported_row.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "bench/statistics.h"
#include "core/error.h"

namespace quantbench {
namespace {

Record devices_part(const ImportedRow& row, const std::string& name) {
  Record devices = Record::array();
  if (name.empty()) return devices;
  for (int i = 0; i < row.devices; ++i) {
    devices.push_back({{"index", i},
                       {"id", row.on_cpu ? Record("cpu") : Record(nullptr)},
                       {"backend", nullptr},
                       {"name", name},
                       {"features", nullptr},
                       {"threads", nullptr},
                       {"memory_bytes", nullptr},
                       {"available_bytes", nullptr},
                       {"gpu", nullptr}});
  }
  return devices;
}

// Every field that our own records have, so that a reader finds null and not nothing.
Record all_null(std::initializer_list<const char*> names) {
  Record part = Record::object();
  for (const char* name : names) part[name] = nullptr;
  return part;
}

Record environment_part(const ImportedRow& row) {
  Record part = all_null({"cpu", "cpu_features", "logical_cpus", "physical_cores", "last_level_cache_bytes",
                          "virtual_machine", "memory_bytes", "available_bytes", "kernel", "operating_system",
                          "huge_pages", "governor", "load_average"});
  part["cpu"] = text_or_null(row.cpu);
  return part;
}

Record cell_part(const ImportedRow& row, const std::string& model) {
  return {{"model",
           {{"name", model},
            {"commit", nullptr},
            {"weights", nullptr},
            {"weight_form", nullptr},
            {"config_sha256", nullptr},
            {"files", Record::array()}}},
          {"precision", row.precision},
          {"precision_long", row.precision_long},
          {"skipped_modules", Record::array()},
          {"test", row.test.empty() ? test_name(row) : row.test},
          {"kind", row.kind},
          {"prompt_tokens", or_null(row.prompt_tokens)},
          {"new_tokens", or_null(row.new_tokens)},
          {"depth", or_null(row.depth)},
          {"batch", or_null(row.batch)},
          {"picture", nullptr},
          {"stop_at_eos", nullptr},
          {"aa_half", nullptr},
          {"engine", row.engine},
          {"tuning", text_or_null(row.tuning)},
          {"engine_choice", nullptr},
          {"placement", Record::array()}};
}

Record summary_of(const std::vector<double>& samples, Unit unit) {
  const auto interval = median_interval(samples);
  return {{"unit", name_of(unit)},
          {"better", unit == Unit::per_second ? "higher" : "lower"},
          {"runs", samples.size()},
          {"median", median(samples)},
          {"low", interval ? Record(interval->low) : Record(nullptr)},
          {"high", interval ? Record(interval->high) : Record(nullptr)},
          {"coverage", interval ? interval->coverage : 0.0},
          {"mad", median_absolute_deviation(samples)},
          {"min", *std::min_element(samples.begin(), samples.end())},
          {"max", *std::max_element(samples.begin(), samples.end())},
          {"samples", samples}};
}

Record metrics_part(const ImportedRow& row) {
  Record part = Record::object();
  for (const MetricInfo& m : metric_infos()) {
    const std::string name(m.name);
    part[name] = nullptr;
    if (const auto found = row.samples.find(name); found != row.samples.end() && !found->second.empty()) {
      part[name] = summary_of(found->second, m.unit);
    } else if (const auto figure = row.figures.find(name); figure != row.figures.end()) {
      part[name] = {{"unit", name_of(m.unit)},
                    {"better", m.unit == Unit::per_second ? "higher" : "lower"},
                    {"runs", 0},
                    {"median", figure->second.value}};
    }
  }
  return part;
}

Record runs_part(const ImportedRow& row) {
  Record runs = Record::array();
  const std::vector<Outlier> outliers = classify_outliers(row.run_ns);
  for (size_t i = 0; i < row.run_ns.size(); ++i) {
    const Outlier outlier = outliers[i];
    runs.push_back({{"at_ns", nullptr},
                    {"block", nullptr},
                    {"place", nullptr},
                    {"total_ns", static_cast<int64_t>(std::llround(row.run_ns[i]))},
                    {"prompt_tokens", or_null(row.prompt_tokens)},
                    {"new_tokens", or_null(row.new_tokens)},
                    {"output_sha256", nullptr},
                    {"finite", nullptr},
                    {"outlier", outlier == Outlier::none   ? "none"
                                : outlier == Outlier::mild ? "mild"
                                                           : "severe"},
                    {"read_before_bytes_per_second", nullptr},
                    {"read_after_bytes_per_second", nullptr},
                    {"other_cpu_share", nullptr},
                    {"spans", Record::array()}});
  }
  return runs;
}

Record imported_part(const ImportedRow& row, const ImportedFile& file, const ImportOptions& options) {
  Record figures = Record::object();
  for (const auto& [name, figure] : row.figures) {
    figures[name] = {{"value", figure.value}, {"stddev", or_null(figure.stddev)}};
  }
  return {{"tool", row.tool},
          {"format", row.format},
          {"from", file.path},
          {"file_sha256", file.sha256},
          {"line", row.line},
          {"set", text_or_null(row.set)},
          {"imported_utc", text_or_null(options.imported_utc)},
          {"renamed", !options.model.empty() || !options.device.empty()},
          {"derived", row.derived_from},
          {"figures", figures},
          {"as_read", row.as_read}};
}

std::string file_stem(const std::string& path) {
  const std::string name = path.substr(path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1);
  return name.substr(0, name.rfind('.') == std::string::npos ? name.size() : name.rfind('.'));
}

}  // namespace

std::string test_name(const ImportedRow& row) {
  std::string name;
  if (row.kind == "prefill")
    name = fmt::format("pp{}", row.prompt_tokens.value_or(0));
  else if (row.kind == "decode")
    name = fmt::format("tg{}", row.new_tokens.value_or(0));
  else if (!row.new_tokens)
    name = "generation";
  else if (row.prompt_tokens)
    name = fmt::format("p{}+n{}", *row.prompt_tokens, *row.new_tokens);
  else
    name = fmt::format("prompt+n{}", *row.new_tokens);
  if (row.depth.value_or(0) > 0) name += fmt::format(" @ d{}", *row.depth);
  if (row.batch.value_or(1) > 1) name += fmt::format(" b{}", *row.batch);
  return name;
}

Record record_of(const ImportedRow& row, const ImportedFile& file, const ImportOptions& options) {
  const bool failed = !row.error.empty();
  std::vector<std::string> reasons{fmt::format("imported from {}, not measured here", row.tool)};
  if (!failed && row.run_ns.empty()) reasons.emplace_back("figures without the samples that they are of");
  const std::string model = !options.model.empty() ? options.model
                            : row.model.empty()    ? file_stem(file.path)
                                                   : row.model;
  return {{"schema", "quantbench.record"},
          {"schema_version", kRecordVersion},
          {"started_utc", text_or_null(row.started_utc)},
          {"build", all_null({"version", "git_commit", "compiler", "build_type", "sanitizers", "optimized"})},
          {"environment", environment_part(row)},
          {"devices", devices_part(row, options.device.empty() ? row.device : options.device)},
          {"cell", cell_part(row, model)},
          {"outcome",
           {{"status", failed ? "failed" : "ok"},
            {"stamp", name_of(failed ? StampKind::invalid : StampKind::flagged)},
            {"reasons", reasons},
            {"flags", reasons},
            {"stop_reason", "imported"},
            {"error", text_or_null(row.error)},
            {"error_kind", nullptr}}},
          {"protocol", all_null({"seed", "runs", "min_runs", "max_runs", "target_ci", "max_time_s", "interval", "order",
                                 "resident_together", "warmup_settled"})},
          {"prompt", {{"text", nullptr}, {"ids", Record::array()}, {"context_sha256", nullptr}}},
          {"response", {{"text", nullptr}, {"ids", Record::array()}, {"sha256", nullptr}}},
          {"load", nullptr},
          {"memory", Record::array()},
          {"cost", nullptr},
          {"energy", nullptr},
          {"quality", nullptr},
          {"metrics", metrics_part(row)},
          {"cold", nullptr},
          {"warmup", Record::array()},
          {"runs", runs_part(row)},
          {"repeated_runs", Record::array()},
          {"imported", imported_part(row, file, options)}};
}

void Where::refuse(const std::string& expected, const std::string& found) const {
  constexpr size_t kShown = 80;
  fail(ErrorKind::usage, "{}, line {}: expected {}, found {}", path, line, expected,
       found.size() > kShown ? found.substr(0, kShown) + "…" : found);
}

double Where::number(const std::string& field, const std::string& text) const {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() ||
      !(value >= 0 && value <= kLargestNumber))
    refuse(fmt::format("a number from 0 to {:g} as {}", kLargestNumber, field), fmt::format("'{}'", text));
  return value;
}

double Where::time_ns(const std::string& field, const Record& value, double unit_ns) const {
  const double ns = value.is_number() ? value.get<double>() * unit_ns : 0;
  if (!(ns >= 1 && ns <= kLargestNumber))
    refuse(fmt::format("times of a nanosecond to 30 years as {}", field), value.dump());
  return ns;
}

std::string trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t\r\n") + 1 - first));
}

std::vector<std::string> lines_of(std::string_view content) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < content.size();) {
    const size_t end = std::min(content.find('\n', at), content.size());
    std::string_view line = content.substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.emplace_back(line);
    at = end + 1;
  }
  return lines;
}

std::vector<std::string> csv_fields(const std::string& line, const Where& where) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted && c == '"' && i + 1 < line.size() && line[i + 1] == '"') {
      fields.back() += '"';
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  if (quoted) where.refuse("a closing quote", "the end of the line");
  return fields;
}

std::vector<std::string> split_at(const std::string& line, char separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= line.size();) {
    const size_t end = std::min(line.find(separator, at), line.size());
    parts.push_back(trimmed(std::string_view(line).substr(at, end - at)));
    at = end + 1;
  }
  return parts;
}

}  // namespace quantbench
