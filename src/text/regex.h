// Regular expressions by Oniguruma, the engine and the default syntax of Hugging Face's tokenizers. `\p{L}`, `\p{Nd}`
// and the other categories are those of unicode_categories.h, whatever the library's version; its own knowledge decides
// `\w`, scripts, and which letters are the same but for their case.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

struct re_pattern_buffer;  // Oniguruma's regex_t

namespace quantbench {

struct Match {
  size_t begin, end;  // byte offsets, end exclusive
};

// Immutable once compiled; may be used from several threads.
class Regex {
 public:
  // Error bad_model, with `where`, for a pattern that does not compile.
  Regex(const std::string& pattern, const std::string& where);

  // The first match that starts at or after `from`. text is valid UTF-8 and `from` lies between characters.
  // Error bad_model when the pattern gives up (it backtracked beyond Oniguruma's limit).
  std::optional<Match> find(std::string_view text, size_t from) const;
  // Whether a match starts at `from` exactly; its end.
  std::optional<size_t> match_at(std::string_view text, size_t from) const;

 private:
  struct Free {
    void operator()(re_pattern_buffer* regex) const;
  };
  [[noreturn]] void give_up(int code, size_t offset) const;

  std::string pattern_, where_;
  std::unique_ptr<re_pattern_buffer, Free> regex_;
};

}  // namespace quantbench
