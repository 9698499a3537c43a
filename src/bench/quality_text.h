// From a text to what is forced through a model: windows of a decoder, lines of source and target of T5.
#pragma once

#include <string>
#include <string_view>

#include "bench/quality.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace quantbench {

// As llama.cpp's perplexity: the text's tokens are cut into windows of so many that do not overlap, what is left at the
// end is dropped, and of each window the tokens behind its first half are scored, so that every one of them has at
// least half a window before it. Where the tokenizer begins a text with a token, each window's first is replaced by it.
constexpr int kQualityWindow = 512;

constexpr int64_t kMostTextBytes = int64_t{256} << 20;
// The built-in text is so much of the bundled model's validation text, up to the end of a line.
constexpr size_t kBuiltInTextBytes = size_t{128} << 10;
// Of random weights without a tokenizer:
constexpr int kSeededTexts = 8, kSeededTokens = 128;

struct TextSource {
  TextKind kind = TextKind::file;
  std::string name;
  std::string text;
};
// The file that --quality names. Error usage: it is not there; as text_for() else.
TextSource read_text(const std::string& path);
// Up to kBuiltInTextBytes of the file. Error disk.
TextSource read_built_in(const std::string& validation_text);
// Lines of source and target for models that read one and write the other; written for this program.
TextSource built_in_lines();

// What of it goes through a model of this shape, of the first `most` windows or lines (0: all). Error usage: not UTF-8,
// empty, shorter than a window; a line that has not source, tab and target, or more tokens than the model reads.
QualityText text_for(const TextSource& source, const Tokenizer& tokenizer, const Shape& shape, int most);
// Ids that mean nothing, of a model of random weights without a tokenizer.
QualityText seeded_text(const Shape& shape, uint64_t seed, int most);
// What FP16 says to a prompt with a picture, at most so many tokens.
QualityText own_answer(std::vector<int32_t> prompt, int answer_tokens, std::string name);

}  // namespace quantbench
