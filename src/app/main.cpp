// quantbench: what people type. Errors end here, as one line and an exit code (core/error.h).
#include <cstdio>
#include <new>

#include "app/commands.h"
#include "bench/environment.h"
#include "core/error.h"
#include "core/os.h"
#include "report/format.h"

namespace {

using namespace quantbench;

int complain(ErrorKind kind, const std::string& text) {
  std::fputs(("quantbench: error: " + printable(text) + "\n").c_str(), stderr);
  return exit_code(kind);
}

std::string version_text() {
  const BuildInfo b = build_info();
  return fmt::format("quantbench {} (commit {}, {}, {} build{})", b.version, b.git_commit, b.compiler, b.build_type,
                     b.flags.empty() ? "" : ", sanitizers " + b.flags);
}

// llama-bench's spelling of a long flag that starts with one dash.
std::vector<std::string> arguments_of(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) arguments.emplace_back(std::string(argv[i]) == "-pg" ? "--pg" : argv[i]);
  return arguments;  // last first, as CLI11 wants them
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
      "70 interrupted; 71 internal, or a cell that is INVALID.");
  add_run(app, &action);
  add_generate(app, &action);
  add_quantize(app, &action);
  add_doctor(app, &action);
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
    return complain(ErrorKind::usage, fmt::format("{}; see quantbench {}--help", error.what(),
                                                  chosen.empty() ? "" : chosen.front()->get_name() + " "));
  }
  if (!action) return complain(ErrorKind::usage, "no subcommand was given; see quantbench --help");
  return action();
}

}  // namespace

void quantbench::refuse_empty_values(const CLI::App& command, const std::string& except) {
  for (const CLI::Option* option : command.get_options()) {
    if (option->count() == 0 || option->get_expected_max() == 0 || option->get_name() == except) continue;
    if (option->results().front().empty()) {
      fail(ErrorKind::usage, "{}: the value is empty; leave the flag out for its default", option->get_name());
    }
  }
}

int main(int argc, char** argv) {
  try {
    return parse_and_run(argc, argv);
  } catch (const Error& error) {
    return complain(error.kind(), error.what());
  } catch (const std::bad_alloc&) {
    return complain(ErrorKind::out_of_memory, "not enough memory; free some or use a smaller model");
  } catch (const std::exception& error) {
    return complain(ErrorKind::internal, error.what());
  }
}
