// Characters as a reader counts them: extended grapheme clusters (UAX 29), of the Unicode 17.0 that Hugging Face's
// tokenizers (0.23) go by where they normalise with a table of sentencepiece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace quantbench {

// What a code point is to its neighbours. Linkers, the non-joiner and `extend` extend what they follow alike; the rule
// for Indic conjuncts tells them apart.
enum class Joining : uint8_t {
  none,
  carriage_return,
  line_feed,
  control,
  extend,
  linker,
  non_joiner,
  joiner,
  prepend,
  spacing_mark,
  hangul_l,
  hangul_v,
  hangul_t,
  hangul_lv,
  hangul_lvt,
  regional,
  pictographic,
  consonant,
};
struct JoiningRange {
  uint32_t first, last;
  Joining joining;
};
// In order; without CR, LF, Hangul's syllables and the regional indicators, which need no table.
std::span<const JoiningRange> joining_ranges();

// The bytes of the cluster that text starts with. text is valid UTF-8, not empty, and starts where a cluster does.
size_t grapheme_bytes(std::string_view text);

}  // namespace quantbench
