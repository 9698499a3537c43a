#include "app/run_plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <utility>

#include "app/bundled.h"
#include "app/flags.h"
#include "app/hub_progress.h"
#include "app/quality_plan.h"
#include "bench/open_model.h"
#include "bench/statistics.h"
#include "core/os.h"
#include "hub/hub.h"
#include "image/image.h"
#include "model/config.h"

namespace quantbench {
namespace {

constexpr int kSeededPromptTokens = 8;  // of text, with random weights and no tokenizer

// Uses of the one seed, so that order, weights and ids are independent of each other.
constexpr uint64_t kPromptStream = 0x70726f6d7074, kContextStream = 0x636f6e74657874;

// stream: of the prompts or of the contexts; each sequence has numbers of its own, whatever stands beside it.
void add_seeded_ids(int count, int vocab, uint64_t seed, uint64_t stream, int sequence, std::vector<int32_t>* ids) {
  SeededNumbers numbers(derived_seed(seed, stream + static_cast<uint64_t>(sequence)));
  for (int i = 0; i < count; ++i) ids->push_back(static_cast<int32_t>(numbers.below(static_cast<uint64_t>(vocab))));
}

// What makes it shorter: the prompt alone, which is all that an encoder reads, or prompt and answer.
struct Advice {
  std::string prompt, all;
};

// The last new token is not fed back, so it needs no position.
void check_length(size_t depth, size_t prompt_tokens, int new_tokens, const Shape& shape, const Advice& advice) {
  if (shape.has_cross_attention()) {
    const auto most = static_cast<size_t>(shape.encoder->max_tokens);
    if (prompt_tokens > most) {
      fail(ErrorKind::usage,
           "{} prompt tokens are more than the {} that the encoder of this {} model was made for; {} (nothing is ever "
           "cut "
           "silently)",
           prompt_tokens, most, shape.architecture, advice.prompt);
    }
    prompt_tokens = 1;  // the decoder begins with one token of its own
  }
  if (depth + prompt_tokens + static_cast<size_t>(new_tokens) - 1 <= static_cast<size_t>(shape.max_positions)) return;
  fail(
      ErrorKind::usage,
      "{}{} prompt token{} and {} new one{}, all but the last of which are fed back, are more than the {} positions of "
      "this {} model; {} (nothing is ever cut silently)",
      depth > 0 ? fmt::format("{} token{} of context, ", depth, depth == 1 ? "" : "s") : "", prompt_tokens,
      prompt_tokens == 1 ? "" : "s", new_tokens, new_tokens == 1 ? "" : "s", shape.max_positions, shape.architecture,
      advice.all);
}

// A tokenizer's file and the folder that it is of; in a Hub cache the file is a blob elsewhere, without its name.
struct TokenizerFile {
  std::string path, folder;
  bool sentencepiece = false;
};

std::optional<TokenizerFile> find_tokenizer(const std::string& folder, bool allow_symlinks) {
  for (const char* name : {"tokenizer.json", "spiece.model", "tokenizer.model"}) {
    if (auto path = find_model_file(folder, name, allow_symlinks)) {
      return TokenizerFile{*path, folder, std::string_view(name).ends_with(".model")};
    }
  }
  return std::nullopt;
}

Tokenizer read_tokenizer(const TokenizerFile& file, bool allow_symlinks) {
  if (!file.sentencepiece) return Tokenizer::from_file(file.path);
  return Tokenizer::from_sentencepiece({file.path,
                                        find_model_file(file.folder, "tokenizer_config.json", allow_symlinks),
                                        find_model_file(file.folder, "added_tokens.json", allow_symlinks)});
}

const std::string kPictureToken = "<image>", kBeginOfText = "<bos>";  // as PaliGemma's tokenizers spell them

const Advice kShortenPrompt{"shorten the prompt", "shorten the prompt or lower --max-new-tokens"};

// Tokens that stand before every prompt of this model.
std::vector<int32_t> picture_ids(const Shape& shape) {
  if (!shape.has_picture()) return {};
  const Picture& picture = *shape.encoder->picture;
  return std::vector<int32_t>(static_cast<size_t>(picture.tokens()), picture.token);
}

struct Wanted {
  Test test;
  std::vector<int32_t> ids, context;  // [batch, prompt_tokens], [batch, depth]
  std::optional<std::string> text;
};

// Every value of a flag that may be repeated and whose values may be lists. 0 asks for none, as in llama-bench.
std::vector<int> counts_of(const std::string& flag, const std::vector<std::string>& values) {
  std::vector<int> counts;
  for (const std::string& value : values) {
    for (const int count : parse_counts(flag, value, 0, kMostTokens)) {
      if (count > 0) counts.push_back(count);
    }
  }
  return counts;
}

std::pair<int, int> parse_pair(const std::string& text) {
  const std::vector<int> pair = parse_counts("-pg", text, 1, kMostTokens);
  if (pair.size() != 2) {
    fail(ErrorKind::usage, "-pg: '{}' is not a pair; expected P,N such as 512,64 (repeat -pg for more)", text);
  }
  return {pair[0], pair[1]};
}

// Values that each make every test anew; without any, `usual` alone.
std::vector<int> variants_of(const std::string& flag, const std::vector<std::string>& values, int low, int high,
                             int usual) {
  std::vector<int> variants;
  for (const std::string& value : values) {
    for (const int variant : parse_counts(flag, value, low, high)) variants.push_back(variant);
  }
  if (variants.empty()) variants.push_back(usual);
  return variants;
}
constexpr int kMostSequences = 32;

constexpr int kPromptDecides = 0;  // prompt tokens of a test whose prompt is a text that is not encoded yet

// The tests that the flags ask for, before any model is known. llama-bench's habits: -p and -n make rows of their own,
// -pg and a plain prompt one generation. With random weights, -p alone is the length of the prompt. Each of them for
// each depth and batch.
std::vector<Test> requested_tests(const RunFlags& flags) {
  const int new_tokens = parse_count("--max-new-tokens", flags.max_new_tokens, 1, kMostTokens);
  const std::vector<int> prompts = counts_of("-p", flags.prompt_counts), news = counts_of("-n", flags.new_counts);
  const bool lengths_only = flags.random_weights && flags.new_counts.empty() && !flags.prompt_given;
  std::vector<Test> tests;
  for (const int p : prompts) {
    tests.push_back(lengths_only ? Test{TestKind::generation, p, new_tokens} : Test{TestKind::prefill, p, 1});
  }
  for (const int n : news) tests.push_back({TestKind::decode, 1, n});
  for (const std::string& pair : flags.pairs) {
    const auto [p, n] = parse_pair(pair);
    tests.push_back({TestKind::generation, p, n});
  }
  const bool counts_given = !flags.prompt_counts.empty() || !flags.new_counts.empty();
  if (tests.empty() && counts_given && !flags.prompt_given) {
    fail(ErrorKind::usage, "-p and -n: 0 asks for none, and nothing else is asked for; give a number above 0");
  }
  const bool from_prompt = tests.empty() || flags.prompt_given;
  if (from_prompt) {
    const bool seeded = flags.random_weights && flags.tokenizer.empty();
    tests.push_back({TestKind::generation, seeded ? kSeededPromptTokens : kPromptDecides, new_tokens});
  }
  const bool from_lengths = lengths_only && !prompts.empty();
  if (flags.max_new_tokens_given && !from_prompt && !from_lengths) {
    fail(ErrorKind::usage,
         "--max-new-tokens: the rows of -p, -n and -pg do not use it; -n N or -pg P,N say how many tokens to generate");
  }
  const std::vector<Test> kinds = std::exchange(tests, {});
  const std::vector<int> depths = variants_of("-d", flags.depths, 0, kMostTokens, 0),
                         batches = variants_of("-b", flags.batches, 1, kMostSequences, 1);
  for (Test test : kinds) {
    for (const int depth : depths) {
      for (const int batch : batches) {
        test.depth = depth;
        test.batch = batch;
        tests.push_back(test);
      }
    }
  }
  for (size_t i = 0; i < tests.size(); ++i) {
    const auto same = [&](const Test& other) { return other.name() == tests[i].name(); };
    if (std::any_of(tests.begin(), tests.begin() + static_cast<std::ptrdiff_t>(i), same)) {
      fail(ErrorKind::usage, "-p, -n, -pg, -d and -b: {} is asked for twice", tests[i].name());
    }
  }
  if (flags.stop_at_eos &&
      std::all_of(tests.begin(), tests.end(), [](const Test& test) { return test.kind == TestKind::prefill; })) {
    fail(ErrorKind::usage, "--stop-at-eos: a prefill (-p) generates nothing that could stop; leave the flag out");
  }
  if (flags.stop_at_eos && std::any_of(batches.begin(), batches.end(), [](int batch) { return batch > 1; })) {
    fail(ErrorKind::usage,
         "--stop-at-eos: the sequences of a batch would end at different steps; leave out -b or this");
  }
  if (flags.host_tokens && std::any_of(batches.begin(), batches.end(), [](int batch) { return batch > 1; })) {
    fail(ErrorKind::usage, "--host-tokens: tokens are looked at one sequence alone; leave out -b or this");
  }
  return tests;
}

// The same tests with the ids of this model.
std::vector<Wanted> wanted_tests(const RunFlags& flags, const PlannedModel& model, uint64_t seed) {
  const std::vector<int32_t> before = picture_ids(model.shape);
  const int pictured = static_cast<int>(before.size());
  // Text alone: no id that stands for a picture, nor one behind it.
  const int vocab = before.empty() ? model.shape.vocab : std::max(before.front(), 1);
  if (flags.prompt_given && !model.tokenizer) {
    fail(ErrorKind::usage,
         "--prompt: random weights have no tokenizer; give --tokenizer DIR, or -p for a number of "
         "seeded ids instead of a text");
  }
  std::vector<Wanted> tests;
  const bool seeded = flags.random_weights && flags.tokenizer.empty();
  for (Test test : requested_tests(flags)) {
    Wanted wanted;
    if (test.depth > 0 && model.shape.encoder) {
      fail(ErrorKind::usage, "-d: {} has no context before its prompt; leave the flag out", model.shape.architecture);
    }
    wanted.ids = before;
    // What -p counts is what the model reads, picture included; of the usual prompt and of one token each is text.
    const bool counts_text = test.kind == TestKind::decode || (seeded && test.prompt_tokens == kSeededPromptTokens);
    if (pictured > 0 && test.prompt_tokens != kPromptDecides) {
      if (counts_text) test.prompt_tokens += pictured;
      if (test.prompt_tokens <= pictured) {
        fail(ErrorKind::usage,
             "a prompt of {} tokens has no room for a picture, which is {} of them, and a token of text; give -p or "
             "-pg at "
             "least {}",
             test.prompt_tokens, pictured, pictured + 1);
      }
    }
    if (test.prompt_tokens == kPromptDecides) {
      wanted.text = prompt_of(flags, model.shape);
      wanted.ids = encode_prompt(*model.tokenizer, *wanted.text, model.shape, test.new_tokens);
      test.prompt_tokens = static_cast<int>(wanted.ids.size());
    } else if (test.kind == TestKind::decode && !model.shape.bos.empty()) {
      wanted.ids.push_back(model.shape.bos.front());
    } else {
      add_seeded_ids(test.prompt_tokens - pictured, vocab, seed, kPromptStream, 0, &wanted.ids);
    }
    Advice advice = test.kind == TestKind::prefill  ? Advice{"lower -p", "lower -p"}
                    : test.kind == TestKind::decode ? Advice{"lower -n", "lower -n"}
                    : wanted.text                   ? kShortenPrompt
                                                    : Advice{"lower -p or -pg", "lower -p, -pg or --max-new-tokens"};
    if (test.depth > 0) advice.all = fmt::format("lower -d, or {}", advice.all);
    check_length(static_cast<size_t>(test.depth), wanted.ids.size(), test.new_tokens, model.shape, advice);
    // The first sequence is what it would be alone; those beside it have seeded ids.
    for (int s = 1; s < test.batch; ++s) {
      wanted.ids.insert(wanted.ids.end(), before.begin(), before.end());
      add_seeded_ids(test.prompt_tokens - pictured, vocab, seed, kPromptStream, s, &wanted.ids);
    }
    for (int s = 0; s < test.batch; ++s) {
      add_seeded_ids(test.depth, vocab, seed, kContextStream, s, &wanted.context);
    }
    wanted.test = test;
    tests.push_back(std::move(wanted));
  }
  return tests;
}

std::vector<Precision> wanted_precisions(const RunFlags& flags, const ModelSource& source) {
  if (!flags.precisions.empty()) return parse_precisions(flags.precisions);
  if (stored_form(source) != Prequantized::none) return {stored_precision(source)};
  return {Precision::fp16, Precision::int8, Precision::nf4};
}

// Null where none is needed: with random weights, or where only seeded ids are asked for and the folder has none.
std::shared_ptr<const Tokenizer> tokenizer_of(const RunFlags& flags, const PlannedModel& model) {
  if (!flags.tokenizer.empty()) return open_tokenizer(flags.tokenizer, model.shape, flags.allow_symlinks);
  if (model.source.random_weights) return nullptr;
  const std::vector<Test> tests = requested_tests(flags);
  const bool ids_only =
      std::none_of(tests.begin(), tests.end(), [](const Test& test) { return test.prompt_tokens == kPromptDecides; });
  if (ids_only && !find_tokenizer(model.source.folder, flags.allow_symlinks)) return nullptr;
  return open_tokenizer(model.source.folder, model.shape, flags.allow_symlinks);
}

MeasureOptions measure_options(const RunFlags& flags) {
  MeasureOptions options;
  constexpr int kMostRuns = 100000;
  if (flags.runs != "auto") options.runs = parse_count("-r", flags.runs, 1, kMostRuns);
  for (const auto& [given, name] :
       {std::pair{flags.target_ci_given, "--target-ci"}, {flags.max_time_given, "--max-time"}}) {
    if (options.runs == 0 || !given) continue;
    fail(ErrorKind::usage, "{}: -r {} asks for exactly so many runs, whatever they take; leave one of the two out",
         name, options.runs);
  }
  options.target_ci = parse_share("--target-ci", flags.target_ci, 1e-4, 1);
  options.max_time_s = parse_number("--max-time", flags.max_time, 0.001, 1e7);
  options.seed = parse_seed("--seed", flags.seed);
  options.energy = flags.energy;
  options.explain = flags.explain;
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
  if (id.find(',') != std::string::npos && !os::is_directory(id)) {
    fail(ErrorKind::usage, "--model-id: '{}' names several models, and this command takes one; run takes several", id);
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
  ResolvedModel resolved;
  try {
    HubProgress progress;
    resolved = obtain_model(id, {.weights = !source.random_weights, .tokenizer = flags.tokenizer.empty()},
                            flags.offline   ? "--offline was given"
                            : flags.dry_run ? "--dry-run writes no file"
                                            : "",
                            progress);
  } catch (const Error& error) {
    if (!source.random_weights || error.kind() != ErrorKind::hub) throw;
    fail(ErrorKind::hub,
         "--random-weights: '{}' is neither a built-in configuration ({}) nor a folder with a config.json, nor to be "
         "had "
         "from the Hub: {}",
         id, fmt::join(built_in, ", "), error.what());
  }
  source.name = resolved.name;
  source.folder = resolved.folder;
  source.commit = resolved.commit;
  return source;
}

std::shared_ptr<const Tokenizer> open_tokenizer(const std::string& file_or_folder, const Shape& shape,
                                                bool allow_symlinks) {
  const std::string path = os::expand_home(file_or_folder);
  if (!os::exists(path)) {
    fail(ErrorKind::hub,
         "--tokenizer: there is no '{}'; give a tokenizer.json, a spiece.model or tokenizer.model, or a folder that "
         "has one",
         path);
  }
  const size_t slash = path.rfind('/');
  TokenizerFile file{path, slash == path.npos ? "." : path.substr(0, slash + 1), path.ends_with(".model")};
  if (os::is_directory(path)) {
    const auto found = find_tokenizer(path, allow_symlinks);
    if (!found) {
      fail(ErrorKind::bad_model,
           "'{}' has no tokenizer.json, spiece.model or tokenizer.model; save the tokenizer with transformers (a fast "
           "tokenizer), or give --tokenizer DIR",
           path);
    }
    file = *found;
  }
  auto tokenizer = std::make_shared<const Tokenizer>(read_tokenizer(file, allow_symlinks));
  if (tokenizer->size() > shape.vocab) {
    fail(ErrorKind::bad_model,
         "'{}' has {} token ids, the model's vocabulary {}; the tokenizer does not belong to this model: give the one "
         "that came with it",
         file.path, tokenizer->size(), shape.vocab);
  }
  if (shape.has_picture()) {
    const int32_t expected = shape.encoder->picture->token;
    const std::optional<int32_t> found = tokenizer->id_of(kPictureToken);
    if (found.value_or(expected) != expected) {
      fail(ErrorKind::bad_model,
           "'{}' has {} as id {}, and the model's config.json names id {} for it (image_token_index); the tokenizer "
           "does "
           "not belong to this model: give the one that came with it",
           file.path, kPictureToken, *found, expected);
    }
  }
  return tokenizer;
}

std::string picture_for(const std::string& path, const Shape& shape, std::string* warning) {
  if (!shape.has_picture()) {
    if (path.empty()) return {};
    fail(ErrorKind::usage, "--image-path: {} takes text only, no image; leave the flag out", shape.architecture);
  }
  if (path.empty()) return require_sample_picture();
  std::string file = os::expand_home(path);
  if (!os::exists(file) || os::is_directory(file)) {
    fail(ErrorKind::usage, "--image-path: there is no file '{}'; give a JPEG, PNG or WebP file", file);
  }
  // What is wrong with it is known before anything is measured.
  ThreadPool one(1);
  const Image image = load_image(file, shape.encoder->picture->size, one);
  if (warning) *warning = image.warning;
  return file;
}

std::string prompt_of(const RunFlags& flags, const Shape& shape) {
  return flags.prompt_given || !shape.has_picture() ? flags.prompt : "caption en";
}

namespace {

// What comes between a picture and a text.
int32_t begin_of_text(const Tokenizer& tokenizer, const Shape& shape) {
  if (const std::optional<int32_t> bos = tokenizer.id_of(kBeginOfText)) return *bos;
  if (!shape.bos.empty()) return shape.bos.front();
  fail(
      ErrorKind::bad_model,
      "--prompt: a text behind a picture begins with {}, and neither the tokenizer has that token nor does config.json "
      "name a bos_token_id; give the tokenizer that came with the model",
      kBeginOfText);
}

}  // namespace

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt, const Shape& shape,
                                   int new_tokens) {
  std::vector<int32_t> ids = picture_ids(shape);
  std::string_view behind_picture = prompt;
  if (!ids.empty() && prompt.starts_with(kPictureToken)) behind_picture.remove_prefix(kPictureToken.size());
  // A text behind a picture begins with <bos> and ends with a line of its own, as PaliGemma was trained. The file's
  // template does not count: transformers' processor writes both itself, and saves a tokenizer that adds nothing.
  const std::vector<int32_t> text =
      ids.empty() ? tokenizer.encode(prompt, true) : tokenizer.encode(std::string(behind_picture) + "\n", false);
  if (!ids.empty() && (behind_picture.find(kPictureToken) != behind_picture.npos ||  // also where it is no token there
                       std::find(text.begin(), text.end(), ids.front()) != text.end())) {
    fail(ErrorKind::usage,
         "--prompt: it has {0} (id {1}), which stands for a picture, behind its beginning, and there is one picture, "
         "which comes before the text; leave {0} out",
         kPictureToken, ids.front());
  }
  if (!ids.empty()) ids.push_back(begin_of_text(tokenizer, shape));
  ids.insert(ids.end(), text.begin(), text.end());
  if (ids.empty()) {
    fail(ErrorKind::usage,
         "--prompt: it is empty, and this model has no token to begin a text with; give a prompt of at least one "
         "character");
  }
  check_length(0, ids.size(), new_tokens, shape, kShortenPrompt);
  return ids;
}

namespace {

// Adds one model with its tests to the plan. A precision that the checkpoint is not stored in is refused alone.
void plan_model(const ModelSource& source, const RunFlags& flags, const EngineOptions& engine, RunPlan* plan) {
  PlannedModel model;
  model.source = source;
  const bool nf4_double_quantized = stored_form(model.source) != Prequantized::nf4_plain;
  std::vector<Precision> fine;
  std::vector<std::pair<Precision, Error>> refused;
  for (const Precision precision : wanted_precisions(flags, model.source)) {
    try {
      model.shape = open_model(model.source, precision).model->shape();
      fine.push_back(precision);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::usage) throw;
      refused.emplace_back(precision, error);
    }
  }
  if (fine.empty()) throw Error(refused.front().second);
  model.picture = picture_for(flags.image_path, model.shape, &model.picture_warning);
  model.tokenizer = tokenizer_of(flags, model);
  if (flags.stop_at_eos && model.shape.eos.empty()) {
    fail(ErrorKind::usage, "--stop-at-eos: {} names no end-of-sequence id", model.source.name);
  }
  model.identity = identify_model(model.source);
  std::vector<Wanted> all_wanted = wanted_tests(flags, model, plan->options.seed);
  if (flags.quality_given) {
    const Wanted& first = all_wanted.front();
    model.quality =
        plan_quality(flags, model, std::span(first.ids).first(static_cast<size_t>(first.test.prompt_tokens)));
  }
  for (Wanted& wanted : all_wanted) {
    PlannedGroup group;
    group.model = plan->models.size();
    group.prompt_text = wanted.text;
    const auto cell_of = [&](Precision precision) {
      Cell cell{model.source, precision, wanted.test, engine, wanted.ids, {}, wanted.context};
      if (flags.stop_at_eos) cell.stop_at = model.shape.eos;
      cell.host_tokens = flags.host_tokens;
      cell.nf4_double_quantized = nf4_double_quantized;
      cell.picture = model.picture;
      return cell;
    };
    for (const Precision precision : fine) {
      for (const char* const half : flags.aa ? std::vector{"A", "B"} : std::vector{""}) {
        group.cells.push_back(cell_of(precision));
        group.cells.back().half = half;
      }
    }
    for (const auto& [precision, error] : refused) group.refused.push_back({cell_of(precision), error});
    plan->groups.push_back(std::move(group));
  }
  plan->models.push_back(std::move(model));
}

// A model of which nothing can be measured: a row for each cell that was asked for.
void refuse_model(const std::string& id, const RunFlags& flags, const EngineOptions& engine, const Error& error,
                  RunPlan* plan) {
  PlannedModel model;
  model.source.name = id;
  model.source.random_weights = flags.random_weights;
  std::vector<Precision> precisions{Precision::fp16, Precision::int8, Precision::nf4};
  if (!flags.precisions.empty()) precisions = parse_precisions(flags.precisions);
  for (const Test& test : requested_tests(flags)) {
    PlannedGroup group;
    group.model = plan->models.size();
    for (const Precision precision : precisions) {
      group.refused.push_back({{model.source, precision, test, engine, {}, {}, {}}, error});
    }
    plan->groups.push_back(std::move(group));
  }
  plan->models.push_back(std::move(model));
}

}  // namespace

namespace {

// What an id of --model-id names, or why it names no model, which is said later, in its own rows.
struct FoundModel {
  std::string id;
  ModelSource source;
  std::optional<Error> error;
};

// That two name the same is a mistake in the command, so nothing is measured.
std::vector<FoundModel> find_models(const std::vector<std::string>& ids, const RunFlags& flags) {
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto end = ids.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::find(ids.begin(), end, ids[i]) != end) fail(ErrorKind::usage, "--model-id: {} is named twice", ids[i]);
  }
  std::vector<FoundModel> found;
  std::map<std::string, std::string> seen;  // a folder, or an id without one, and how it was named
  for (const std::string& id : ids) {
    found.push_back({.id = id});
    std::string place = id;
    try {
      const ModelSource source = find_model(id, flags);
      found.back().source = source;
      place = source.folder.empty() ? source.name : os::real_path(source.folder);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
      found.back().error = error;
    }
    const auto [known, is_new] = seen.emplace(place, id);
    if (is_new) continue;
    fail(ErrorKind::usage, "--model-id: {} is the same folder as {}; name it once", id, known->second);
  }
  return found;
}

std::vector<std::string> wanted_devices(const RunFlags& flags) {
  std::vector<std::string> devices = parse_list("--device", flags.device);
  for (size_t i = 0; i < devices.size(); ++i) {
    check_device_name(devices[i]);
    check_engine(flags.engine, devices[i]);
    if (std::find(devices.begin(), devices.begin() + static_cast<std::ptrdiff_t>(i), devices[i]) ==
        devices.begin() + static_cast<std::ptrdiff_t>(i)) {
      continue;
    }
    fail(ErrorKind::usage, "--device: {} is named twice", devices[i]);
  }
  return devices;
}

// What was planned for the first device, for each of the others; then every row has its number.
void repeat_for_devices(RunPlan* plan) {
  const std::vector<PlannedGroup> of_one = plan->groups;
  for (size_t d = 1; d < plan->devices.size(); ++d) {
    for (PlannedGroup group : of_one) {
      group.device = d;
      for (Cell& cell : group.cells) cell.engine.device = plan->devices[d];
      for (RefusedCell& refused : group.refused) refused.cell.engine.device = plan->devices[d];
      plan->groups.push_back(std::move(group));
    }
  }
  for (PlannedGroup& group : plan->groups) {
    group.first_row = plan->rows;
    plan->rows += group.refused.size() + group.cells.size();
  }
}

}  // namespace

RunPlan plan_run(const RunFlags& flags) {
  RunPlan plan;
  plan.options = measure_options(flags);
  check_quality(flags);
  if (flags.quality_given) plan.quality_reference = flags.quality_reference;
  plan.devices = wanted_devices(flags);
  const EngineOptions engine{plan.devices.front(), parse_threads(flags.threads), flags.engine};
  if (!flags.precisions.empty()) parse_precisions(flags.precisions);
  requested_tests(flags);
  std::vector<std::string> ids{""};
  if (os::is_directory(flags.model_ids)) {
    ids = {flags.model_ids};  // whose name may have commas
  } else if (!flags.model_ids.empty()) {
    ids = parse_list("--model-id", flags.model_ids);
  }
  std::optional<Error> first;
  size_t fine = 0;
  for (const FoundModel& found : find_models(ids, flags)) {
    try {
      if (found.error) throw Error(*found.error);
      plan_model(found.source, flags, engine, &plan);
      ++fine;
    } catch (const Error& error) {
      if (!first) first = error;
      refuse_model(found.id, flags, engine, error, &plan);
    }
  }
  if (fine == 0) throw Error(*first);
  repeat_for_devices(&plan);
  return plan;
}

}  // namespace quantbench
