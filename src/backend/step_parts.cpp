#include "backend/step_parts.h"

namespace quantbench {
namespace {

struct PartOf {
  bool feeds_choice;
  StepPart operator()(const Embed&) const { return StepPart::embedding; }
  StepPart operator()(const Qkv&) const { return StepPart::qkv; }
  StepPart operator()(const StoreKv&) const { return StepPart::qkv; }
  StepPart operator()(const Attend&) const { return StepPart::attention; }
  StepPart operator()(const AddLinear&) const { return StepPart::output_linear; }
  StepPart operator()(const GatedUp&) const { return StepPart::mlp; }
  StepPart operator()(const Project&) const { return feeds_choice ? StepPart::head : StepPart::mlp; }
  StepPart operator()(const NextToken&) const { return StepPart::choice; }
};

}  // namespace

std::string_view name_of(StepPart part) {
  return part == StepPart::choice ? "choice" : name_of(static_cast<CostOf>(part));
}

ByPart<Tape> cut_by_part(const Tape& step) {
  ByPart<Tape> parts;
  for (size_t i = 0; i < step.size(); ++i) {
    const bool feeds_choice = i + 1 < step.size() && std::holds_alternative<NextToken>(step[i + 1]);
    parts[std::visit(PartOf{feeds_choice}, step[i])].push_back(step[i]);
  }
  return parts;
}

ByPart<PartBytes> bytes_by_part(const Tape& step, int sequences) {
  // Caches that are read whole count the same at any context, so they are in neither difference.
  const CostTable first = cost_of(step, 1), second = cost_of(step, 2);
  ByPart<PartBytes> bytes;
  for (int i = 0; i < kCosts; ++i) {
    const auto of = static_cast<CostOf>(i);
    PartBytes& part = bytes[static_cast<StepPart>(i)];
    part.weight_bytes = first[of].weight_bytes;
    part.kv_position_bytes = (second[of].kv_bytes - first[of].kv_bytes) / static_cast<size_t>(sequences);
  }
  for (const Op& op : step) {
    const auto* const attend = std::get_if<Attend>(&op);
    if (!attend) continue;
    bytes[StepPart::attention].kv_fixed_bytes +=
        2 * static_cast<size_t>(attend->q.rows) * static_cast<size_t>(attend->whole) *
        static_cast<size_t>(attend->kv.heads) * static_cast<size_t>(attend->kv.head_dim) * sizeof(f16);
  }
  return bytes;
}

}  // namespace quantbench
