#include "bench/cell.h"

#include <fmt/format.h>

#include "bench/record.h"

namespace quantbench {

std::string_view name_of(TestKind kind) {
  switch (kind) {
    case TestKind::generation: return "generation";
    case TestKind::prefill: return "prefill";
    case TestKind::decode: return "decode";
  }
  return "?";
}

std::string Test::name() const {
  std::string name;
  switch (kind) {
    case TestKind::generation:
      // 0: of a model that could not be opened
      name = prompt_tokens == 0 ? fmt::format("prompt+n{}", new_tokens)
                                : fmt::format("p{}+n{}", prompt_tokens, new_tokens);
      break;
    case TestKind::prefill: name = fmt::format("pp{}", prompt_tokens); break;
    case TestKind::decode: name = fmt::format("tg{}", new_tokens); break;
  }
  if (depth > 0) name += fmt::format(" @ d{}", depth);  // as llama-bench writes it
  if (batch > 1) name += fmt::format(" b{}", batch);
  return name;
}

std::string ModelSource::shown() const { return shown_name(name, random_weights); }

std::string Cell::label() const {
  return fmt::format("{} {} {}", model.shown(), with_half(std::string(name_of(precision)), half), test.name());
}

}  // namespace quantbench
