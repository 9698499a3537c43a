#include "engine/bench_model.h"

#include <algorithm>

#include "backend/cost_ops.h"
#include "backend/test_backends.h"
#include "core/error.h"
#include "model/registry.h"

namespace quantbench {
namespace {

std::unique_ptr<Backend> backend_of(const std::string& device, const BenchOptions& o) {
#if defined(QB_HAS_CUDA_EMULATOR)
  // For trying this program out: what it times there says nothing.
  if (device == kEmulatedCuda) return cuda_emulated::make_backend({.gpu = cuda_emulated::kEmulatedHopper});
#endif
  return make_backend(device, {.threads = o.threads, .isa = o.isa});
}

Plan plan_of(Backend& backend, const Model& model, int text) {
  const StateShape run = session_shape(model.shape(), 1, 0, prompt_tokens(model.shape(), text), 1);
  return backend.plan(decode_shapes(model), run.rows, encode_shapes(model, run.encoder_rows));
}

// Of a model with an encoder those that two right paths agree on: T5's scores, which nothing divides, are as good as an
// arg-max with random_tensors().
RandomWeights weights_of(Model& model, int outliers) {
  return {42, model.shape().encoder ? telling_tensors(model, outliers) : random_tensors(model), outliers};
}

}  // namespace

Loaded::Loaded(const std::string& of, Precision p, const BenchOptions& o, const std::string& device)
    : id(of),
      precision(p),
      backend(backend_of(device, o)),
      model(make_model(config_of(id), precision)),
      plan(plan_of(*backend, *model, std::max(*std::max_element(o.prefills.begin(), o.prefills.end()), o.prompt))),
      report(load(*model, weights_of(*model, o.outliers), *backend, plan)) {}

Plan Loaded::step(int batch) const {
  return backend->plan(decode_shapes(*model, batch), batch, encode_shapes(*model, 1));
}

bool Loaded::can_run(const std::string& engine, int batch) const {
  return engine == "auto" || !backend->device().gpu || step(batch).has(engine);
}

std::string Loaded::engine(const std::string& asked_for, int batch) const {
  if (asked_for == "auto" || !backend->device().gpu) return std::string(step(batch).engines.front().name);
  if (can_run(asked_for, batch)) return asked_for;
  fail(ErrorKind::device, "--engine {}: this GPU, this model or a batch of sequences cannot run so", asked_for);
}

double prompt_flops(const Model& model, int text) {
  const Shape& s = model.shape();
  const int tokens = prompt_tokens(s, text), encoded = s.has_picture() ? s.encoder->picture->tokens() : text;
  // A row of a decoder alone sees half of the prompt, a row behind a picture all of it.
  const int rows = s.has_cross_attention() ? 1 : tokens, sees = s.has_picture() ? rows : (rows + 1) / 2;
  const CostTable decoder = cost_of(decode_shapes(model, rows, text), sees);
  // The head is for one row.
  return cost_of(encode_shapes(model, encoded), encoded).total().flops + decoder.total().flops -
         decoder[CostOf::head].flops * (rows - 1) / rows;
}

}  // namespace quantbench
