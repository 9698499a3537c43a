// quantbench: what people type. Errors end here, as one line and an exit code (core/error.h).
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>

#include "app/commands.h"
#include "bench/environment.h"
#include "core/error.h"
#include "core/os.h"
#include "core/unfinished.h"
#include "report/format.h"

namespace {

using namespace quantbench;

int complain(ErrorKind kind, const std::string& text) {
  std::fputs(("quantbench: error: " + printable(text) + "\n").c_str(), stderr);
  return exit_code(kind);
}

constexpr const char* kNoMemory = "not enough memory; free some or use a smaller model";

// Destructors of nlohmann's JSON ask for memory themselves, and what they throw cannot be caught: where memory runs out
// just there the program ends here, with the same sentence and code as elsewhere, and leaves no file half made.
std::terminate_handler usual_end = nullptr;
[[noreturn]] void end_at_once() {
  if (const std::exception_ptr thrown = std::current_exception()) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::bad_alloc&) {
      os::drop_unfinished();
      std::fprintf(stderr, "quantbench: error: %s\n", kNoMemory);
      std::_Exit(exit_code(ErrorKind::out_of_memory));
    } catch (...) {
    }
  }
  usual_end();
  std::abort();
}
// Before the constructors of other objects, which ask for memory too.
[[gnu::constructor(101)]] void begin() { usual_end = std::set_terminate(&end_at_once); }

std::string version_text() {
  const BuildInfo b = build_info();
  return fmt::format("quantbench {} (commit {}, {}, {} build{})", b.version, b.git_commit, b.compiler, b.build_type,
                     b.flags.empty() ? "" : ", sanitizers " + b.flags);
}

// Spellings that CLI11 does not know: llama-bench's -pg, a long flag that starts with one dash, and "=" behind a flag
// of one letter.
std::string usual_spelling(const std::string& argument) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  if (argument == "-pg") return "--pg";
  if (argument.starts_with("-pg=")) return "-" + argument;
  if (argument.size() > 3 && argument.starts_with("-pg") && !is_letter(argument[3]))
    return "--pg=" + argument.substr(3);
  if (argument.size() > 3 && argument[0] == '-' && is_letter(argument[1]) && argument[2] == '=') {
    return argument.substr(0, 2) + argument.substr(3);
  }
  return argument;
}

std::vector<std::string> arguments_of(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) {
    const bool is_text = std::string_view(argv[i - 1]) == "--prompt";  // which may look like a flag
    arguments.push_back(is_text ? argv[i] : usual_spelling(argv[i]));
  }
  return arguments;  // last first, as CLI11 wants them
}

// What is wrong with arguments that CLI11 refuses: its own words, but for a flag that was given twice.
std::string refused_arguments(const CLI::App& command, const CLI::ParseError& error) {
  for (const CLI::Option* option : command.get_options()) {
    const bool takes_one =
        option->get_expected_max() == 1 && option->get_multi_option_policy() == CLI::MultiOptionPolicy::Throw;
    if (!takes_one || option->count() < 2) continue;
    return fmt::format("{} is given {} times; {}", option->get_name(), option->count(),
                       option->get_type_name().ends_with("[,...]") ? "use one list with commas" : "give it once");
  }
  return error.what();
}

int parse_and_run(int argc, char** argv) {
  Action action;
  CLI::App app{
      "Benchmarks language models in FP16, INT8 (LLM.int8) and NF4 on this machine, with its own inference engine.\n"
      "Start with: quantbench run          (the bundled model, all precisions)\n"
      "            quantbench doctor       (this machine, and what is missing)",
      "quantbench"};
  app.set_version_flag("--version", version_text(), "print version and build, and exit");
  app.require_subcommand(0, 1);
  app.footer(
      "Exit codes: 0 success; 64 usage; 65 bad model; 66 model not found; 67 out of memory; 68 device; 69 disk;\n"
      "70 interrupted; 71 internal, or a cell that is INVALID. gate: 1 regression, 2 ambiguous, 3 not comparable.");
  add_run(app, &action);
  add_generate(app, &action);
  add_quantize(app, &action);
  add_pull(app, &action);
  add_report(app, &action);
  add_claims(app, &action);
  add_import(app, &action);
  add_doctor(app, &action);
  add_compare(app, &action);
  add_gate(app, &action);
  add_worker(app, &action);
  try {
    app.parse(arguments_of(argc, argv));
  } catch (const CLI::CallForVersion& version) {
    os::write_output(std::string(version.what()) + "\n");
    return 0;
  } catch (const CLI::Success&) {  // help: of the subcommand if one was named
    const auto chosen = app.get_subcommands();
    os::write_output(chosen.empty() ? app.help() : chosen.front()->help("quantbench"));
    return 0;
  } catch (const CLI::ParseError& error) {
    const auto chosen = app.get_subcommands();
    const std::string problem = chosen.empty() ? error.what() : refused_arguments(*chosen.front(), error);
    return complain(ErrorKind::usage, fmt::format("{}; see quantbench {}--help", problem,
                                                  chosen.empty() ? "" : chosen.front()->get_name() + " "));
  }
  if (!action) return complain(ErrorKind::usage, "no subcommand was given; see quantbench --help");
  return action();
}

}  // namespace

void quantbench::add_database_flags(CLI::App* command, std::string* database, std::string* sweep) {
  command->add_option("--db", *database, "a database that run or import wrote, beside what is named or instead of it")
      ->type_name("FILE");
  command->add_option("--sweep", *sweep, "of databases the records of one sweep alone, by its folder's name")
      ->type_name("NAME");
}

void quantbench::refuse_empty_values(const CLI::App& command, const std::string& except) {
  for (const CLI::Option* option : command.get_options()) {
    if (option->count() == 0 || option->get_expected_min() == 0 || option->get_name() == except) continue;
    if (option->results().front().empty()) {
      fail(ErrorKind::usage, "{}: the value is empty; {}", option->get_name(),
           option->get_required() ? "it has no default: give one" : "leave the flag out for its default");
    }
  }
}

int main(int argc, char** argv) {
  try {
    os::let_large_files_fail();
    return parse_and_run(argc, argv);
  } catch (const Error& error) {
    return complain(error.kind(), error.what());
  } catch (const std::bad_alloc&) {
    return complain(ErrorKind::out_of_memory, kNoMemory);
  } catch (const std::exception& error) {
    return complain(ErrorKind::internal, error.what());
  }
}
