// `quantbench report`: records from any number of runs and machines as one page with charts, or as text.
#include <optional>

#include "app/commands.h"
#include "app/progress.h"
#include "bench/environment.h"
#include "core/os.h"
#include "report/format.h"
#include "report/page.h"
#include "report/read_records.h"
#include "report/report.h"

namespace quantbench {
namespace {

constexpr const char* kDefaultPage = "quantbench-report.html";

// Where the report goes: a file, which is there when all of it is, or standard output.
class Sink {
 public:
  explicit Sink(const std::string& path) {
    if (!path.empty()) file_.emplace(path);
  }
  void write(std::string_view text) {
    if (file_) {
      file_->write(std::as_bytes(std::span(text)));
    } else {
      os::write_output(text);
    }
  }
  void finish() {
    if (file_) file_->commit();
  }

 private:
  std::optional<os::OutputFile> file_;
};

// More cells than that make verdicts that nobody reads, one a model, test and card.
constexpr size_t kMostVerdictCells = 1000;

struct ReportFlags {
  std::vector<std::string> files;
  std::string format = "html", out;
};

int report(ReportFlags flags) {
  const std::string& format = flags.format;
  if (format != "html" && format != "md" && format != "csv" && format != "json" && format != "jsonl") {
    fail(ErrorKind::usage, "-o: '{}' is no format; expected html, md, csv, json or jsonl", one_line(format));
  }
  if (format == "html" && !has_page()) (void)page_html("");  // says so before all records are read
  for (std::string& file : flags.files) file = os::expand_home(file);
  std::string out = os::expand_home(flags.out);
  if (out.empty() && format == "html") out = kDefaultPage;

  TerminalProgress progress;
  PageData page;
  std::vector<RecordView> views;
  std::optional<Sink> sink;
  size_t count = 0;
  const std::vector<std::string> problems = for_each_record(flags.files, [&](Record&& record, const std::string& path) {
    ++count;
    if (format == "html") {
      page.add(record, path);
      if (count <= kMostVerdictCells) views.push_back(view_of(record));
      return;
    }
    if (format == "md" || format == "csv") {
      views.push_back(view_of(record));
      return;
    }
    if (!sink) {
      sink.emplace(out);
      if (format == "json") sink->write("[\n");
    } else if (format == "json") {
      sink->write(",\n");
    }
    sink->write(record.dump(-1, ' ', false, Record::error_handler_t::replace) + (format == "jsonl" ? "\n" : ""));
  });
  for (const std::string& problem : problems) progress.line("left out: " + printable(problem));
  if (count == 0) {
    fail(ErrorKind::usage,
         "no record was found in what was named ({}); expected folders or files that quantbench run wrote",
         problems.empty() ? "no JSON file there is one" : fmt::format("{} left out, named above", problems.size()));
  }
  if (!sink) sink.emplace(out);
  if (format == "html") {
    std::vector<std::string> answer;
    if (count <= kMostVerdictCells) answer = verdict(views);
    const BuildInfo build = build_info();
    sink->write(page_html(page.json(problems, answer, os::utc_now(),
                                    fmt::format("quantbench {} ({})", build.version, build.git_commit))));
  } else if (format == "md") {
    sink->write(whole_text(views, true));
  } else if (format == "csv") {
    sink->write(csv(views, CsvSchema::own));
  } else if (format == "json") {
    sink->write("\n]\n");
  }
  sink->finish();
  if (!out.empty()) {
    progress.line(fmt::format("{} record{} in {}", count, count == 1 ? "" : "s", printable(out)));
  }
  return 0;
}

}  // namespace

void add_report(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand("report", "one page with charts (or a table, CSV, JSON) of records");
  auto flags = std::make_shared<ReportFlags>();
  command->add_option("records", flags->files, "folders, searched with those in them, and files that run wrote")
      ->type_name("DIR|FILE")
      ->required();
  command
      ->add_option("-o", flags->format,
                   "html: one file that needs no network, with every sample up to 100 records, with quantiles and the "
                   "names of the files beyond; md, csv, json or jsonl as run prints them")
      ->type_name("FORMAT")
      ->default_str("html");
  command
      ->add_option("--out", flags->out,
                   fmt::format("file to write, in place of one that is there (default: {} of html, else standard "
                               "output)",
                               kDefaultPage))
      ->type_name("FILE");
  command->footer("Files that are damaged, of another version or edited by hand are named and left out.");
  command->callback([flags, action, command] {
    refuse_empty_values(*command);
    *action = [=] { return report(*flags); };
  });
}

}  // namespace quantbench
