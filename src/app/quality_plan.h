// From --quality and its companions to the text that a model is measured on.
#pragma once

#include <span>

#include "app/run_plan.h"

namespace quantbench {

// What is wrong with the flags whatever the model is. Error usage.
void check_quality(const RunFlags& flags);

// prompt: of the model's first test, one sequence; what FP16 answers to where the model takes a picture. Error usage,
// hub, bad_model.
QualityText plan_quality(const RunFlags& flags, const PlannedModel& model, std::span<const int32_t> prompt);

}  // namespace quantbench
