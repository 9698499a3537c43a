// Refusals of a tokenizer's file: what was found, and what to do about it.
#pragma once

#include "core/error.h"

namespace quantbench {

// What no such file should hold.
template <typename... Args>
[[noreturn]] void refuse_damaged(fmt::format_string<Args...> text, Args&&... args) {
  fail(ErrorKind::bad_model, "{}; take the file that came with the model",
       fmt::format(text, std::forward<Args>(args)...));
}

// What other tokenizers do and ours does not.
template <typename... Args>
[[noreturn]] void refuse_unsupported(fmt::format_string<Args...> text, Args&&... args) {
  fail(ErrorKind::bad_model, "{}; choose another model", fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace quantbench
