// From a config to a model: which Hugging Face architectures are built.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/weight_source.h"
#include "model/config.h"
#include "model/model.h"

namespace quantbench {

// The names that config.json's `architectures` may give.
std::vector<std::string> architectures();

// A model with its shapes, its weights still to come. Error bad_model for an architecture that is not built (listing
// those that are), a config that is refused, or a precision that weights stored this way cannot have (usage).
std::unique_ptr<Model> make_model(const ModelConfig& config, Precision precision,
                                  Prequantized stored = Prequantized::none);

// The decode step with null buffers: what Backend::plan wants before anything is loaded. encoder_positions: that a
// cross-attention reads, for counting its bytes.
Tape decode_shapes(const Model& model, int sequences = 1, int encoder_positions = 0);
// Likewise what is called outside it: the encoder with so many rows. Empty of a model without one.
Tape encode_shapes(const Model& model, int rows);

}  // namespace quantbench
