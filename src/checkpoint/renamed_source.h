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

// What the model calls a tensor of a file. Of several rules the first that fits a name counts; a name that begins with
// an `in_model` is the model's already.
std::string name_in_model(const std::string& in_file, std::span<const RenamedPrefix> rules);
// What files may call a module of the model, each name once and the model's own first: "language_model.lm_head",
// "lm_head".
std::vector<std::string> names_in_files(const std::string& module, std::span<const RenamedPrefix> rules);

// `source` itself where all names are the model's already, else a source of the model's names. Error bad_model where
// two names become one.
std::unique_ptr<WeightSource> renamed(std::unique_ptr<WeightSource> source, std::span<const RenamedPrefix> rules);

}  // namespace quantbench
