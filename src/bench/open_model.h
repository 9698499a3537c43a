// From where a model comes to a model without weights and the source that will fill it.
#pragma once

#include <memory>

#include "bench/cell.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/weight_source.h"
#include "model/model.h"

namespace quantbench {

struct OpenedModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<WeightSource> weights;
  std::string weight_form;  // how they come: "fp16 or wider checkpoint", "random", "bitsandbytes int8 checkpoint", …
  Prequantized prequantized = Prequantized::none;
};

// Reads configuration and headers, no weight; the checkpoint's tensors are those of the model. Error bad_model, disk,
// usage.
OpenedModel open_model(const ModelSource& source, Precision precision);

// How the checkpoint's linears are stored, from headers and config alone; none for random weights.
Prequantized stored_form(const ModelSource& source);
// The precision that it is stored in; fp16 where it is not quantised.
Precision stored_precision(const ModelSource& source);

// The linears that stay unquantised in a precision that quantises others: "lm_head". Empty for fp16.
std::vector<std::string> skipped_modules(Model& model, Precision precision);

}  // namespace quantbench
