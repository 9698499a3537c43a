// What bench_decode measures: a model of random weights on a backend.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "engine/test_whole_model.h"
#include "model/loader.h"

namespace quantbench {

struct BenchOptions {
  std::vector<std::string> models{"meta-llama/Llama-3.2-1B"}, precisions{"fp16", "int8", "4bit"};
  std::string device = "cpu", isa = "auto", check_with;
  std::vector<std::string> engines{"auto"};
  int threads = 0, rounds = 12, new_tokens = 17, prompt = 8, prefill_rounds = 5, outliers = 0, checked = 0;
  std::vector<int> batches{1}, depths{0}, prefills{512};
  size_t read_bytes = size_t{1} << 30;
  bool json = false, skip_refused = false;
};

struct Loaded {
  std::string id;
  Precision precision;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  Plan plan;
  LoadReport report;

  Loaded(const std::string& of, Precision p, const BenchOptions& o, const std::string& device);

  const Shape& shape() const { return model->shape(); }
  int vocab() const { return shape().vocab; }
  // Whether a step of `batch` sequences can be run so; anything goes where there are no engines to choose from.
  bool can_run(const std::string& engine, int batch) const;
  // What --engine names. Error device where it cannot run.
  std::string engine(const std::string& asked_for, int batch) const;

 private:
  Plan step(int batch) const;
};

// Multiplications and additions up to the first token behind a text of so many.
double prompt_flops(const Model& model, int text);

}  // namespace quantbench
