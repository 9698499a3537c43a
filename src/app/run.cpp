// `quantbench run`: its flags.
#include <fmt/ranges.h>

#include "app/commands.h"
#include "app/flags.h"
#include "app/sweep.h"
#include "model/config.h"

namespace quantbench {

void add_run(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand("run", "measure a model in several precisions and print a table");
  auto flags = std::make_shared<RunFlags>();
  auto output = std::make_shared<std::string>("table");
  auto schema = std::make_shared<std::string>();
  const auto text = [&](const char* name, std::string* into, const std::string& help, const char* type) {
    return command->add_option(name, *into, help)->type_name(type)->group("");
  };
  const auto grouped = [](CLI::Option* option, const char* group) { return option->group(group); };

  const char* kWhat = "What to measure";
  grouped(
      text("--model-id", &flags->model_ids,
           "folder, or name on the Hugging Face Hub (org/name[@revision]): from the cache, else downloaded; several by "
           "commas (default: the bundled model)",
           "ID|DIR[,...]"),
      kWhat);
  grouped(command->add_flag("--offline", flags->offline, kOfflineHelp), kWhat);
  grouped(
      text("--precision", &flags->precisions,
           "fp16, int8 (LLM.int8, threshold 6.0), 4bit (NF4, also: nf4), bf16 (a baseline); default: fp16, int8 and "
           "4bit",
           "P[,...]"),
      kWhat);
  CLI::Option* prompt = grouped(
      text("--prompt", &flags->prompt, "prompt of a generation; behind a picture by default: caption en", "TEXT"),
      kWhat);
  prompt->default_str(flags->prompt);
  CLI::Option* new_tokens = grouped(
      text("--max-new-tokens", &flags->max_new_tokens, "tokens to generate after the prompt, exactly", "N"), kWhat);
  new_tokens->default_str("64");
  const auto list = [&](const char* name, std::vector<std::string>* into, const char* help, const char* type) {
    command->add_option(name, *into, help)->type_name(type)->group(kWhat)->allow_extra_args(false)->take_all();
  };
  list("-p", &flags->prompt_counts,
       "measure prefill of N seeded ids, a row each (pp512); with random weights, no -n and no --prompt: the length of "
       "the prompt",
       "N[,...]");
  list("-n", &flags->new_counts, "measure generating N tokens from one, a row each (tg64)", "N[,...]");
  list("--pg", &flags->pairs, "one generation of N tokens after P seeded ids; also spelt -pg; may be repeated", "P,N");
  list("-d", &flags->depths,
       "tokens that are in the context before each of these, not timed: a row each (tg64 @ d512); default: 0",
       "N[,...]");
  list("-b", &flags->batches,
       "sequences side by side, 1 to 32, a row each (tg64 b8): a step makes a token of each, and t/s counts all "
       "(llama-batched-bench's -npl, not llama-bench's -b); default: 1",
       "N[,...]");
  grouped(
      command->add_flag(
          "--random-weights", flags->random_weights,
          fmt::format("seeded weights instead of a checkpoint; the shapes of a folder's config.json or of a built-in "
                      "configuration ({})",
                      fmt::join(published_ids(), ", "))),
      kWhat);
  grouped(text("--outlier-channels", &flags->outlier_channels,
               "plant N channels that take LLM.int8's outlier path (random "
               "weights only)",
               "N"),
          kWhat);
  grouped(text("--tokenizer", &flags->tokenizer, "folder, or file, of the tokenizer to use instead of the model's own",
               "DIR"),
          kWhat);
  grouped(text("--image-path", &flags->image_path, "image of a prompt; only for models that take one", "FILE"), kWhat);
  grouped(command->add_flag("--stop-at-eos", flags->stop_at_eos,
                            "end at end-of-sequence; throughput is then marked as "
                            "not comparable"),
          kWhat);
  grouped(command->add_flag("--allow-nonfinite", flags->allow_nonfinite,
                            "accept NaN, infinity and values beyond fp16 in "
                            "weights; the record is marked"),
          kWhat);
  grouped(command->add_flag("--allow-symlinks", flags->allow_symlinks, "follow links that leave the model's folder"),
          kWhat);

  const char* kHow = "How to measure";
  grouped(text("--device", &flags->device,
               fmt::format("{}; of several, by commas, each measures every cell", kDeviceHelp), "NAME[,...]"),
          kHow)
      ->default_str("auto");
  grouped(text("--engine", &flags->engine, kEngineHelp, "NAME"), kHow)->default_str("auto");
  grouped(text("--threads", &flags->threads, "threads; 0: one per physical core", "N"), kHow)->default_str("0");
  grouped(text("-r", &flags->runs, "timed runs a cell; auto: 10 to 30, until the interval is narrow enough", "auto|N"),
          kHow)
      ->default_str("auto");
  CLI::Option* target_ci = grouped(
      text("--target-ci", &flags->target_ci, "half-width of the 95 % interval of the median at which to stop", "SHARE"),
      kHow);
  target_ci->default_str("1%");
  CLI::Option* max_time = grouped(text("--max-time", &flags->max_time,
                                       "begin no further run of a cell after so many seconds of generating, warm-up "
                                       "included; one timed run is always made",
                                       "S"),
                                  kHow);
  max_time->default_str("120");
  grouped(command->add_flag("--aa", flags->aa,
                            "measure each cell twice, as if it were two, and print how far apart the two come out: the "
                            "noise floor of this machine"),
          kHow);
  grouped(command->add_flag("--energy", flags->energy,
                            "measure joules per token: some seconds of the idle device first, and after the timed runs "
                            "at least 5 s more of each cell"),
          kHow);
  grouped(command->add_flag("--explain", flags->explain,
                            "take a decode step of each cell apart when the timed runs are over (about a second), and "
                            "print in words why it is as fast as it is"),
          kHow);
  grouped(
      command->add_flag("--host-tokens", flags->host_tokens,
                        "look at each token as it comes, and tell the times between them as the host sees them as "
                        "well; without, a GPU makes all tokens and the host waits for the last. One sequence (-b 1)"),
      kHow);
  grouped(
      text("--cell-timeout", &flags->cell_timeout, "end a worker process that says nothing for so many seconds", "S"),
      kHow)
      ->default_str("900");
  grouped(text("--seed", &flags->seed, "of the order of runs, random weights and seeded ids", "N"), kHow)
      ->default_str("42");

  const char* kQuality = "Quality";
  CLI::Option* quality = grouped(
      text("--quality", &flags->quality,
           "after timing, read FILE (UTF-8; T5: lines of source<TAB>target) in every precision and compare with fp16; "
           "without FILE a built-in text",
           "[FILE]"),
      kQuality);
  quality->expected(0, 1);
  CLI::Option* quality_windows = grouped(text("--quality-windows", &flags->quality_windows,
                                              "windows of 512 tokens (T5: lines) to read at the most", "N|all"),
                                         kQuality)
                                     ->default_str("all");
  CLI::Option* quality_reference =
      grouped(text("--quality-reference", &flags->quality_reference,
                   "fp32: compare fp16 as well, with fp32 arithmetic on the CPU", "fp32|none"),
              kQuality)
          ->default_str("none");
  for (CLI::Option* option : {quality_windows, quality_reference}) option->needs(quality);

  const char* kOut = "Output";
  grouped(text("--out", &flags->out, "folder of the records (default: ./quantbench-results/<utc>-<model>)", "DIR"),
          kOut);
  grouped(
      text("--db", &flags->database,
           "append each record to a database of SQLite as well, made where it is missing (docs/database.md)", "FILE"),
      kOut);
  grouped(
      command->add_flag("--dry-run", flags->dry_run,
                        "print the cells with the memory and time that they are predicted to take, and whether they "
                        "fit; reads no weights, writes no file; the exit code is that of what would fail"),
      kOut);
  grouped(command->add_flag("--no-probe", flags->no_probe,
                            "with --dry-run: do not measure the read rate, and so predict no time"),
          kOut);
  grouped(
      command->add_flag("--resume", flags->resume,
                        "go on with the sweep in --out, by the command that began it: what is finished there is not "
                        "measured again, what failed or was interrupted is"),
      kOut);
  grouped(text("-o", output.get(), "what to print: table, md, csv, json or jsonl", "FORMAT"), kOut)
      ->default_str("table");
  grouped(text("--schema", schema.get(), "columns of -o csv: predecessor or predecessor-full", "NAME"), kOut);
  command->callback([flags, output, schema, prompt, new_tokens, target_ci, max_time, quality, action, command] {
    refuse_empty_values(*command, "--prompt");
    flags->prompt_given = prompt->count() > 0;
    flags->quality_given = quality->count() > 0;
    flags->max_new_tokens_given = new_tokens->count() > 0;
    flags->target_ci_given = target_ci->count() > 0;
    flags->max_time_given = max_time->count() > 0;
    *action = [=] { return run_sweep(*flags, *output, *schema); };
  });
}

}  // namespace quantbench
