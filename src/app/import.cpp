// `quantbench import`: results of other programs as records beside our own.
#include "import/import.h"
#include "app/commands.h"
#include "core/os.h"
#include "report/report.h"

namespace quantbench {
namespace {

struct ImportFlags {
  std::vector<std::string> files;
  std::string out = "quantbench-results/imported";
  ImportOptions names;
};

// All files are read before anything is written, so that a faulty one leaves nothing half done.
int import_files(ImportFlags flags) {
  flags.names.imported_utc = os::utc_now();
  std::vector<Record> records;
  for (const std::string& file : flags.files) {
    for (Record& record : import_file(os::expand_home(file), flags.names)) records.push_back(std::move(record));
  }
  const std::string folder = os::expand_home(flags.out);
  std::vector<RecordView> views;
  for (const Record& record : records) {
    write_record(record, folder);
    views.push_back(view_of(record));
  }
  os::write_output(table_text(views) +
                   fmt::format("\n{} record{} in {}\n", records.size(), records.size() == 1 ? "" : "s", folder));
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
  command->add_option("--out", flags->out, "folder of the records")->type_name("DIR")->capture_default_str();
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
