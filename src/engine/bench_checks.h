// What bench_decode sees to before it times anything: that the logits are those that another path gives, and that they
// come again to the bit. Each prints what it found and fails (ErrorKind::internal) where it is wrong.
#pragma once

#include <string>

#include "engine/bench_model.h"

namespace quantbench {

// The same model on the backend of --check-with, loaded when it is first asked for.
class Beside {
 public:
  Beside(const Loaded& loaded, const BenchOptions& o) : loaded_(loaded), options_(o) {}
  const Loaded* model();  // null: nothing was asked for

 private:
  const Loaded& loaded_;
  const BenchOptions& options_;
  std::unique_ptr<Loaded> model_;
};

// An engine's logits, one token a step, behind `depth` tokens (of a decoder alone) or a prompt: a second time, beside
// another way of making the same steps, and beside all of the tokens in one call, which other kernels compute.
void check_engine(const Loaded& loaded, const std::string& engine, int depth, const BenchOptions& o, Beside* beside);

// Every sequence's logits in the batch, one token a step: a second time, and beside those of the sequence alone; behind
// `depth` tokens. Of a decoder alone.
void check_batch(const Loaded& loaded, const std::string& engine, int depth, int batch, int outliers);

// A prompt's logits a second time, and beside its tokens one a step where they see none behind them; else, of a model
// with an encoder, beside --check-with.
void check_prompt(const Loaded& loaded, int text, const BenchOptions& o, Beside* beside);

}  // namespace quantbench
