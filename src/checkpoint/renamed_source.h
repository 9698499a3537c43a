// Weights whose file names them with other prefixes than the model does: libraries that save a model again may call its
// parts by new names.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/weight_source.h"

namespace quantbench {

struct RenamedPrefix {
  std::string in_file, in_model;  // "vision_tower." and "vision_tower.vision_model."
};

// `source` itself where all names are the model's already (those that begin with an `in_model` are), else a source of
// the model's names. Of several rules the first that fits a name counts. Error bad_model where two names become one.
std::unique_ptr<WeightSource> renamed(std::unique_ptr<WeightSource> source, std::span<const RenamedPrefix> rules);

}  // namespace quantbench
