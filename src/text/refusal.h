// Refusals of a tokenizer.json: what was found, and what to do about it.
#pragma once

#include "core/error.h"

namespace quantbench {

// What no tokenizer.json should hold.
template <typename... Args>
[[noreturn]] void refuse_damaged(fmt::format_string<Args...> text, Args&&... args) {
  fail(ErrorKind::bad_model, "{}; take the tokenizer.json that came with the model",
       fmt::format(text, std::forward<Args>(args)...));
}

// What other tokenizers do and ours does not.
template <typename... Args>
[[noreturn]] void refuse_unsupported(fmt::format_string<Args...> text, Args&&... args) {
  fail(ErrorKind::bad_model, "{}; choose another model", fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace quantbench
