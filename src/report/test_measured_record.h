// For tests: a record as large as one that was measured, with what a record of a GPU has beside what reports need.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "report/test_record.h"

namespace quantbench {

// 20 runs of 64 steps, and the samples of every metric.
inline Record measured(int number) {
  TestRecord t;
  t.runs = 20;
  t.rate = 100 + number % 7;
  t.precision = number % 3 == 0 ? "fp16" : number % 3 == 1 ? "int8" : "4bit";
  Record record = test_record(t);
  record["started_utc"] = "2026-01-01T00:00:00Z";
  for (const MetricInfo& m : metric_infos()) {
    if (record["metrics"].contains(std::string(m.name))) continue;
    std::vector<double> samples = test_samples(3.3e7 + number, 0.01, 20);
    if (m.unit == Unit::nanoseconds) {
      for (double& x : samples) x = std::round(x);
    }
    record["metrics"][std::string(m.name)] = m.of_run
                                                 ? test_metric(std::string(name_of(m.unit)).c_str(), "lower", samples)
                                                 : test_figure(std::string(name_of(m.unit)).c_str(), 1e9 + number);
  }
  Record runs = Record::array();
  for (int64_t i = 0; i < 20; ++i) {
    Record spans = Record::array();
    int64_t at = 1300000;
    for (int64_t step = 0; step < 64; ++step) {
      const int64_t end = at + 509568 + 32 * ((step * 37 + i * 11 + number) % 201 - 100);
      spans.push_back({"decode", "device", at, end});
      at = end;
    }
    runs.push_back({{"at_ns", 1000000000LL * i},
                    {"block", i},
                    {"total_ns", at},
                    {"outlier", i == 3 ? "mild" : "none"},
                    {"spans", spans}});
  }
  record["runs"] = runs;
  record["warmup"] = Record::array({runs[0]});
  Record ledger;
  for (const char* use :
       {"process", "weights", "scales", "unquantized", "kv_cache", "activations", "workspace", "tables", "other"})
    ledger[use] = 123456789 + number;
  record["memory"] = Record::array({{{"device", 0},
                                     {"counted_by", "driver"},
                                     {"load_peak_bytes", 5},
                                     {"run_peak_bytes", 6},
                                     {"peak_bytes", 6},
                                     {"end_bytes", 7},
                                     {"reconciliation", {{"accounted_bytes", 6}}},
                                     {"run_peak_ledger", ledger},
                                     {"end_ledger", ledger}}});
  record["response"]["text"] = std::string(300, 'a') + std::to_string(number);
  return record;
}

}  // namespace quantbench
