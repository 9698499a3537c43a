// The general categories of Unicode 16.0, which Hugging Face's tokenizers (0.23) match `\p{L}` and the like by, so that
// token ids do not depend on how new the system's regular expressions are.
#pragma once

#include <cstdint>
#include <span>

namespace quantbench {

struct CodePoints {
  uint32_t first, last;
};
struct UnicodeCategory {
  const char* name;                   // as in a pattern: "Lu"; "P" and "S" stand for all of punctuation and symbols
  std::span<const CodePoints> codes;  // in order, apart from each other
};

// All of letters, marks, numbers, punctuation and symbols.
std::span<const UnicodeCategory> unicode_categories();

}  // namespace quantbench
