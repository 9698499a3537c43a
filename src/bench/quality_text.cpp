#include "bench/quality_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "bench/identity.h"
#include "bench/statistics.h"
#include "core/os.h"
#include "text/utf8.h"

namespace quantbench {
namespace {

constexpr uint64_t kQualityStream = 0x7175616c697479;  // of the one seed

// Short sentences of the kinds that T5 was taught, in the form of its prompts.
constexpr const char* kLines =
    "translate English to German: The weather is fine today, and we are going to the lake.\t"
    "Das Wetter ist heute schön, und wir gehen an den See.\n"
    "translate English to German: How much does this book cost?\tWie viel kostet dieses Buch?\n"
    "translate English to German: My sister lives in a small house near the church.\t"
    "Meine Schwester wohnt in einem kleinen Haus in der Nähe der Kirche.\n"
    "translate English to French: Where is the nearest railway station, please?\t"
    "Où est la gare la plus proche, s'il vous plaît ?\n"
    "translate English to French: The children are playing in the garden behind the school.\t"
    "Les enfants jouent dans le jardin derrière l'école.\n"
    "translate English to French: I have lost my key and cannot open the door.\t"
    "J'ai perdu ma clé et je ne peux pas ouvrir la porte.\n"
    "Answer the question: What is the capital of Italy?\tRome\n"
    "Answer the question: How many legs does a spider have?\teight\n"
    "Is this review positive or negative? Review: The film was far too long, and nobody in it could act.\tnegative\n"
    "Is this review positive or negative? Review: A warm and funny book that I could not put down.\tpositive\n"
    "Write the sentence in the past tense: She writes a letter to her brother every week.\t"
    "She wrote a letter to her brother every week.\n"
    "summarize: The old bridge over the river was closed on Monday after workers found cracks in two of its pillars. "
    "Drivers must take the road through the village until repairs are finished in spring.\t"
    "The old bridge is closed until spring because two of its pillars are cracked.\n";

QualityText about(const TextSource& source) {
  QualityText text;
  text.kind = source.kind;
  text.name = source.name;
  text.bytes = static_cast<int64_t>(source.text.size());
  text.sha256 = sha256_hex(source.text);
  return text;
}

// The token that the tokenizer itself begins a text with, where the model's configuration names it as such.
bool begins_with_bos(const Tokenizer& tokenizer, const Shape& shape) {
  const std::vector<int32_t> around = tokenizer.encode("", true);
  return !around.empty() && !shape.bos.empty() && around.front() == shape.bos.front();
}

size_t at_most(size_t count, int most) { return most > 0 ? std::min(count, static_cast<size_t>(most)) : count; }

// Of a window the rows from its half on, each for the token behind it.
ForcedText scored_half(std::vector<int32_t> ids) {
  ForcedText text;
  text.first_row = static_cast<int>(ids.size()) / 2;
  text.targets.assign(ids.begin() + text.first_row + 1, ids.end());
  text.ids = std::move(ids);
  return text;
}

QualityText windows_of(const TextSource& source, const Tokenizer& tokenizer, const Shape& shape, int most) {
  QualityText text = about(source);
  const std::vector<int32_t> ids = tokenizer.encode(source.text, true);
  text.tokens = static_cast<int64_t>(ids.size());
  text.window = std::min(kQualityWindow, shape.max_positions);
  text.begins_with_bos = begins_with_bos(tokenizer, shape);
  const auto window = static_cast<size_t>(text.window);
  if (ids.size() < window) {
    fail(ErrorKind::usage,
         "--quality: {} makes {} tokens, fewer than one window of {}, and quality is measured on whole windows; give a "
         "longer text",
         source.name, ids.size(), window);
  }
  const size_t count = at_most(ids.size() / window, most);
  for (size_t i = 0; i < count; ++i) {
    const auto first = ids.begin() + static_cast<std::ptrdiff_t>(i * window);
    std::vector<int32_t> cut(first, first + text.window);
    if (text.begins_with_bos) cut.front() = shape.bos.front();
    text.texts.push_back(scored_half(std::move(cut)));
  }
  return text;
}

void check_length(const std::string& name, size_t line, const char* part, size_t tokens, int most) {
  if (tokens >= 1 && tokens <= static_cast<size_t>(most)) return;
  fail(ErrorKind::usage,
       "--quality: line {} of {} has a {} of {} tokens, expected 1 to {} (nothing is ever cut silently); shorten it or "
       "leave the line out",
       line, name, part, tokens, most);
}

QualityText lines_of(const TextSource& source, const Tokenizer& tokenizer, const Shape& shape, int most) {
  QualityText text = about(source);
  const std::string_view all = source.text;
  size_t number = 0;
  for (size_t at = 0; at < all.size();) {
    const size_t end = std::min(all.find('\n', at), all.size());
    std::string_view line = all.substr(at, end - at);
    at = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const size_t tab = line.find('\t');
    if (tab == line.npos || tab == 0 || tab + 1 == line.size() || line.find('\t', tab + 1) != line.npos) {
      fail(ErrorKind::usage,
           "--quality: line {} of {} is not a source, one tab and a target, which is what {} reads and writes; write "
           "each line as source<TAB>target",
           number, source.name, shape.architecture);
    }
    if (most > 0 && text.texts.size() == static_cast<size_t>(most)) continue;  // looked at, not read
    ForcedText forced;
    forced.prompt = tokenizer.encode(line.substr(0, tab), true);
    forced.targets = tokenizer.encode(line.substr(tab + 1), true);
    check_length(source.name, number, "source", forced.prompt.size(), shape.encoder->max_tokens);
    check_length(source.name, number, "target", forced.targets.size(), shape.max_positions);
    forced.ids = {shape.decoder_start};
    forced.ids.insert(forced.ids.end(), forced.targets.begin(), forced.targets.end() - 1);
    text.tokens += static_cast<int64_t>(forced.prompt.size() + forced.targets.size());
    text.texts.push_back(std::move(forced));
  }
  if (text.texts.empty()) {
    fail(ErrorKind::usage, "--quality: {} has no line; write at least one as source<TAB>target", source.name);
  }
  return text;
}

}  // namespace

TextSource read_text(const std::string& path) {
  const std::string file = os::expand_home(path);
  if (!os::exists(file) || os::is_directory(file)) {
    fail(ErrorKind::usage,
         "--quality: there is no file '{}'; give a text in UTF-8, or leave the file out for the built-in text", path);
  }
  return {TextKind::file, fmt::format("'{}'", path), os::read_file(file, kMostTextBytes)};
}

TextSource read_built_in(const std::string& validation_text) {
  std::string text = os::read_file(validation_text, kMostTextBytes);
  if (text.size() >= kBuiltInTextBytes) text.resize(text.rfind('\n', kBuiltInTextBytes - 1) + 1);
  return {TextKind::built_in, "the bundled model's validation text", std::move(text)};
}

TextSource built_in_lines() { return {TextKind::built_in, "the built-in lines of source and target", kLines}; }

QualityText text_for(const TextSource& source, const Tokenizer& tokenizer, const Shape& shape, int most) {
  if (source.text.empty()) {
    fail(ErrorKind::usage, "--quality: {} is empty; give a text of at least one window of {} tokens", source.name,
         kQualityWindow);
  }
  if (const auto bad = utf8::first_invalid(source.text)) {
    fail(ErrorKind::usage, "--quality: {} is not UTF-8: byte {} belongs to no character; convert it (iconv -t UTF-8)",
         source.name, *bad);
  }
  return shape.has_cross_attention() ? lines_of(source, tokenizer, shape, most)
                                     : windows_of(source, tokenizer, shape, most);
}

QualityText seeded_text(const Shape& shape, uint64_t seed, int most) {
  QualityText text;
  text.kind = TextKind::seeded_ids;
  text.name = "seeded ids";
  const bool has_lines = shape.has_cross_attention();
  const int length = std::min(
      kSeededTokens, has_lines ? std::min(shape.encoder->max_tokens, shape.max_positions) : shape.max_positions);
  if (!has_lines) text.window = length;
  std::vector<int32_t> all;
  for (size_t i = 0; i < at_most(kSeededTexts, most); ++i) {
    SeededNumbers numbers(derived_seed(seed, kQualityStream + i));
    const auto draw = [&] {
      std::vector<int32_t> ids(static_cast<size_t>(length));
      for (int32_t& id : ids) id = static_cast<int32_t>(numbers.below(static_cast<uint64_t>(shape.vocab)));
      all.insert(all.end(), ids.begin(), ids.end());
      return ids;
    };
    if (has_lines) {
      ForcedText forced;
      forced.prompt = draw();
      forced.targets = draw();
      forced.ids = {shape.decoder_start};
      forced.ids.insert(forced.ids.end(), forced.targets.begin(), forced.targets.end() - 1);
      text.texts.push_back(std::move(forced));
    } else {
      text.texts.push_back(scored_half(draw()));
    }
  }
  text.tokens = static_cast<int64_t>(all.size());
  text.sha256 = hash_of(all);
  return text;
}

QualityText own_answer(std::vector<int32_t> prompt, int answer_tokens, std::string name) {
  QualityText text;
  text.kind = TextKind::own_answer;
  text.name = std::move(name);
  text.sha256 = hash_of(prompt);
  text.answer_tokens = answer_tokens;
  text.texts.push_back({.prompt = std::move(prompt)});
  return text;
}

}  // namespace quantbench
