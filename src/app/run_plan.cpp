#include "app/run_plan.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "app/bundled.h"
#include "app/flags.h"
#include "bench/open_model.h"
#include "bench/statistics.h"
#include "core/os.h"
#include "hub/hub.h"
#include "model/config.h"

namespace quantbench {
namespace {

constexpr int kSeededPromptTokens = 8;  // with random weights and no tokenizer

// Uses of the one seed, so that order, weights and ids are independent of each other.
constexpr uint64_t kPromptStream = 0x70726f6d7074;

std::vector<int32_t> seeded_ids(int count, int vocab, uint64_t seed) {
  SeededNumbers numbers(derived_seed(seed, kPromptStream));
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(numbers.below(static_cast<uint64_t>(vocab))));
  return ids;
}

void check_length(size_t prompt_tokens, int new_tokens, const Shape& shape) {
  if (prompt_tokens + static_cast<size_t>(new_tokens) <= static_cast<size_t>(shape.max_positions)) return;
  fail(ErrorKind::usage,
       "{} prompt tokens and {} new ones are more than the {} positions of this {} model; shorten the prompt (it is "
       "never cut silently) or lower --max-new-tokens",
       prompt_tokens, new_tokens, shape.max_positions, shape.architecture);
}

struct Wanted {
  Test test;
  std::vector<int32_t> ids;
  std::optional<std::string> text;
};

std::pair<int, int> parse_pair(const std::string& text) {
  const std::vector<int> pair = parse_counts("-pg", text, 1, kMostTokens);
  if (pair.size() != 2) fail(ErrorKind::usage, "-pg: '{}' is not a pair; expected P,N such as 512,64", text);
  return {pair[0], pair[1]};
}

// llama-bench's habits: -p and -n make rows of their own, -pg and a plain prompt one generation. With random weights
// and no text, -p alone is the length of the prompt.
std::vector<Wanted> wanted_tests(const RunFlags& flags, const PlannedModel& model, uint64_t seed) {
  const int vocab = model.shape.vocab;
  const int new_tokens = parse_count("--max-new-tokens", flags.max_new_tokens, 1, kMostTokens);
  const bool prompt_is_seeded = !model.tokenizer;
  if (flags.prompt_given && prompt_is_seeded) {
    fail(ErrorKind::usage,
         "--prompt: random weights have no tokenizer; give --tokenizer DIR, or -p for a number of "
         "seeded ids instead of a text");
  }
  std::vector<Wanted> tests;
  const auto add = [&](TestKind kind, int p, int n, std::vector<int32_t> ids, std::optional<std::string> text) {
    check_length(static_cast<size_t>(p), n, model.shape);
    tests.push_back({{kind, p, n}, std::move(ids), std::move(text)});
  };
  const std::vector<int> prompts =
      flags.prompt_counts.empty() ? std::vector<int>{} : parse_counts("-p", flags.prompt_counts, 1, kMostTokens);
  const std::vector<int> news =
      flags.new_counts.empty() ? std::vector<int>{} : parse_counts("-n", flags.new_counts, 1, kMostTokens);
  const bool lengths_only = prompt_is_seeded && !prompts.empty() && news.empty();
  for (int p : prompts) {
    if (lengths_only)
      add(TestKind::generation, p, new_tokens, seeded_ids(p, vocab, seed), std::nullopt);
    else
      add(TestKind::prefill, p, 1, seeded_ids(p, vocab, seed), std::nullopt);
  }
  for (int n : news) {
    std::vector<int32_t> first = seeded_ids(1, vocab, seed);
    if (!model.shape.bos.empty()) first = {model.shape.bos.front()};
    add(TestKind::decode, 1, n, std::move(first), std::nullopt);
  }
  if (!flags.pairs.empty()) {
    const auto [p, n] = parse_pair(flags.pairs);
    add(TestKind::generation, p, n, seeded_ids(p, vocab, seed), std::nullopt);
  }
  if (!tests.empty() && !flags.prompt_given) return tests;
  if (prompt_is_seeded) {
    add(TestKind::generation, kSeededPromptTokens, new_tokens, seeded_ids(kSeededPromptTokens, vocab, seed),
        std::nullopt);
  } else {
    std::vector<int32_t> ids = encode_prompt(*model.tokenizer, flags.prompt, model.shape, new_tokens);
    const int count = static_cast<int>(ids.size());
    add(TestKind::generation, count, new_tokens, std::move(ids), flags.prompt);
  }
  return tests;
}

std::vector<Precision> wanted_precisions(const RunFlags& flags, const ModelSource& source) {
  if (!flags.precisions.empty()) return parse_precisions(flags.precisions);
  switch (stored_form(source)) {
    case Prequantized::none: break;
    case Prequantized::int8: return {Precision::int8};
    case Prequantized::nf4_nested:
    case Prequantized::nf4_plain: return {Precision::nf4};
  }
  return {Precision::fp16, Precision::int8, Precision::nf4};
}

// Null where none is needed: with random weights, or where only seeded ids are asked for and the folder has none.
std::shared_ptr<const Tokenizer> tokenizer_of(const RunFlags& flags, const PlannedModel& model) {
  if (!flags.tokenizer.empty()) return open_tokenizer(flags.tokenizer, model.shape, flags.allow_symlinks);
  if (model.source.random_weights) return nullptr;
  const bool ids_only =
      !flags.prompt_given && !(flags.prompt_counts.empty() && flags.new_counts.empty() && flags.pairs.empty());
  if (ids_only && !find_model_file(model.source.folder, "tokenizer.json", flags.allow_symlinks)) return nullptr;
  return open_tokenizer(model.source.folder, model.shape, flags.allow_symlinks);
}

void refuse_image(const std::string& path, const Shape& shape) {
  if (path.empty()) return;
  fail(ErrorKind::usage, "--image-path: {} takes text only, no image; leave the flag out", shape.architecture);
}

void check_device(const std::string& name) {
  const std::vector<std::string> names = backend_names();
  if (name == "auto" || std::find(names.begin(), names.end(), name) != names.end()) return;
  fail(ErrorKind::usage, "--device: there is no backend '{}'; expected auto or one of {}", name,
       fmt::join(names, ", "));
}

MeasureOptions measure_options(const RunFlags& flags) {
  MeasureOptions options;
  constexpr int kMostRuns = 100000;
  if (flags.runs != "auto") options.runs = parse_count("-r", flags.runs, 1, kMostRuns);
  options.target_ci = parse_share("--target-ci", flags.target_ci, 1e-4, 1);
  options.max_time_s = parse_number("--max-time", flags.max_time, 0.001, 1e7);
  options.seed = parse_seed("--seed", flags.seed);
  return options;
}

}  // namespace

ModelSource find_model(const std::string& id, const RunFlags& flags) {
  ModelSource source;
  source.random_weights = flags.random_weights;
  source.weight_seed = parse_seed("--seed", flags.seed);
  source.outlier_channels = parse_count("--outlier-channels", flags.outlier_channels, 0, kMostTokens);
  source.allow_nonfinite = flags.allow_nonfinite;
  source.allow_symlinks = flags.allow_symlinks;
  if (source.outlier_channels > 0 && !source.random_weights) {
    fail(ErrorKind::usage, "--outlier-channels plants channels in random weights; it needs --random-weights");
  }
  const bool is_bundled = id.empty() || (id == kBundledName && !os::is_directory(id));
  if (is_bundled) {
    source.name = kBundledName;
    source.folder = require_bundled();
    return source;
  }
  const std::vector<std::string> built_in = published_ids();
  if (source.random_weights && !os::is_directory(id) &&
      std::find(built_in.begin(), built_in.end(), id) != built_in.end()) {
    source.name = id;
    return source;
  }
  const ResolvedModel resolved = resolve_model(id);
  source.name = resolved.name;
  source.folder = resolved.folder;
  return source;
}

std::shared_ptr<const Tokenizer> open_tokenizer(const std::string& file_or_folder, const Shape& shape,
                                                bool allow_symlinks) {
  std::string path = file_or_folder;
  if (os::is_directory(path)) {
    const auto found = find_model_file(path, "tokenizer.json", allow_symlinks);
    if (!found) {
      fail(ErrorKind::bad_model,
           "'{}' has no tokenizer.json; save the tokenizer with transformers (a fast tokenizer), or give --tokenizer "
           "DIR",
           path);
    }
    path = *found;
  }
  auto tokenizer = std::make_shared<const Tokenizer>(Tokenizer::from_file(path));
  if (tokenizer->size() > shape.vocab) {
    fail(ErrorKind::bad_model,
         "'{}' has {} token ids, the model's vocabulary {}; the tokenizer does not belong to this model", path,
         tokenizer->size(), shape.vocab);
  }
  return tokenizer;
}

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt, const Shape& shape,
                                   int new_tokens) {
  std::vector<int32_t> ids = tokenizer.encode(prompt, true);
  if (ids.empty()) {
    fail(ErrorKind::usage,
         "--prompt: it is empty, and this model has no token to begin a text with; give a prompt of at least one "
         "character");
  }
  check_length(ids.size(), new_tokens, shape);
  return ids;
}

RunPlan plan_run(const RunFlags& flags) {
  RunPlan plan;
  plan.options = measure_options(flags);
  check_device(flags.device);
  EngineOptions engine{flags.device, parse_count("--threads", flags.threads, 0, 4096)};
  std::vector<std::string> ids{""};
  if (!flags.model_ids.empty()) ids = parse_list("--model-id", flags.model_ids);
  for (const std::string& id : ids) {
    PlannedModel model;
    model.source = find_model(id, flags);
    const std::vector<Precision> precisions = wanted_precisions(flags, model.source);
    model.shape = open_model(model.source, precisions.front()).model->shape();
    refuse_image(flags.image_path, model.shape);
    model.tokenizer = tokenizer_of(flags, model);
    if (flags.stop_at_eos && model.shape.eos.empty()) {
      fail(ErrorKind::usage, "--stop-at-eos: {} names no end-of-sequence id", model.source.name);
    }
    model.identity = identify_model(model.source.folder);
    if (model.source.random_weights) model.identity.files.clear();
    for (Wanted& wanted : wanted_tests(flags, model, plan.options.seed)) {
      PlannedGroup group;
      group.model = plan.models.size();
      group.prompt_text = wanted.text;
      for (Precision precision : precisions) {
        Cell cell{model.source, precision, wanted.test, engine, wanted.ids, {}};
        if (flags.stop_at_eos) cell.stop_at = model.shape.eos;
        group.cells.push_back(std::move(cell));
      }
      plan.groups.push_back(std::move(group));
    }
    plan.models.push_back(std::move(model));
  }
  return plan;
}

}  // namespace quantbench
