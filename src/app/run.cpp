// `quantbench run`: parse → plan → measure → write.
#include <fmt/ranges.h>

#include <algorithm>

#include "app/commands.h"
#include "app/flags.h"
#include "app/progress.h"
#include "app/run_plan.h"
#include "backend/host_memory.h"
#include "bench/quality_sweep.h"
#include "bench/record_builder.h"
#include "bench/worker_process.h"
#include "core/os.h"
#include "model/config.h"
#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

enum class Output { table, markdown, csv, json, jsonl };

Output parse_output(const std::string& text) {
  if (text == "table") return Output::table;
  if (text == "md") return Output::markdown;
  if (text == "csv") return Output::csv;
  if (text == "json") return Output::json;
  if (text == "jsonl") return Output::jsonl;
  fail(ErrorKind::usage, "-o: '{}' is not known; expected table, md, csv, json or jsonl", text);
}

CsvSchema parse_schema(const std::string& text, Output output) {
  if (text.empty()) return CsvSchema::own;
  if (output != Output::csv) fail(ErrorKind::usage, "--schema chooses the columns of -o csv; give both");
  if (text == "predecessor") return CsvSchema::predecessor;
  if (text == "predecessor-full") return CsvSchema::predecessor_full;
  fail(ErrorKind::usage, "--schema: '{}' is not known; expected predecessor or predecessor-full", text);
}

// "20260131T123456Z": a name that sorts by time.
std::string compact_utc(std::string utc) {
  std::erase_if(utc, [](char c) { return c == '-' || c == ':'; });
  return utc;
}

// One sweep: what it has measured so far, and where it goes.
class Sweep {
 public:
  Sweep(const RunFlags& flags, RunPlan plan)
      : plan_(std::move(plan)),
        device_(flags.device),
        engine_(flags.engine),
        zero_ns_(os::steady_now_ns()),
        probe_(hooks_),
        quality_(flags.quality_reference == "fp32") {
    facts_ = {os::utc_now(), read_environment(), build_info(), plan_.options, {}};
    folder_ = !flags.out.empty() ? os::expand_home(flags.out)
                                 : fmt::format("quantbench-results/{}-{}", compact_utc(facts_.started_utc),
                                               file_name_part(plan_.models.front().source.name));
    hooks_.start = [this, flags](const Cell*) { return start_worker(flags, device_); };
    hooks_.finished = [this](const Cell& cell, const CellData& data) { finished(cell, data); };
    hooks_.now = [this] { return os::steady_now_ns() - zero_ns_; };
    hooks_.available_memory = []() -> std::optional<int64_t> {
      const size_t bytes = host_device("", "", 1).available_bytes;
      if (bytes == 0) return std::nullopt;
      return static_cast<int64_t>(bytes);
    };
    if (flags.quality_given) {
      hooks_.quality = [this](std::span<const Cell> cells) {
        return quality_.measure(cells, *plan_.models[group_->model].quality, hooks_.start, progress_);
      };
    }
    hooks_.engines = &engines_;
    hooks_.progress = &progress_;
  }

  void measure_all() {
    try {
      choose_device();
      os::make_directories(folder_);             // before anything is measured, and not where nothing will be
      os::OutputFile(folder_ + "/record.json");  // can be made there; dropped
      for (const PlannedGroup& group : plan_.groups) {
        group_ = &group;
        group_begin_ = records_.size();
        ranks_.clear();
        for (const RefusedCell& refused : group.refused) {
          CellData data;
          data.outcome = {Status::failed, refused.error.what(), refused.error.kind()};
          data.stop_reason = std::string(name_of(Status::failed));
          progress_.line(fmt::format("{}: {}: {}", refused.cell.label(), data.stop_reason, refused.error.what()));
          finished(refused.cell, data);
        }
        if (group.cells.empty()) continue;
        std::string precisions;
        for (const Cell& cell : group.cells) precisions += fmt::format(" {}", name_of(cell.precision));
        const Cell& first = group.cells.front();
        progress_.line(fmt::format("measuring {}, {}:{}", first.model.shown(), first.test.name(), precisions));
        measure(group.cells, plan_.options, hooks_, probe_);
      }
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::interrupted) throw;
      interrupted_ = true;
    }
    progress_.clear();
  }

  void print(Output output, CsvSchema schema) const {
    std::vector<RecordView> views;
    for (const Record& record : records_) views.push_back(view_of(record));
    switch (output) {
      case Output::table:
      case Output::markdown: os::write_output(page(views, output == Output::markdown)); break;
      case Output::csv: os::write_output(csv(views, schema)); break;
      case Output::json: os::write_output(to_text(Record(records_))); break;
      case Output::jsonl:
        for (const Record& record : records_) {
          os::write_output(record.dump(-1, ' ', false, Record::error_handler_t::replace) + "\n");
        }
    }
  }

  bool interrupted() const { return interrupted_; }

  // Throws what the exit code and the last line are made of, if anything was not as it should be.
  void conclude(Output output) {
    if (output != Output::table && output != Output::markdown && !written_.empty()) {
      progress_.line(records_line());
    }
    if (interrupted_) fail(ErrorKind::interrupted, "interrupted; {}", records_line());
    if (write_failure_) throw Error(*write_failure_);
    const RecordView* first = nullptr;
    size_t bad = 0;
    std::vector<RecordView> views;
    for (const Record& record : records_) views.push_back(view_of(record));
    for (const RecordView& v : views) {
      if (v.status == "ok" && v.stamp.kind != StampKind::invalid) continue;
      ++bad;
      if (!first) first = &v;
    }
    if (!first && quality_failure_) throw Error(*quality_failure_);
    if (!first) return;
    fail(first->status == "ok" ? ErrorKind::internal : first_failure_, "{} of {} cells failed, the first: {} {} {}: {}",
         bad, views.size(), one_line(first->shown_model()), first->precision, first->test,
         first->status == "ok" ? "INVALID: " + first->stamp.reasons.front() : first->error);
  }

 private:
  // Found out once, by a worker: so that all cells run on the same device whatever becomes free or taken meanwhile, and
  // this process, which starts the others, never opens a GPU.
  void choose_device() {
    const bool any = std::any_of(plan_.groups.begin(), plan_.groups.end(),
                                 [](const PlannedGroup& group) { return !group.cells.empty(); });
    if (!any) return;
    for (const PlannedModel& model : plan_.models) {
      if (!model.picture_warning.empty()) progress_.line(model.picture_warning);
    }
    const DeviceReport chosen = probe_.device();
    check_engine_acts(engine_, chosen.device, chosen.passed_over);
    if (!chosen.passed_over.empty()) {
      progress_.line(fmt::format("measuring on the CPU, not the GPU: {}", chosen.passed_over));
    }
    if (chosen.device.gpu) {
      progress_.line(fmt::format("measuring on {}: {}, {}{}", chosen.device.id, chosen.device.name,
                                 chosen.device.gpu->uuid,
                                 chosen.device.gpu->is_mig_slice ? ", a MIG slice: a part of the card" : ""));
    }
    device_ = chosen.device.id;
    facts_.device = chosen.device;
    for (PlannedGroup& group : plan_.groups) {
      for (Cell& cell : group.cells) cell.engine.device = device_;
      for (RefusedCell& refused : group.refused) refused.cell.engine.device = device_;
    }
  }

  static std::unique_ptr<Worker> start_worker(const RunFlags& flags, const std::string& device) {
    const WorkerCommand command{os::executable_path(),
                                {"worker", "--device", device, "--threads", flags.threads},
                                parse_number("--cell-timeout", flags.cell_timeout, 0.01, 1e7)};
    return std::make_unique<WorkerProcess>(command);
  }

  void finished(const Cell& cell, const CellData& data) {
    const PlannedModel& model = plan_.models[group_->model];
    CellFacts facts{model.identity, group_->prompt_text, {}};
    if (model.tokenizer) {
      facts.decode = [&](const std::vector<int32_t>& ids) { return model.tokenizer->decode(ids, true); };
    }
    if (data.outcome.status == Status::failed && first_failure_ == ErrorKind::internal)
      first_failure_ = data.outcome.kind;
    if (data.quality && !data.quality->error.empty() && !quality_failure_) {
      quality_failure_ = Error(data.quality->kind,
                               fmt::format("quality of {} was not measured: {}", cell.label(), data.quality->error));
    }
    const Record& record = add(cell, make_record(cell, data, facts_, facts));
    try {
      written_.push_back(write_record(record, folder_));
    } catch (const Error& error) {
      progress_.line(fmt::format("{}: its record is lost: {}", cell.label(), error.what()));
      if (!write_failure_) write_failure_ = error;
      return;
    }
    if (data.outcome.status != Status::ok) return;
    const RecordView v = view_of(record);
    const Summary* rate = v.find(headline_metric(v));
    progress_.line(fmt::format("{}: {} t/s, {} run{} ({}), {}", cell.label(),
                               rate ? fmt::format("{:.4g}", rate->median) : "no", data.runs.size(),
                               data.runs.size() == 1 ? "" : "s", data.stop_reason, name_of(v.stamp.kind)));
  }

  // In the order that was asked for, whichever cell of a group ends first.
  const Record& add(const Cell& cell, Record record) {
    const auto& [first, last] = std::pair{group_->cells.begin(), group_->cells.end()};
    const auto planned = std::find_if(first, last, [&](const Cell& c) { return c.precision == cell.precision; });
    const auto rank = planned == last ? -1 : planned - first;  // those that were refused come first
    const auto at = std::upper_bound(ranks_.begin(), ranks_.end(), rank);
    const auto place = static_cast<std::ptrdiff_t>(group_begin_) + (at - ranks_.begin());
    ranks_.insert(at, rank);
    return *records_.insert(records_.begin() + place, std::move(record));
  }

  std::string records_line() const {
    return fmt::format("{} record{} in {}", written_.size(), written_.size() == 1 ? "" : "s", folder_);
  }

  std::string page(const std::vector<RecordView>& views, bool markdown) const {
    std::string text = markdown ? table_markdown(views) : table_text(views);
    const auto add_lines = [&](const std::vector<std::string>& lines) {
      if (lines.empty()) return;
      text += "\n";
      for (const std::string& line : lines) text += (markdown ? "- " : "") + line + "\n";
    };
    if (const std::string quality = markdown ? quality_markdown(views) : quality_text(views); !quality.empty()) {
      text += "\nQuality\n\n" + quality;
    }
    add_lines(notes(views));
    const std::string said = markdown ? responses_markdown(views) : responses_text(views);
    if (!said.empty()) text += "\nResponses\n\n" + said;
    const std::vector<std::string> lines = verdict(views);
    if (!lines.empty()) {
      text += said.empty() ? "\nVerdict\n" : "Verdict\n";
      add_lines(lines);
    }
    if (said.empty() || !lines.empty()) text += "\n";
    return text + records_line() + "\n";
  }

  RunPlan plan_;
  std::string device_;  // as flags have it, then what it stood for
  std::string engine_;
  SweepFacts facts_;
  std::string folder_;
  MeasureHooks hooks_;
  ChosenEngines engines_;
  TerminalProgress progress_;
  int64_t zero_ns_;
  BandwidthProbe probe_;
  QualitySweep quality_;
  const PlannedGroup* group_ = nullptr;
  std::vector<Record> records_;
  size_t group_begin_ = 0;             // of the group's records
  std::vector<std::ptrdiff_t> ranks_;  // of them: which cell of the group each is of
  std::vector<std::string> written_;
  std::optional<Error> write_failure_, quality_failure_;
  ErrorKind first_failure_ = ErrorKind::internal;
  bool interrupted_ = false;
};

int run_benchmark(const RunFlags& flags, const std::string& output_name, const std::string& schema_name) {
  const Output output = parse_output(output_name);
  const CsvSchema schema = parse_schema(schema_name, output);
  parse_number("--cell-timeout", flags.cell_timeout, 0.01, 1e7);
  os::catch_stop_signals();
  Sweep sweep(flags, plan_run(flags));
  sweep.measure_all();
  try {
    sweep.print(output, schema);
  } catch (const Error&) {
    if (!sweep.interrupted()) throw;  // else the terminal may be what went away
  }
  sweep.conclude(output);
  return 0;
}

}  // namespace

void add_run(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand("run", "measure a model in several precisions and print a table");
  auto flags = std::make_shared<RunFlags>();
  auto output = std::make_shared<std::string>("table");
  auto schema = std::make_shared<std::string>();
  const auto text = [&](const char* name, std::string* into, const char* help, const char* type) {
    return command->add_option(name, *into, help)->type_name(type)->group("");
  };
  const auto grouped = [](CLI::Option* option, const char* group) { return option->group(group); };

  const char* kWhat = "What to measure";
  grouped(text("--model-id", &flags->model_ids,
               "folder or Hugging Face id in the local cache; several by commas "
               "(default: the bundled model)",
               "ID|DIR[,...]"),
          kWhat);
  grouped(text("--precision", &flags->precisions,
               "fp16, int8 (LLM.int8, threshold 6.0), 4bit (NF4, also: nf4); default: "
               "all",
               "P[,...]"),
          kWhat);
  CLI::Option* prompt = grouped(text("--prompt", &flags->prompt, "prompt of a generation", "TEXT"), kWhat);
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
  grouped(text("--device", &flags->device, kDeviceHelp, "NAME"), kHow)->default_str("auto");
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
    *action = [=] { return run_benchmark(*flags, *output, *schema); };
  });
}

}  // namespace quantbench
