#include "report/page_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <iterator>

#include "bench/statistics.h"
#include "core/error.h"
#include "report/packed.h"

namespace quantbench {
namespace {

constexpr std::array kLedger{"process",     "weights",   "scales", "unquantized", "kv_cache",
                             "activations", "workspace", "tables", "other"};
// Positions of the run at which a page without samples has the latency of a step.
constexpr size_t kStepPoints = 32;
// Characters of a response in a page without samples; the whole stands in the file that it names.
constexpr size_t kResponseStart = 240;

std::string one_liner(const Record& j) { return j.dump(-1, ' ', false, Record::error_handler_t::replace); }

// Nothing where a record of an older version has no such member, or null there.
const Record* member(const Record& j, const char* key) {
  if (!j.is_object()) return nullptr;
  const auto found = j.find(key);
  return found == j.end() || found->is_null() ? nullptr : &*found;
}

// The objects of a list that may be missing.
const Record& list_of(const Record& j, const char* key) {
  static const Record none = Record::array();
  const Record* list = member(j, key);
  return list && list->is_array() ? *list : none;
}

// Imported records and those of older versions lack some.
double number_of(const Record& j, const char* key, double otherwise) {
  const Record* number = member(j, key);
  return number && number->is_number() ? number->get<double>() : otherwise;
}
std::string text_of(const Record& j, const char* key) {
  const Record* text = member(j, key);
  return text && text->is_string() ? text->get<std::string>() : std::string();
}

Record rounded(double value, bool exact) {
  Record number = value;
  if (exact || !std::isfinite(value)) {
    if (value == std::trunc(value) && std::fabs(value) < 9e15) number = static_cast<int64_t>(value);
    return number;
  }
  const std::string digits = fmt::format("{:.7g}", value);
  double seven = value;  // std::stod throws at numbers near 0
  std::from_chars(digits.data(), digits.data() + digits.size(), seven);
  if (seven == std::trunc(seven) && std::fabs(seven) < 9e15) return static_cast<int64_t>(seven);
  return seven;
}

Record rounded(const std::optional<double>& value, bool exact) { return value ? rounded(*value, exact) : Record(); }

// [which, runs, median, low, high, min, max, mad, samples]; of a figure without runs the first three.
Record metric_row(size_t which, const Summary& s, bool with_samples) {
  Record row{which, s.runs, rounded(s.median, with_samples)};
  if (s.runs == 0) return row;
  for (const auto& end : {s.low, s.high}) row.push_back(rounded(end, with_samples));
  for (const double x : {s.min, s.max}) row.push_back(rounded(x, with_samples));
  if (!with_samples) return row;
  row.push_back(rounded(s.mad, true));
  row.push_back(packed(s.samples));
  return row;
}

Record estimate_row(const std::optional<Estimate>& e) {
  if (!e) return nullptr;
  return {rounded(e->value, true), rounded(e->low, true), rounded(e->high, true)};
}

Record quality_of(const QualityView& q) {
  Record out{{"text", q.text_kind + (q.text_name.empty() ? "" : " " + q.text_name)}, {"tokens", q.tokens}};
  out["reference"] = q.reference;
  out["error"] = q.error;
  out["ppl"] = estimate_row(q.perplexity);
  out["ratio"] = estimate_row(q.perplexity_ratio);
  out["kl"] = estimate_row(q.kl_mean);
  out["top"] = estimate_row(q.same_top);
  out["kl99"] = rounded(q.kl_p99, true);
  return out;
}

Record ledger_row(const Record& memory, const char* key) {
  const Record* ledger = member(memory, key);
  if (!ledger) return nullptr;
  Record row = Record::array();
  for (const char* use : kLedger) row.push_back(ledger->value(use, int64_t{0}));
  return row;
}

// Of each device: who counted, peak, end, what each is made of.
Record memory_of(const Record& record) {
  Record out = Record::array();
  for (const Record& m : list_of(record, "memory")) {
    const bool loading = number_of(m, "load_peak_bytes", 0) > number_of(m, "run_peak_bytes", 0);
    out.push_back({text_of(m, "counted_by"), number_of(m, "peak_bytes", 0), number_of(m, "end_bytes", 0),
                   ledger_row(m, loading ? "load_peak_ledger" : "run_peak_ledger"), ledger_row(m, "end_ledger")});
  }
  return out;
}

// Each decode step of a run, by the device's clock where it tells them, else by the host's.
std::vector<double> steps_of(const Record& run) {
  std::vector<double> steps;
  for (const char* clock : {"device", "host"}) {
    for (const Record& span : list_of(run, "spans")) {
      if (span.at(0) == "decode" && span.at(1) == clock)
        steps.push_back(span.at(3).get<double>() - span.at(2).get<double>());
    }
    if (steps.size() > 1) return steps;
    steps.clear();  // one span of all steps is none of a step
  }
  return steps;
}

double quantile_of(std::vector<double>& values, double q) {
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

// Of kStepPoints stretches of the run: where each begins, and 10th, 50th and 90th percentile of its steps in all runs.
Record step_quantiles(const std::vector<std::vector<double>>& runs) {
  size_t longest = 0;
  for (const auto& run : runs) longest = std::max(longest, run.size());
  if (longest == 0) return nullptr;
  const size_t points = std::min(longest, kStepPoints);
  std::vector<double> begins, low, middle, high;
  for (size_t i = 0; i < points; ++i) {
    std::vector<double> values;
    const size_t begin = i * longest / points, end = (i + 1) * longest / points;
    for (const auto& run : runs) {
      for (size_t j = begin; j < std::min(end, run.size()); ++j) values.push_back(run[j]);
    }
    if (values.empty()) continue;
    begins.push_back(static_cast<double>(begin));
    low.push_back(std::round(quantile_of(values, 0.1)));
    middle.push_back(std::round(quantile_of(values, 0.5)));
    high.push_back(std::round(quantile_of(values, 0.9)));
  }
  return {packed(begins), packed(low), packed(middle), packed(high)};
}

Record steps_json(const Record& record, bool with_samples) {
  std::vector<std::vector<double>> runs;
  for (const Record& run : list_of(record, "runs")) runs.push_back(steps_of(run));
  if (!with_samples) return step_quantiles(runs);
  std::vector<double> counts, all;
  for (const auto& run : runs) {
    counts.push_back(static_cast<double>(run.size()));
    all.insert(all.end(), run.begin(), run.end());
  }
  if (all.empty()) return nullptr;
  return {packed(counts), packed(all)};
}

// Every run: how many of a kind one after another, and of each when it began, what it took and what it was called.
Record runs_json(const Record& record) {
  std::vector<Record> runs;
  Record counts = Record::array();
  if (const Record* cold = member(record, "cold")) runs.push_back(*cold);
  counts.push_back(runs.size());
  for (const char* kind : {"warmup", "runs", "repeated_runs"}) {
    const Record* of_kind = member(record, kind);
    counts.push_back(of_kind ? of_kind->size() : 0);
    if (of_kind) runs.insert(runs.end(), of_kind->begin(), of_kind->end());
  }
  std::vector<double> at, total, block;
  std::string outliers;
  for (const Record& run : runs) {
    at.push_back(number_of(run, "at_ns", 0));
    total.push_back(number_of(run, "total_ns", 0));
    block.push_back(number_of(run, "block", -1));
    const std::string outlier = text_of(run, "outlier");
    outliers += outlier.empty() || outlier == "none" ? '-' : outlier[0];  // m: mild, s: severe
  }
  return {counts, packed(at), packed(total), packed(block), outliers};
}

// Samples of the card in timed runs: since the sweep began, SM and memory clock, temperature, power, reasons.
Record telemetry_json(const Record& record, bool with_samples) {
  const Record* summary = member(record, "telemetry");
  if (!summary || !member(*summary, "source")) return nullptr;
  Record out;
  for (const char* key : {"sm_mhz", "memory_mhz", "temperature_celsius", "power_watts"}) {
    const Record* range = member(*summary, key);
    out[key] = range ? Record{number_of(*range, "min", 0), number_of(*range, "median", 0), number_of(*range, "max", 0)}
                     : Record();
  }
  if (!with_samples) return out;
  std::array<std::vector<double>, 6> columns;
  for (const Record& run : list_of(record, "runs")) {
    const Record* watched = member(run, "telemetry");
    if (!watched) continue;
    for (const Record& sample : list_of(*watched, "samples")) {
      for (size_t i = 0; i < columns.size() && i < sample.size(); ++i) {
        const double from = i == 0 ? number_of(run, "at_ns", 0) : 0;
        columns[i].push_back(sample[i].is_number() ? from + sample[i].get<double>() : std::nan(""));
      }
    }
  }
  Record packed_columns = Record::array();
  for (const auto& column : columns) packed_columns.push_back(packed(column));
  out["samples"] = packed_columns;
  return out;
}

std::string shown(const Record& j) { return j.is_string() ? j.get<std::string>() : one_liner(j); }

// Everything that an object says, as lines of a table: "gpu.driver", "550.54".
void flatten(const Record& j, const std::string& name, Record* lines) {
  if (j.is_object()) {
    for (const auto& [key, value] : j.items()) flatten(value, name.empty() ? key : name + "." + key, lines);
  } else if (!j.is_null() && name != "available_bytes" && name != "load_average") {  // of a moment, not of a machine
    lines->push_back({name, shown(j)});
  }
}

}  // namespace

std::string safe_in_script(const std::string& json) {
  std::string out;
  out.reserve(json.size());
  for (size_t i = 0; i < json.size(); ++i) {
    if (json[i] == '<') {
      out += "\\u003c";
    } else if (json.compare(i, 2, "\xE2\x80") == 0 && i + 2 < json.size() &&
               (json[i + 2] == '\xA8' || json[i + 2] == '\xA9')) {
      out += json[i + 2] == '\xA8' ? "\\u2028" : "\\u2029";
      i += 2;
    } else {
      out += json[i];
    }
  }
  return out;
}

size_t PageData::string_index(const std::string& text) {
  const auto [place, is_new] = string_places_.emplace(text, strings_.size());
  if (is_new) strings_.push_back(text);
  return place->second;
}

size_t PageData::machine_index(const Record& record) {
  Record lines = Record::array();
  for (const Record& device : list_of(record, "devices")) {
    Record of_device = device;
    of_device.erase("available_bytes");
    flatten(of_device, "device", &lines);
  }
  if (const Record* environment = member(record, "environment")) flatten(*environment, "", &lines);
  if (const Record* build = member(record, "build")) flatten(*build, "build", &lines);
  const std::string text = one_liner(lines);
  const auto [place, is_new] = machine_places_.emplace(text, machines_.size());
  if (is_new) machines_.push_back(text);
  return place->second;
}

Record PageData::cell(const Record& record, const std::string& path, bool with_samples) {
  const RecordView v = view_of(record);
  Record out;
  const auto say = [&](const char* key, const std::string& text) {
    if (!text.empty()) out[key] = string_index(text);
  };
  say("model", v.shown_model());
  say("precision", v.shown_precision());
  say("long", v.precision_long);
  say("test", v.test);
  say("kind", v.kind);
  say("device", v.device);
  say("engine", v.engine);
  say("tuning", v.tuning);
  say("status", v.status);
  say("stamp", std::string(name_of(v.stamp.kind)));
  say("error", v.error);
  say("stop", v.stop_reason);
  say("started", text_of(record, "started_utc"));
  out["file"] = path;
  out["size"] = {v.prompt_tokens, v.new_tokens, v.depth, v.batch};
  out["machine"] = machine_index(record);
  out["seed"] = v.seed;
  if (v.stop_at_eos) out["eos"] = true;
  if (v.in_cache) out["cached"] = true;
  if (v.energy_estimated) out["estimated"] = true;
  if (!v.stamp.reasons.empty()) {
    Record reasons = Record::array();
    for (const std::string& reason : v.stamp.reasons) reasons.push_back(string_index(reason));
    out["reasons"] = reasons;
  }
  const std::vector<MetricInfo> infos = metric_infos();
  Record metrics = Record::array();
  for (const Summary& s : v.metrics) {
    const auto info = std::find_if(infos.begin(), infos.end(), [&](const MetricInfo& m) { return m.name == s.name; });
    if (info != infos.end()) {
      metrics.push_back(metric_row(static_cast<size_t>(std::distance(infos.begin(), info)), s, with_samples));
    }
  }
  out["metrics"] = metrics;
  if (v.quality) out["quality"] = quality_of(*v.quality);
  out["memory"] = memory_of(record);
  if (const Record steps = steps_json(record, with_samples); !steps.is_null()) out["steps"] = steps;
  if (const Record told = telemetry_json(record, with_samples); !told.is_null()) out["telemetry"] = told;
  if (with_samples) out["runs"] = runs_json(record);
  if (v.response_text) {
    std::string text = *v.response_text;
    if (!with_samples && text.size() > kResponseStart) {
      size_t end = kResponseStart;
      while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // no character in halves
      text = text.substr(0, end) + "…";
    }
    out["said"] = string_index(text);
  } else if (!v.response_ids.empty()) {
    std::vector<double> ids(v.response_ids.begin(), v.response_ids.end());
    if (!with_samples && ids.size() > 16) ids.resize(16);
    out["ids"] = packed(ids);
  }
  if (const Record* prompt = member(record, "prompt")) say("prompt", text_of(*prompt, "text"));
  return out;
}

void PageData::add(const Record& record, const std::string& path) {
  try {
    std::string brief = one_liner(cell(record, path, false));
    if (count() < kMostRecordsWithSamples) {
      full_.push_back(one_liner(cell(record, path, true)));
    } else {
      full_.clear();
    }
    brief_.push_back(std::move(brief));
  } catch (const Record::exception& error) {  // in a part that only the page reads
    fail(ErrorKind::usage, "{}: a part of this record is of another form than ours: {}; was it edited? Leave it out",
         path, error.what());
  }
}

std::string PageData::json(std::span<const std::string> problems, std::span<const std::string> verdict,
                           const std::string& generated_utc, const std::string& program) const {
  const bool with_samples = count() <= kMostRecordsWithSamples;
  Record head;
  head["generated"] = generated_utc;
  head["program"] = program;
  head["detail"] = with_samples ? "samples" : "quantiles";
  head["ledger"] = kLedger;
  head["problems"] = std::vector<std::string>(problems.begin(), problems.end());
  head["verdict"] = std::vector<std::string>(verdict.begin(), verdict.end());
  Record metrics = Record::array();
  for (const MetricInfo& m : metric_infos()) metrics.push_back({{"name", m.name}, {"unit", name_of(m.unit)}});
  head["metrics"] = metrics;
  head["strings"] = strings_;
  std::string text = one_liner(head);
  text.pop_back();
  const auto list = [&](const char* name, const std::vector<std::string>& items) {
    text += fmt::format(",\n\"{}\":[", name);
    for (size_t i = 0; i < items.size(); ++i) text += (i > 0 ? ",\n" : "\n") + items[i];
    text += "]";
  };
  list("machines", machines_);
  list("cells", with_samples ? full_ : brief_);
  return safe_in_script(text + "}\n");
}

}  // namespace quantbench
