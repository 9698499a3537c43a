// The subcommands. Each adds its flags and, when it is the one chosen, sets the action that main runs.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>

namespace quantbench {

using Action = std::function<int()>;  // returns the exit code; failures are Error

// Error usage for a flag whose value is an empty text, but for those named, where that means something.
void refuse_empty_values(const CLI::App& command, const std::string& except = "");

// --db and --sweep of a command that reads records.
void add_database_flags(CLI::App* command, std::string* database, std::string* sweep);

void add_run(CLI::App& app, Action* action);
void add_generate(CLI::App& app, Action* action);
void add_quantize(CLI::App& app, Action* action);
void add_pull(CLI::App& app, Action* action);
void add_report(CLI::App& app, Action* action);
void add_claims(CLI::App& app, Action* action);
void add_import(CLI::App& app, Action* action);
void add_doctor(CLI::App& app, Action* action);
void add_compare(CLI::App& app, Action* action);
void add_gate(CLI::App& app, Action* action);
void add_worker(CLI::App& app, Action* action);  // hidden: the child process of run

}  // namespace quantbench
