#include "report/page_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>

#include "bench/statistics.h"
#include "core/error.h"
#include "report/charts.h"
#include "report/packed.h"
#include "report/record_json.h"

namespace quantbench {
namespace {

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
  double seven = value;
  if (value != 0) {
    const int places = 6 - static_cast<int>(std::floor(std::log10(std::fabs(value))));
    const double power = std::pow(10.0, std::abs(places));
    seven = places >= 0 ? std::nearbyint(value * power) / power : std::nearbyint(value / power) * power;
  }
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
  for (const char* use : ledger_parts()) row.push_back(ledger->value(use, int64_t{0}));
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

// Of kStepPoints stretches of the run: where each begins, and 10th, 50th and 90th percentile of its steps in all runs.
Record step_quantiles(const std::vector<std::vector<double>>& runs) {
  std::vector<double> begins, low, middle, high;
  for (const StepBand& band : step_bands(runs, kStepPoints)) {
    begins.push_back(band.step);
    low.push_back(std::round(band.low));
    middle.push_back(std::round(band.middle));
    high.push_back(std::round(band.high));
  }
  if (begins.empty()) return nullptr;
  return {packed(begins), packed(low), packed(middle), packed(high)};
}

std::vector<std::vector<double>> steps_of_runs(const Record& record) {
  std::vector<std::vector<double>> runs;
  for (const Record& run : list_of(record, "runs")) runs.push_back(decode_steps_of(run));
  return runs;
}

Record all_steps(const std::vector<std::vector<double>>& runs) {
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
  std::vector<const Record*> runs;
  Record counts = Record::array();
  if (const Record* cold = member(record, "cold")) runs.push_back(cold);
  counts.push_back(runs.size());
  for (const char* kind : {"warmup", "runs", "repeated_runs"}) {
    const Record* of_kind = member(record, kind);
    counts.push_back(of_kind ? of_kind->size() : 0);
    if (!of_kind) continue;
    for (const Record& run : *of_kind) runs.push_back(&run);
  }
  std::vector<double> at, total, block;
  std::string outliers;
  for (const Record* run : runs) {
    at.push_back(number_of(*run, "at_ns", 0));
    total.push_back(number_of(*run, "total_ns", 0));
    block.push_back(number_of(*run, "block", -1));
    const std::string outlier = text_of(*run, "outlier");
    outliers += outlier.empty() || outlier == "none" ? '-' : outlier[0];  // m: mild, s: severe
  }
  return {counts, packed(at), packed(total), packed(block), outliers};
}

// Samples of the card in timed runs: since the sweep began, SM and memory clock, temperature, power, reasons.
Record telemetry_json(const Record& record, bool with_samples) {
  const Record* summary = member(record, "telemetry");
  if (!summary || !member(*summary, "source")) return nullptr;
  Record out = Record::object();
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
  out.reserve(json.size() + json.size() / 64);
  size_t from = 0;  // what is not copied yet
  const auto instead = [&](size_t at, size_t length, const char* text) {
    out.append(json, from, at - from) += text;
    from = at + length;
  };
  for (size_t i = 0; i < json.size(); ++i) {
    if (json[i] == '<') {
      instead(i, 1, "\\u003c");
    } else if (json[i] == '\xE2' &&
               (json.compare(i + 1, 2, "\x80\xA8") == 0 || json.compare(i + 1, 2, "\x80\xA9") == 0)) {
      instead(i, 3, json[i + 2] == '\xA8' ? "\\u2028" : "\\u2029");
    }
  }
  return out.append(json, from);
}

namespace {

std::string machine_of(const Record& record) {
  Record lines = Record::array();
  for (const Record& device : list_of(record, "devices")) {
    Record of_device = device;
    of_device.erase("available_bytes");
    flatten(of_device, "device", &lines);
  }
  if (const Record* environment = member(record, "environment")) flatten(*environment, "", &lines);
  if (const Record* build = member(record, "build")) flatten(*build, "build", &lines);
  return one_liner(lines);
}

// The members of an object as they stand in one: behind a comma each.
std::string members(const Record& object) {
  if (object.empty()) return "";
  std::string text = one_liner(object);
  text.front() = ',';
  text.pop_back();
  return text;
}

Record metric_rows(const RecordView& v, bool with_samples) {
  static const std::vector<MetricInfo> infos = metric_infos();
  Record metrics = Record::array();
  for (const Summary& s : v.metrics) {
    const auto info = std::find_if(infos.begin(), infos.end(), [&](const MetricInfo& m) { return m.name == s.name; });
    if (info != infos.end()) {
      metrics.push_back(metric_row(static_cast<size_t>(std::distance(infos.begin(), info)), s, with_samples));
    }
  }
  return metrics;
}

// What is shown of it with samples, and without.
std::string detail(const Record& record, const RecordView& v, const std::vector<std::vector<double>>& steps,
                   bool with_samples) {
  Record out = Record::object();
  out["metrics"] = metric_rows(v, with_samples);
  if (const Record of_steps = with_samples ? all_steps(steps) : step_quantiles(steps); !of_steps.is_null())
    out["steps"] = of_steps;
  if (const Record told = telemetry_json(record, with_samples); !told.is_null()) out["telemetry"] = told;
  if (with_samples) out["runs"] = runs_json(record);
  if (!v.response_text && !v.response_ids.empty()) {
    std::vector<double> ids(v.response_ids.begin(), v.response_ids.end());
    if (!with_samples && ids.size() > 16) ids.resize(16);
    out["ids"] = packed(ids);
  }
  return members(out);
}

// Numbers texts in the order in which they come.
class Numbered {
 public:
  size_t operator()(const std::string& text) {
    const auto [place, is_new] = places_.emplace(text, all_.size());
    if (is_new) all_.push_back(&place->first);
    return place->second;
  }
  const std::vector<const std::string*>& all() const { return all_; }

 private:
  std::map<std::string, size_t, std::less<>> places_;
  std::vector<const std::string*> all_;
};

}  // namespace

PageCell page_cell(const Record& record, const RecordView& v, const std::string& path, bool with_samples) try {
  PageCell cell;
  cell.texts = {{"model", v.shown_model()},
                {"precision", v.shown_precision()},
                {"long", v.precision_long},
                {"test", v.test},
                {"kind", v.kind},
                {"device", v.device},
                {"engine", v.engine},
                {"tuning", v.tuning},
                {"status", v.status},
                {"stamp", std::string(name_of(v.stamp.kind))},
                {"error", v.error},
                {"stop", v.stop_reason},
                {"started", text_of(record, "started_utc")}};
  if (const Record* prompt = member(record, "prompt")) cell.texts.emplace_back("prompt", text_of(*prompt, "text"));
  cell.reasons = v.stamp.reasons;
  cell.machine = machine_of(record);
  Record facts = Record::object();
  facts["file"] = path;
  facts["size"] = {v.prompt_tokens, v.new_tokens, v.depth, v.batch};
  facts["seed"] = v.seed;
  if (v.stop_at_eos) facts["eos"] = true;
  if (v.in_cache) facts["cached"] = true;
  if (v.energy_estimated) facts["estimated"] = true;
  if (v.quality) facts["quality"] = quality_of(*v.quality);
  facts["memory"] = memory_of(record);
  cell.facts = members(facts);
  if (v.response_text) {
    cell.said = *v.response_text;
    cell.said_in_brief = cell.said;
    if (cell.said.size() > kResponseStart) {
      size_t end = kResponseStart;
      while (end > 0 && (static_cast<unsigned char>(cell.said[end]) & 0xC0) == 0x80) --end;  // no character in halves
      cell.said_in_brief = cell.said.substr(0, end) + "…";
    }
  }
  const std::vector<std::vector<double>> steps = steps_of_runs(record);
  if (with_samples) cell.samples = detail(record, v, steps, true);
  cell.brief = detail(record, v, steps, false);
  return cell;
} catch (const Record::exception& error) {  // in a part that only the page reads
  fail(ErrorKind::usage, "{}: a part of this record is of another form than ours: {}; was it edited? Leave it out",
       path, error.what());
}

void PageData::add(PageCell cell) { cells_.push_back(std::move(cell)); }

std::string PageData::json(std::span<const std::string> problems, std::span<const std::string> verdict,
                           const std::string& generated_utc, const std::string& program) const {
  const bool with_samples = count() <= kMostRecordsWithSamples;
  Numbered strings, machines;
  std::string cells;
  for (const PageCell& cell : cells_) {
    cells += cells.empty() ? "\n{" : ",\n{";
    cells += fmt::format("\"machine\":{}", machines(cell.machine));
    const auto say = [&](const char* key, const std::string& text) {
      if (!text.empty()) cells += fmt::format(",\"{}\":{}", key, strings(text));
    };
    for (const auto& [key, text] : cell.texts) say(key, text);
    say("said", with_samples ? cell.said : cell.said_in_brief);
    if (!cell.reasons.empty()) {
      cells += ",\"reasons\":[";
      for (const std::string& reason : cell.reasons) {
        cells += fmt::format("{}{}", &reason == &cell.reasons.front() ? "" : ",", strings(reason));
      }
      cells += "]";
    }
    cells += cell.facts;
    cells += with_samples ? cell.samples : cell.brief;
    cells += "}";
  }
  Record head = Record::object();
  head["generated"] = generated_utc;
  head["program"] = program;
  head["detail"] = with_samples ? "samples" : "quantiles";
  head["ledger"] = std::vector<std::string>(ledger_parts().begin(), ledger_parts().end());
  head["problems"] = std::vector<std::string>(problems.begin(), problems.end());
  head["verdict"] = std::vector<std::string>(verdict.begin(), verdict.end());
  Record metrics = Record::array();
  for (const MetricInfo& m : metric_infos()) metrics.push_back({{"name", m.name}, {"unit", name_of(m.unit)}});
  head["metrics"] = metrics;
  Record& texts = head["strings"] = Record::array();
  for (const std::string* text : strings.all()) texts.push_back(*text);
  std::string text = one_liner(head);
  text.back() = ',';
  text += "\n\"machines\":[";
  for (const std::string* machine : machines.all())
    text += (machine == machines.all().front() ? "\n" : ",\n") + *machine;
  text += "],\n\"cells\":[" + cells + "]}\n";
  return safe_in_script(text);
}

}  // namespace quantbench
