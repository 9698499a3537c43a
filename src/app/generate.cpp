// `quantbench generate`: text from a model, as it comes.
#include "app/commands.h"
#include "app/flags.h"
#include "app/progress.h"
#include "app/run_plan.h"
#include "bench/open_model.h"
#include "core/os.h"
#include "engine/buffers.h"
#include "engine/choose_engine.h"
#include "engine/session.h"
#include "image/image.h"
#include "image/pixels.h"
#include "model/loader.h"
#include "model/registry.h"
#include "report/format.h"

namespace quantbench {
namespace {

struct GenerateFlags {
  RunFlags common;        // model, device, seed
  std::string precision;  // empty: as the checkpoint is stored, fp16 where it is not quantised
  std::string temperature = "0", top_k = "0", top_p = "1";
  bool ignore_eos = false;
};

Sampling parse_sampling(const GenerateFlags& flags) {
  const Sampling sampling{.temperature = static_cast<float>(parse_number("--temperature", flags.temperature, 0, 100)),
                          .seed = parse_seed("--seed", flags.common.seed),
                          .top_k = parse_count("--top-k", flags.top_k, 0, kMostTokens),
                          .top_p = parse_number("--top-p", flags.top_p, 0, 1)};
  if (sampling.temperature > 0) return sampling;
  for (const auto& [flag, is_given] : {std::pair{"--top-k", sampling.top_k > 0}, {"--top-p", sampling.top_p < 1}}) {
    if (!is_given) continue;
    fail(ErrorKind::usage,
         "{} chooses among several tokens, and --temperature 0 always takes the likeliest; give a "
         "--temperature above 0, or leave {} out",
         flag, flag);
  }
  return sampling;
}

// What was used, for the line behind the text.
std::string described(const Sampling& s) {
  if (s.temperature == 0) return "always the likeliest";
  std::string text = fmt::format("sampled at temperature {:g}", s.temperature);
  if (s.top_k > 0) text += fmt::format(", top-k {}", s.top_k);
  if (s.top_p < 1) text += fmt::format(", top-p {:g}", s.top_p);
  return text + fmt::format(", seed {}", s.seed);
}

int generate_text(const GenerateFlags& flags) {
  const RunFlags& common = flags.common;
  if (!flags.precision.empty()) parse_precision(flags.precision);
  check_device_name(common.device);
  check_engine(common.engine, common.device);
  const int new_tokens = parse_count("--max-new-tokens", common.max_new_tokens, 1, kMostTokens);
  const Sampling sampling = parse_sampling(flags);
  os::catch_stop_signals();

  const ModelSource source = find_model(common.model_ids, common);
  const Precision precision = flags.precision.empty() ? stored_precision(source) : parse_precision(flags.precision);
  std::unique_ptr<Backend> backend;  // before what holds its memory, so that it goes last
  OpenedModel opened = open_model(source, precision);
  const Shape& shape = opened.model->shape();
  const auto tokenizer =
      open_tokenizer(common.tokenizer.empty() ? source.folder : common.tokenizer, shape, common.allow_symlinks);
  const std::vector<int32_t> ids = encode_prompt(*tokenizer, prompt_of(common, shape), shape, new_tokens);

  const std::string picture = picture_for(common.image_path, shape);

  TerminalProgress progress;
  ChosenDevice chosen =
      choose_device(common.device, {.threads = parse_threads(common.threads), .engine = common.engine});
  if (!chosen.passed_over.empty()) {
    progress.line(fmt::format("generating on the CPU, not the GPU: {}", chosen.passed_over));
  }
  backend = std::move(chosen.backend);
  std::vector<float> patches;
  if (!picture.empty()) {
    const Picture& wanted = *shape.encoder->picture;
    const Image image = load_image(picture, wanted.size, backend->host_pool());
    if (!image.warning.empty()) progress.line(image.warning);
    patches.resize(static_cast<size_t>(wanted.tokens()) * static_cast<size_t>(wanted.values()));
    siglip_patches(image.pixels, wanted.patch, patches);
  }
  check_engine_acts(common.engine, backend->device(), chosen.passed_over);
  const StateShape state = session_shape(shape, 1, 0, static_cast<int>(ids.size()), new_tokens);
  Plan plan = backend->plan(decode_shapes(*opened.model), state.rows, encode_shapes(*opened.model, state.encoder_rows));
  const EngineCache cache;
  EngineChoice engine = choose_untested(&plan, common.engine, backend->device(), cache);
  require_memory(predict_memory(plan, *opened.model, state), backend->device());
  load(*opened.model, *opened.weights, *backend, plan, [&](int64_t done, int64_t total) {
    if (os::stop_requested()) fail(ErrorKind::interrupted, "interrupted while loading");
    progress.status(fmt::format("loading {}: {:.0f} %", source.name,
                                100.0 * static_cast<double>(done) / static_cast<double>(std::max<int64_t>(total, 1))));
  });
  opened.weights.reset();
  Session session(*backend, *opened.model, state, engine.engine);
  if (engine.engine.empty()) engine = choose_by_test(session, plan, backend->device(), cache);
  progress.clear();
  if (engine.by == ChosenBy::failure) {
    progress.line(fmt::format("on the {} engine, since the other failed: {}", engine.engine, engine.failure));
  }

  StreamDecoder decoder(*tokenizer);
  GenerateOptions options;
  options.max_new_tokens = new_tokens;
  options.sampling = sampling;
  if (!flags.ignore_eos) options.stop_at = shape.eos;
  options.on_token = [&](int32_t token) {
    if (os::stop_requested()) fail(ErrorKind::interrupted, "interrupted while generating");
    os::write_output(printable(decoder.push(token)));
  };
  Run run;
  try {
    run = session.generate({ids, patches}, options);
  } catch (const Error&) {
    os::write_output("\n");  // so that the reason starts a line of its own
    throw;
  }
  os::write_output(printable(decoder.finish()) + "\n");
  if (!run.finite) {
    fail(ErrorKind::bad_model, "{}: the model gave logits that are not finite; the text means nothing", source.name);
  }
  progress.line(fmt::format("{} prompt tokens, {} new ones in {}, {}", run.prompt_tokens, run.tokens.size(),
                            format_ns(static_cast<double>(run.total_ns)), described(sampling)));
  return 0;
}

}  // namespace

void add_generate(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand("generate", "write text with a model, as it comes");
  auto flags = std::make_shared<GenerateFlags>();
  RunFlags& common = flags->common;
  const auto text = [&](const char* name, std::string* into, const char* help, const char* type) {
    return command->add_option(name, *into, help)->type_name(type);
  };
  text("--model-id", &common.model_ids,
       "folder, or name on the Hugging Face Hub: from the cache, else downloaded (default: the bundled model)",
       "ID|DIR");
  command->add_flag("--offline", common.offline, kOfflineHelp);
  text("--precision", &flags->precision, "fp16, bf16, int8 or 4bit; default: as stored, else fp16", "P");
  CLI::Option* prompt =
      text("--prompt", &common.prompt, "what to go on from; behind a picture by default: caption en", "TEXT")
          ->default_str(common.prompt);
  text("--image-path", &common.image_path,
       "a JPEG, PNG or WebP file, for a model that takes pictures (default: the sample picture)", "FILE");
  text("--max-new-tokens", &common.max_new_tokens, "the most tokens to generate", "N")->default_str("64");
  text("--temperature", &flags->temperature, "0: always the likeliest token; else sampled, the same for a seed", "T")
      ->default_str("0");
  text("--top-k", &flags->top_k, "sample from the K likeliest tokens, and those that tie with the last; 0: from all",
       "K")
      ->default_str("0");
  text("--top-p", &flags->top_p,
       "sample from the likeliest tokens that together have this probability, after --temperature and --top-k; 1: from "
       "all",
       "P")
      ->default_str("1");
  text("--seed", &common.seed, "of the sampling", "N")->default_str("42");
  CLI::Option* ignore_eos = command->add_flag("--ignore-eos", flags->ignore_eos, "go on at end-of-sequence");
  command->add_flag("--stop-at-eos", common.stop_at_eos, "end there: the default")->excludes(ignore_eos);
  text("--tokenizer", &common.tokenizer, "folder, or file, of the tokenizer to use instead of the model's own", "DIR");
  text("--device", &common.device, kDeviceHelp, "NAME")->default_str("auto");
  text("--engine", &common.engine, kEngineHelp, "NAME")->default_str("auto");
  text("--threads", &common.threads, "threads; 0: one per physical core", "N")->default_str("0");
  command->add_flag("--allow-nonfinite", common.allow_nonfinite,
                    "accept NaN, infinity and values beyond fp16 in weights");
  command->add_flag("--allow-symlinks", common.allow_symlinks, "follow links that leave the model's folder");
  command->callback([flags, prompt, action, command] {
    refuse_empty_values(*command, "--prompt");
    flags->common.prompt_given = prompt->count() > 0;
    *action = [flags] { return generate_text(*flags); };
  });
}

}  // namespace quantbench
