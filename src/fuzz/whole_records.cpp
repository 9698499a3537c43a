#include "fuzz/whole_records.h"

#include "bench/fake_worker.h"
#include "bench/record_builder.h"

namespace quantbench::fuzz {

// As the program writes it, of a worker that measures nothing.
std::string whole_record(Precision precision, bool with_quality) {
  Cell cell;
  cell.model.name = "org/Some-Model 1B";
  cell.precision = precision;
  cell.test = {TestKind::generation, 3, 3, 0, 1};
  cell.prompt = {1, 2, 3};
  CellData data;
  FakeWorker worker;
  data.plan = worker.plan(cell);
  data.load = worker.load({});
  data.memory = worker.memory();
  RunSample run;
  run.report = worker.generate(cell.prompt, 3, {});
  data.cold = run;
  data.runs.assign(2, run);
  data.stop_reason = "interval within 1 %";
  if (with_quality) {
    data.explain = worker.explain(cell.prompt, 3);
    QualityData quality;
    quality.text.name = "'a file'";
    quality.text.window = 512;
    quality.reference = "fp16";
    for (int i = 0; i < 2; ++i) {
      quality.scores.texts.push_back(
          {.tokens = 255, .nll = 600.0 + i, .kl = 3.0 + i, .reference_nll = 590, .same_top = 250 - i});
    }
    quality.scores.kl_p99 = 0.1;
    data.quality = quality;
  }
  return make_record(cell, data, {}, {}).dump();
}

}  // namespace quantbench::fuzz
