// `quantbench quantize`: a checkpoint in int8 or nf4 that transformers + bitsandbytes load.
#include <unordered_set>

#include "app/commands.h"
#include "app/flags.h"
#include "app/progress.h"
#include "app/run_plan.h"
#include "bench/open_model.h"
#include "checkpoint/quantized_writer.h"
#include "core/os.h"
#include "model/loader.h"
#include "report/format.h"

namespace quantbench {
namespace {

struct QuantizeFlags {
  RunFlags common;
  std::string precision = "4bit";
  std::string output;
};

int quantize_model(const QuantizeFlags& flags) {
  const Precision precision = parse_precision(flags.precision);
  if (precision == Precision::fp16 || precision == Precision::bf16) {
    fail(ErrorKind::usage, "--precision: {} is not quantised; expected int8 or 4bit", name_of(precision));
  }
  os::catch_stop_signals();
  const ModelSource source = find_model(flags.common.model_ids, flags.common);
  const auto checkpoint = Checkpoint::open(source.folder, {source.allow_symlinks, source.allow_nonfinite});
  const OpenedModel opened = open_model(source, precision);
  QuantizeRequest request{.source = *checkpoint, .output = os::expand_home(flags.output)};
  request.format = precision == Precision::int8 ? Format::int8 : Format::nf4;
  const std::vector<RenamedPrefix> other_prefixes = opened.model->other_prefixes();
  // transformers compares them with its own names of modules, which are not the same in all of its versions.
  for (const std::string& module : skipped_modules(*opened.model, precision)) {
    for (std::string& name : names_in_files(module, other_prefixes)) {
      request.skipped_modules.push_back(std::move(name));
    }
  }
  // What is written keeps the names that it was read by.
  std::unordered_set<std::string> quantized, in_fp32;
  for (const WeightSlot& slot : opened.model->weights()) {
    if (slot.quantized) quantized.insert(slot.name);
    const auto* const matrix = std::get_if<Matrix*>(&slot.target);
    if (matrix && *matrix && format_of(**matrix) == Format::f32) in_fp32.insert(slot.name);
  }
  for (const std::string& name : checkpoint->names()) {
    const std::string in_model = name_in_model(name, other_prefixes);
    if (quantized.contains(in_model)) request.linears.push_back(name);
    if (in_fp32.contains(in_model)) request.kept.push_back(name);
  }
  TerminalProgress progress;
  ThreadPool pool(parse_threads(flags.common.threads));
  const QuantizeResult result = write_quantized(request, pool, [&](int64_t done, int64_t total) {
    progress.status(fmt::format("quantising {} to {}: {:.0f} %", source.name, name_of(precision),
                                100.0 * static_cast<double>(done) / static_cast<double>(std::max<int64_t>(total, 1))));
  });
  progress.clear();
  os::write_output(fmt::format("{}: {} linears in {}, {} file{}, {} of weights in {}\n", source.name,
                               request.linears.size(), long_name_of(precision, true), result.files.size(),
                               result.files.size() == 1 ? "" : "s",
                               format_bytes(static_cast<double>(result.weight_bytes)), request.output));
  return 0;
}

}  // namespace

void add_quantize(CLI::App& app, Action* action) {
  CLI::App* command =
      app.add_subcommand("quantize", "write a checkpoint in int8 or 4bit that transformers loads with bitsandbytes");
  auto flags = std::make_shared<QuantizeFlags>();
  const auto text = [&](const char* name, std::string* into, const char* help, const char* type) {
    return command->add_option(name, *into, help)->type_name(type);
  };
  text("--model-id", &flags->common.model_ids,
       "folder, or name on the Hugging Face Hub: from the cache, else downloaded (default: the bundled model)",
       "ID|DIR");
  command->add_flag("--offline", flags->common.offline, kOfflineHelp);
  text("--precision", &flags->precision, "int8 (LLM.int8) or 4bit (NF4, double quantisation)", "P")
      ->default_str("4bit");
  text("--out", &flags->output, "folder to write: new, or empty", "DIR")->required();
  text("--threads", &flags->common.threads, "threads; 0: one per physical core", "N")->default_str("0");
  command->add_flag("--allow-nonfinite", flags->common.allow_nonfinite,
                    "accept NaN, infinity and values beyond fp16 in weights (4bit cannot hold them in a linear)");
  command->add_flag("--allow-symlinks", flags->common.allow_symlinks, "follow links that leave the model's folder");
  command->callback([flags, action, command] {
    refuse_empty_values(*command);
    *action = [flags] { return quantize_model(*flags); };
  });
}

}  // namespace quantbench
