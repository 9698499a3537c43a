// `quantbench compare` and `quantbench gate`: two sets of records side by side (docs/gate.md).
#include "app/commands.h"
#include "app/flags.h"
#include "core/error.h"
#include "core/os.h"
#include "report/compare_records.h"
#include "report/database.h"

namespace quantbench {
namespace {

// What GitHub takes of one step: 1 MiB.
constexpr size_t kLargestSummary = 1'000'000;
constexpr const char* kSummaryVariable = "GITHUB_STEP_SUMMARY";

struct CompareFlags {
  std::string a, b, database;
  std::string threshold = "2%", first_token_threshold, memory_threshold = "5%", quality_threshold = "1%",
              kl_threshold = "0.01";
  std::string output = "table";
  bool any_device = false, github = false;
};

enum class Output { table, markdown, csv, json };

Output parse_output(const std::string& text) {
  if (text == "table") return Output::table;
  if (text == "md") return Output::markdown;
  if (text == "csv") return Output::csv;
  if (text == "json") return Output::json;
  fail(ErrorKind::usage, "-o: '{}' is not known; expected table, md, csv or json", text);
}

CompareOptions options_of(const CompareFlags& flags) {
  constexpr double kLeast = 1e-6, kMostNats = 100;
  CompareOptions o;
  o.threshold = parse_share("--threshold", flags.threshold, kLeast, 1);
  if (!flags.first_token_threshold.empty())
    o.first_token_threshold = parse_share("--first-token-threshold", flags.first_token_threshold, kLeast, 1);
  o.memory_threshold = parse_share("--memory-threshold", flags.memory_threshold, kLeast, 1);
  o.quality_threshold = parse_share("--quality-threshold", flags.quality_threshold, kLeast, 1);
  o.kl_threshold = parse_number("--kl-threshold", flags.kl_threshold, 0, kMostNats);
  o.any_device = flags.any_device;
  return o;
}

RecordsCompared compared(const CompareFlags& flags, const CompareOptions& options) {
  if (flags.database.empty()) {
    return compare_records(read_records(std::span(&flags.a, 1)), read_records(std::span(&flags.b, 1)), options);
  }
  const std::string path = Database::checked(flags.database);
  return compare_records(read_records(std::span(&path, 1), flags.a), read_records(std::span(&path, 1), flags.b),
                         options);
}

int compare_sides(const CompareFlags& flags) {
  const Output output = parse_output(flags.output);
  const RecordsCompared c = compared(flags, options_of(flags));
  os::write_output(output == Output::table      ? comparison_text(c)
                   : output == Output::markdown ? comparison_markdown(c)
                   : output == Output::csv      ? comparison_csv(c)
                                                : to_text(comparison_json(c)));
  if (c.pairs.empty()) {
    fail(ErrorKind::usage,
         "no cell of {} can be compared with one of {}; above is what each has: expected records of the same model, "
         "precision and test on both sides",
         flags.a, flags.b);
  }
  return 0;
}

int gate_sides(const CompareFlags& flags) {
  const Output output = parse_output(flags.output);
  CompareOptions options = options_of(flags);
  options.name_a = "BASE";
  options.name_b = "NEW";
  const std::string summary = os::environment(kSummaryVariable).value_or("");
  if (flags.github && summary.empty()) {
    fail(ErrorKind::usage,
         "--github: {} is not set, so there is no summary to append to; it is in a step of a workflow",
         kSummaryVariable);
  }
  const RecordsCompared c = compared(flags, options);
  os::write_output(output == Output::table      ? gate_text(c)
                   : output == Output::markdown ? gate_markdown(c)
                   : output == Output::csv      ? gate_csv(c)
                                                : to_text(gate_json(c)));
  if (!summary.empty()) os::append_to_file(summary, gate_markdown(c, kLargestSummary));
  return exit_code(c.outcome);
}

void add_common(CLI::App* command, CompareFlags* flags, const char* a, const char* b) {
  const auto text = [&](const char* name, std::string* into, const std::string& help, const char* type) {
    return command->add_option(name, *into, help)->type_name(type);
  };
  text(a, &flags->a, "a record, a folder with records (however deep) or a database", "FILE|DIR")->required();
  text(b, &flags->b, "what is compared with it", "FILE|DIR")->required();
  text("--db", &flags->database,
       fmt::format("a database that run wrote; {} and {} are then sweeps in it, by their folders' names", a, b),
       "FILE");
  text("--threshold", &flags->threshold, "a difference of speed or time to first token within this is none", "SHARE")
      ->default_str("2%");
  text("--first-token-threshold", &flags->first_token_threshold,
       "the same of time to first token, where it is to be another", "SHARE");
  text("--memory-threshold", &flags->memory_threshold, "the same of peak memory", "SHARE")->default_str("5%");
  text("--quality-threshold", &flags->quality_threshold, "the same of perplexity, where both sides have it", "SHARE")
      ->default_str("1%");
  text("--kl-threshold", &flags->kl_threshold, "the same of the mean divergence from FP16, in nats a token", "NATS")
      ->default_str("0.01");
  text("-o", &flags->output, "what to print: table, md, csv or json", "FORMAT")->default_str("table");
}

}  // namespace

void add_compare(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand(
      "compare", "two sets of records side by side: faster, slower, same or ambiguous, memory and quality beside it");
  auto flags = std::make_shared<CompareFlags>();
  add_common(command, flags.get(), "A", "B");
  command->footer(
      "Cells are matched by model, precision and test, whatever machine, program or engine they were measured with.\n"
      "docs/method.md says what the verdicts mean.");
  command->callback([flags, action, command] {
    refuse_empty_values(*command);
    *action = [flags] { return compare_sides(*flags); };
  });
}

void add_gate(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand("gate", "compare for CI: the exit code says whether NEW is worse than BASE");
  auto flags = std::make_shared<CompareFlags>();
  add_common(command, flags.get(), "BASE", "NEW");
  command->add_flag("--any-device", flags->any_device,
                    "also judge cells that were measured on two devices (else they are not comparable)");
  command->add_flag("--github", flags->github,
                    "append the outcome as Markdown to the file that GITHUB_STEP_SUMMARY names; done without this flag "
                    "too where the variable is set");
  command->footer(
      "Exit codes: 0 fine; 1 a regression (slower, more memory or worse quality, beyond the threshold); 2 ambiguous:\n"
      "noise could hide a regression; 3 not comparable: a cell of BASE is missing, INVALID or unlike in NEW. Of "
      "several\n"
      "the worst counts: 1, then 3, then 2. 64 and up: errors, as of every command. docs/gate.md has an example for "
      "CI.");
  command->callback([flags, action, command] {
    refuse_empty_values(*command);
    *action = [flags] { return gate_sides(*flags); };
  });
}

}  // namespace quantbench
