#include "model/model.h"

namespace quantbench {

std::string_view name_of(Precision precision) {
  switch (precision) {
    case Precision::fp16: return "fp16";
    case Precision::int8: return "int8";
    case Precision::nf4: return "4bit";
    case Precision::bf16: return "bf16";
  }
  return "?";
}

std::string_view long_name_of(Precision precision, std::optional<bool> nf4_double_quantized) {
  switch (precision) {
    case Precision::fp16: return "FP16";
    case Precision::bf16: return "BF16";
    case Precision::int8: return "LLM.int8 (threshold 6.0)";
    case Precision::nf4:
      if (!nf4_double_quantized) return "NF4";
      return *nf4_double_quantized ? "NF4, double quantisation" : "NF4, plain fp32 absmax";
  }
  return "?";
}

State State::first(int count) const {
  State out = *this;
  for (Tensor* t : {&out.x, &out.q, &out.a, &out.h}) *t = t->slice(0, count);
  out.rows.count = count;
  return out;
}

State State::answering(std::initializer_list<const Linear*> by) const {
  State out = *this;
  if (answers == 0) return out;
  for (const Linear* linear : by) {
    if (format_of(linear->weight) == Format::int8) return out;
  }
  const int before = rows.count - answers;
  for (Tensor* t : {&out.x, &out.q, &out.a, &out.h}) *t = t->slice(before, answers);
  out.rows = rows.slice(before, answers);
  if (lengths) out.lengths = lengths + before;
  return out;
}

NextToken State::next_token(Tensor of_logits) const {
  return {.rows = rows,
          .logits = of_logits,
          .sampling = sampling,
          .history = history,
          .history_positions = history_positions,
          .stops = stops,
          .done = done};
}

void Model::decode(Ops& ops, const State& state) const {
  forward(ops, state);
  head(ops, state, 0, state.rows.count);
  ops.next_token(state.next_token(state.logits.slice(0, state.rows.count)));
}

}  // namespace quantbench
