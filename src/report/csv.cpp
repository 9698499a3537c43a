#include <fmt/format.h>

#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

std::string number(double value) { return fmt::format("{}", value); }
std::string number(const std::optional<double>& value) { return value ? number(*value) : ""; }

std::string column(const MetricInfo& m) {
  const std::string name(m.name);
  if (m.unit == Unit::nanoseconds) return name + "_ns";  // of joules the name says it
  return m.unit == Unit::bytes && !name.ends_with("_bytes") ? name + "_bytes" : name;
}

// Another program may not tell how many there were.
std::string count_or_nothing(const RecordView& v, int count) {
  return count == 0 && !v.imported_from.empty() ? "" : std::to_string(count);
}

// The columns are always the same, so that the files of several runs can be put together.
std::string own(std::span<const RecordView> views) {
  const std::vector<MetricInfo> metrics = metric_infos();
  std::vector<std::string> heading{"model",      "precision", "precision_long", "test",   "kind",   "prompt_tokens",
                                   "new_tokens", "depth",     "batch",          "device", "engine", "tuning",
                                   "status",     "stamp",     "reasons",        "error",  "runs",   "aa_half"};
  for (const MetricInfo& m : metrics) {
    heading.push_back(column(m));
    if (m.of_run) heading.insert(heading.end(), {column(m) + "_low", column(m) + "_high"});
  }
  for (const std::string name : {"perplexity", "perplexity_ratio", "kl_mean", "same_top"}) {
    heading.insert(heading.end(), {name, name + "_low", name + "_high"});
  }
  heading.insert(heading.end(), {"kl_p99", "quality_reference", "picture_decode_ns", "picture_resize_ns"});
  std::string out = csv_line(heading);
  for (const RecordView& v : views) {
    std::string reasons;
    for (const std::string& reason : v.stamp.reasons) reasons += (reasons.empty() ? "" : "; ") + reason;
    const Summary* latency = v.find("total_latency");
    std::vector<std::string> row{v.model,
                                 v.precision,
                                 v.precision_long,
                                 v.test,
                                 v.kind,
                                 count_or_nothing(v, v.prompt_tokens),
                                 count_or_nothing(v, v.new_tokens),
                                 std::to_string(v.depth),
                                 std::to_string(v.batch),
                                 v.device,
                                 v.engine,
                                 v.tuning,
                                 v.status,
                                 std::string(name_of(v.stamp.kind)),
                                 reasons,
                                 v.error,
                                 std::to_string(latency ? latency->runs : 0),
                                 v.half};
    for (const MetricInfo& m : metrics) {
      const Summary* s = v.find(m.name);
      row.push_back(s ? number(s->median) : "");
      if (m.of_run) row.insert(row.end(), {s ? number(s->low) : "", s ? number(s->high) : ""});
    }
    const QualityView quality = v.quality.value_or(QualityView{});
    for (const auto& e : {quality.perplexity, quality.perplexity_ratio, quality.kl_mean, quality.same_top}) {
      const Estimate figure = e.value_or(Estimate{});
      row.insert(row.end(), {e ? number(figure.value) : "", number(figure.low), number(figure.high)});
    }
    row.insert(row.end(), {number(quality.kl_p99), quality.reference, v.picture ? number(v.picture->decode_ns) : "",
                           v.picture ? number(v.picture->resize_ns) : ""});
    out += csv_line(row);
  }
  return out;
}

// The predecessor's columns, in its units: seconds, tokens per second, and gigabytes of 2^30.
std::string predecessor(std::span<const RecordView> views, bool full) {
  std::string out = full ? "precision,total_latency_sec,tokens_per_sec,per_token_latency_sec,generated_tokens,"
                           "start_mem_gb,end_mem_gb,peak_mem_gb,error\n"
                         : "precision,latency_sec,tokens_per_sec,peak_mem_gb,error\n";
  for (const RecordView& v : views) {
    const auto scaled = [&v](std::string_view metric, double unit) {
      const Summary* s = v.find(metric);
      return s ? number(s->median / unit) : "";
    };
    constexpr double kGiB = 1024.0 * 1024 * 1024;
    const std::string error = v.status == "ok" ? "" : v.error;
    const std::string latency = scaled("total_latency", 1e9), rate = scaled("tokens_per_second", 1),
                      peak = scaled("memory_peak", kGiB);
    if (full) {
      out += csv_line({v.precision, latency, rate, scaled("latency_per_token", 1e9),
                       latency.empty() ? "" : std::to_string(v.response_ids.size()), scaled("memory_start", kGiB),
                       scaled("memory_end", kGiB), peak, error});
    } else {
      out += csv_line({v.precision, latency, rate, peak, error});
    }
  }
  return out;
}

}  // namespace

std::string csv(std::span<const RecordView> views, CsvSchema schema) {
  if (schema == CsvSchema::own) return own(views);
  return predecessor(views, schema == CsvSchema::predecessor_full);
}

}  // namespace quantbench
