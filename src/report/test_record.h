// For tests: records as small as reports need them, with what tests of comparing change. Not of a measurement.
#pragma once

#include <string>
#include <vector>

#include "bench/record.h"
#include "bench/statistics.h"

namespace quantbench {

struct TestRecord {
  std::string model = "org/model", precision = "fp16", test = "p8+n64", kind = "generation";
  double rate = 100, spread = 0.001;  // of tokens per second; the spread is a share, to both sides
  int runs = 10;
  double peak_bytes = 1e9;
  std::string device = "a CPU", device_id = "cpu", engine = "native", tuning;
  std::string stamp = "VALID", status = "ok";
  int batch = 1;
};

// `runs` values around a median, within median × (1 ± spread).
inline std::vector<double> test_samples(double median, double spread, int runs) {
  std::vector<double> samples;
  for (int i = 0; i < runs; ++i) {
    samples.push_back(runs == 1 ? median : median * (1 + spread * (2.0 * i / (runs - 1) - 1)));
  }
  return samples;
}

inline Record test_metric(const char* unit, const char* better, const std::vector<double>& samples) {
  const auto interval = median_interval(samples);
  return {{"unit", unit},
          {"better", better},
          {"runs", samples.size()},
          {"median", median(samples)},
          {"low", interval ? Record(interval->low) : Record(nullptr)},
          {"high", interval ? Record(interval->high) : Record(nullptr)},
          {"coverage", interval ? interval->coverage : 0},
          {"mad", median_absolute_deviation(samples)},
          {"min", quantile(samples, 0)},
          {"max", quantile(samples, 1)},
          {"samples", samples}};
}

inline Record test_figure(const char* unit, double value) {
  return {{"unit", unit}, {"better", "lower"}, {"runs", 0}, {"median", value}};
}

inline Record test_record(const TestRecord& t) {
  const bool failed = t.status != "ok";
  Record metrics = Record::object();
  if (!failed) {
    const double first_ns = 4e9 / t.rate;
    metrics = {{"time_to_first_token", test_metric("ns", "lower", test_samples(first_ns, t.spread, t.runs))},
               {"tokens_per_second", test_metric("1/s", "higher", test_samples(t.rate, t.spread, t.runs))},
               {"memory_peak", test_figure("bytes", t.peak_bytes)},
               {"joules_per_token", nullptr}};
  }
  return {{"schema", "quantbench.record"},
          {"schema_version", kRecordVersion},
          {"environment", {{"cpu", "a CPU"}, {"kernel", "1.0"}}},
          {"devices", Record::array({{{"index", 0}, {"id", t.device_id}, {"name", t.device}}})},
          {"cell",
           {{"model", {{"name", t.model}, {"weights", "checkpoint"}}},
            {"precision", t.precision},
            {"precision_long", t.precision == "fp16"   ? "FP16"
                               : t.precision == "bf16" ? "BF16"
                               : t.precision == "int8" ? "LLM.int8"
                                                       : "NF4"},
            {"test", t.test},
            {"kind", t.kind},
            {"prompt_tokens", 8},
            {"new_tokens", 64},
            {"depth", 0},
            {"batch", t.batch},
            {"stop_at_eos", false},
            {"aa_half", nullptr},
            {"engine", t.engine},
            {"tuning", t.tuning.empty() ? Record(nullptr) : Record(t.tuning)}}},
          {"protocol", {{"seed", 42}}},
          {"response", {{"text", nullptr}, {"ids", std::vector<int>(64, 7)}}},
          {"cost", nullptr},
          {"memory", Record::array()},
          {"metrics", metrics},
          {"outcome",
           {{"status", t.status},
            {"error", failed ? Record("it failed") : Record(nullptr)},
            {"stop_reason", "interval within 1 %"},
            {"stamp", failed ? "INVALID" : t.stamp},
            {"reasons", Record::array()}}},
          {"quality", nullptr}};
}

}  // namespace quantbench
