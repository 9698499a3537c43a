// `quantbench import`: results of other programs as records beside our own.
#include "import/import.h"
#include "app/commands.h"
#include "core/os.h"
#include "report/database.h"
#include "report/report.h"

namespace quantbench {
namespace {

constexpr const char* kDefaultFolder = "quantbench-results/imported";

struct ImportFlags {
  std::vector<std::string> files;
  std::string out, database;
  ImportOptions names;
};

// All files are read before anything is written, so that a faulty one leaves nothing half done.
int import_files(ImportFlags flags) {
  flags.names.imported_utc = os::utc_now();
  std::vector<Record> records;
  for (const std::string& file : flags.files) {
    for (Record& record : import_file(os::expand_home(file), flags.names)) records.push_back(std::move(record));
  }
  const bool to_folder = !flags.out.empty() || flags.database.empty();
  const std::string folder = os::expand_home(flags.out.empty() ? kDefaultFolder : flags.out);
  std::string where;
  if (!flags.database.empty()) {
    where = os::expand_home(flags.database);
    Database(where, Database::Access::append).add(records, "imported");
    if (to_folder) where += " and ";
  }
  if (to_folder) where += folder;
  std::vector<RecordView> views;
  for (const Record& record : records) {
    if (to_folder) write_record(record, folder);
    views.push_back(view_of(record));
  }
  os::write_output(table_text(views) +
                   fmt::format("\n{} record{} in {}\n", records.size(), records.size() == 1 ? "" : "s", where));
  return 0;
}

}  // namespace

void add_import(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand(
      "import",
      "make records of what other programs measured: llama-bench (-o json, jsonl, csv, md), optimum-benchmark\n"
      "(benchmark.json), and the predecessor's CSV and text summaries. The format is recognised by content; the\n"
      "records are marked as imported, and what the file does not tell stays missing.");
  auto flags = std::make_shared<ImportFlags>();
  command->add_option("files", flags->files, "files to import")->type_name("FILE")->required();
  command
      ->add_option("--out", flags->out,
                   fmt::format("folder of the records (default: {}; with --db none)", kDefaultFolder))
      ->type_name("DIR");
  command->add_option("--db", flags->database, "database of the records, made where it is missing (docs/database.md)")
      ->type_name("FILE");
  command
      ->add_option("--model", flags->names.model,
                   "the model's name in the records, e.g. to stand beside ours (default: the file's)")
      ->type_name("NAME");
  command->add_option("--device", flags->names.device, "the device's name, where the file does not tell it")
      ->type_name("NAME");
  command->callback([flags, action, command] {
    refuse_empty_values(*command);
    *action = [flags] { return import_files(*flags); };
  });
}

}  // namespace quantbench
