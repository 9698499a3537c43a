// The parent's part of measuring quality: which models are compared with which, once for all tests of a model, in a
// worker of its own that is started when the timed runs are over.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "bench/measure.h"
#include "bench/quality.h"

namespace quantbench {

class QualitySweep {
 public:
  // with_fp32: FP16 is compared with the same weights in fp32 arithmetic on the CPU.
  explicit QualitySweep(bool with_fp32) : with_fp32_(with_fp32) {}

  // Of each cell, in their order; all of one model. What cannot be measured says why and costs the others nothing:
  // where the models do not fit together, or one of them fails, each is compared with FP16 alone. Error interrupted.
  std::vector<QualityData> measure(std::span<const Cell> cells, const QualityText& text, const StartWorker& start,
                                   Progress& progress);

 private:
  void measure_new(const std::vector<const Cell*>& cells, const QualityText& text, const StartWorker& start,
                   Progress& progress);

  std::map<std::string, QualityData> known_;  // by model and precision
  bool with_fp32_;
};

}  // namespace quantbench
