// `quantbench claims`: conclusions tested on records.
#include "report/claims.h"
#include "app/commands.h"
#include "core/os.h"
#include "import/import.h"
#include "report/database.h"
#include "report/read_records.h"

namespace quantbench {
namespace {

constexpr int64_t kMaxClaimsBytes = 256 << 20;

struct ClaimsFlags {
  std::vector<std::string> paths;
  std::string claims, output = "table", database, sweep;
};

int run_claims(const ClaimsFlags& flags) {
  if (flags.output != "table" && flags.output != "md" && flags.output != "json")
    fail(ErrorKind::usage, "-o: '{}' is not known; expected table, md or json", flags.output);
  std::vector<Record> records;
  std::vector<std::string> of_records;
  for (const std::string& name : flags.paths) {
    const std::string path = os::expand_home(name);
    if (!path.ends_with(".csv") || os::is_directory(path)) {
      of_records.push_back(name);
      continue;
    }
    for (Record& record : import_file(path, {})) records.push_back(std::move(record));
  }
  if (!flags.database.empty()) of_records.push_back(Database::checked(flags.database));
  if (of_records.empty() && records.empty())
    fail(ErrorKind::usage, "paths: name records, folders of them or CSV files, or a database with --db");
  if (!of_records.empty()) {
    FoundRecords found = read_records(of_records, flags.sweep);
    for (Record& record : found.records) records.push_back(std::move(record));
    for (const std::string& problem : found.problems)
      std::fputs(("quantbench: left out: " + problem + "\n").c_str(), stderr);
  }
  const std::string path = os::expand_home(flags.claims);
  const std::string own(own_claims());
  const std::vector<ClaimResult> results = test_claims(
      records, path.empty() ? own : os::read_file(path, kMaxClaimsBytes), path.empty() ? "claims.json" : path);
  os::write_output(flags.output == "json" ? to_text(claims_json(results))
                   : flags.output == "md" ? claims_markdown(results)
                                          : claims_text(results));
  return 0;
}

}  // namespace

void add_claims(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand(
      "claims",
      "test conclusions on records, by device and model: supported, refuted or undecided, with the cells that decide.\n"
      "Without --claims those of the predecessor (docs/claims.md)");
  auto flags = std::make_shared<ClaimsFlags>();
  command->add_option("paths", flags->paths, "records, folders of them, databases, or CSV files that import reads")
      ->type_name("DIR|FILE");
  add_database_flags(command, &flags->database, &flags->sweep);
  command->add_option("--claims", flags->claims, "claims to test instead (JSON, docs/claims.md)")->type_name("FILE");
  command->add_option("-o", flags->output, "what to print: table, md or json")
      ->type_name("FORMAT")
      ->capture_default_str();
  command->callback([flags, action, command] {
    refuse_empty_values(*command);
    *action = [flags] { return run_claims(*flags); };
  });
}

}  // namespace quantbench
