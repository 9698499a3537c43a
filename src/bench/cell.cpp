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
  switch (kind) {
    case TestKind::generation:
      if (prompt_tokens == 0) return fmt::format("prompt+n{}", new_tokens);  // of a model that could not be opened
      return fmt::format("p{}+n{}", prompt_tokens, new_tokens);
    case TestKind::prefill: return fmt::format("pp{}", prompt_tokens);
    case TestKind::decode: return fmt::format("tg{}", new_tokens);
  }
  return "?";
}

std::string ModelSource::shown() const { return shown_name(name, random_weights); }

std::string Cell::label() const { return fmt::format("{} {} {}", model.shown(), name_of(precision), test.name()); }

}  // namespace quantbench
