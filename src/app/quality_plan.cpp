#include "app/quality_plan.h"

#include <algorithm>

#include "app/bundled.h"
#include "app/flags.h"
#include "bench/quality_text.h"

namespace quantbench {
namespace {

constexpr int kAllWindows = 0;

int most_windows(const RunFlags& flags) {
  if (flags.quality_windows == "all") return kAllWindows;
  return parse_count("--quality-windows", flags.quality_windows, 1, kMostTokens);
}

}  // namespace

void check_quality(const RunFlags& flags) {
  most_windows(flags);
  if (flags.quality_reference != "none" && flags.quality_reference != "fp32") {
    fail(ErrorKind::usage, "--quality-reference: '{}' is not known; expected fp32 or none", flags.quality_reference);
  }
  if (!flags.quality.empty()) read_text(flags.quality);
}

QualityText plan_quality(const RunFlags& flags, const PlannedModel& model, std::span<const int32_t> prompt) {
  const Shape& shape = model.shape;
  const int most = most_windows(flags);
  if (shape.has_picture()) {
    if (!flags.quality.empty()) {
      fail(ErrorKind::usage,
           "--quality: {} reads no text but behind a picture, so its quality is measured on what FP16 answers to the "
           "prompt; leave FILE out",
           shape.architecture);
    }
    const int room = shape.max_positions - static_cast<int>(prompt.size());
    const int wanted = parse_count("--max-new-tokens", flags.max_new_tokens, 1, kMostTokens);
    return own_answer({prompt.begin(), prompt.end()}, std::clamp(wanted, 1, std::max(room, 1)),
                      "FP16's greedy answer to the picture");
  }
  std::shared_ptr<const Tokenizer> tokenizer = model.tokenizer;
  if (!tokenizer && model.source.random_weights) {
    if (flags.quality.empty()) return seeded_text(shape, parse_seed("--seed", flags.seed), most);
    fail(ErrorKind::usage,
         "--quality: random weights have no tokenizer to read '{}' with; give --tokenizer DIR, or leave FILE out for "
         "seeded ids",
         flags.quality);
  }
  if (!tokenizer) tokenizer = open_tokenizer(model.source.folder, shape, model.source.allow_symlinks);
  const TextSource text = !flags.quality.empty()        ? read_text(flags.quality)
                          : shape.has_cross_attention() ? built_in_lines()
                                                        : read_built_in(require_validation_text());
  return text_for(text, *tokenizer, shape, most);
}

}  // namespace quantbench
