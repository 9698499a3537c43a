// `quantbench report`: records from any number of runs and machines as one page with charts, or as text.
#include <atomic>
#include <memory>
#include <optional>

#include "app/commands.h"
#include "app/progress.h"
#include "bench/environment.h"
#include "core/os.h"
#include "report/charts.h"
#include "report/database.h"
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

constexpr double kPngScale = 3;  // 900 points are 2700 pixels: 300 a 9-inch page

struct ReportFlags {
  std::vector<std::string> files;
  std::string format, out, database, sweep, charts;
  bool png = false;
};

// Returns what to say of it.
std::string write_charts(const std::vector<ChartCell>& cells, const std::string& folder, bool png) {
  os::make_directories(folder);
  const std::vector<Chart> all = charts(cells);
  for (const Chart& chart : all) {
    const std::string path = folder + "/" + chart.name;
    if (png)
      write_png(chart.svg, kPngScale, path + ".png");
    else
      os::write_file_atomically(path + ".svg", chart.svg);
  }
  return fmt::format("{} chart{} in {}", all.size(), all.size() == 1 ? "" : "s", printable(folder));
}

int report(ReportFlags flags) {
  if (flags.png && flags.charts.empty()) fail(ErrorKind::usage, "--png: give --charts FOLDER as well");
  if (flags.format.empty() && flags.charts.empty()) flags.format = "html";
  const std::string& format = flags.format;
  if (!format.empty() && format != "html" && format != "md" && format != "csv" && format != "json" &&
      format != "jsonl") {
    fail(ErrorKind::usage, "-o: '{}' is no format; expected html, md, csv, json or jsonl", one_line(format));
  }
  if (format == "html" && !has_page()) (void)page_html("");  // says so before all records are read
  if (!flags.database.empty()) flags.files.push_back(Database::checked(flags.database));
  if (flags.files.empty()) fail(ErrorKind::usage, "records: name folders or files of them, or a database with --db");
  for (std::string& file : flags.files) file = os::expand_home(file);
  std::string out = os::expand_home(flags.out);
  if (out.empty() && format == "html") out = kDefaultPage;

  TerminalProgress progress;
  PageData page;
  std::vector<RecordView> views;
  std::vector<ChartCell> chart_cells;
  std::optional<Sink> sink;
  size_t count = 0;
  std::atomic<size_t> begun = 0;
  const bool with_charts = !flags.charts.empty(), as_json = format == "json" || format == "jsonl";
  const auto write_text = [&](const std::string& text) {
    if (!sink) {
      sink.emplace(out);
      if (format == "json") sink->write("[\n");
    } else if (format == "json") {
      sink->write(",\n");
    }
    sink->write(text);
    if (format == "jsonl") sink->write("\n");
  };
  // In several threads: what takes time, and of each record no more than is needed.
  const auto prepare = [&](Record&& record, RecordView&& view, const std::string& path) -> std::function<void()> {
    const size_t number = begun++;
    const auto charted = std::make_shared<std::optional<ChartCell>>();
    if (with_charts) *charted = chart_cell(record, view);
    if (as_json) {
      return [&, charted, text = record.dump(-1, ' ', false, Record::error_handler_t::replace)] {
        ++count;
        write_text(text);
        if (*charted) chart_cells.push_back(std::move(**charted));
      };
    }
    // A std::function is copied, in principle.
    const auto cell = std::make_shared<PageCell>();
    if (format == "html") *cell = page_cell(record, view, path, number < kMostRecordsWithSamples);
    return [&, cell, charted, kept = std::make_shared<RecordView>(std::move(view))] {
      ++count;
      if (*charted) chart_cells.push_back(std::move(**charted));
      if (format == "html") page.add(std::move(*cell));
      if (format != "html" || count <= kMostVerdictCells) views.push_back(std::move(*kept));
    };
  };
  const std::vector<std::string> problems =
      for_each_record(flags.files, as_json ? Spans::all : Spans::steps, prepare, flags.sweep);
  for (const std::string& problem : problems) progress.line("left out: " + printable(problem));
  if (count == 0) {
    fail(ErrorKind::usage,
         "no record was found in what was named ({}); expected folders or files that quantbench run wrote",
         problems.empty() ? "no JSON file there is one" : fmt::format("{} left out, named above", problems.size()));
  }
  if (with_charts) progress.line(write_charts(chart_cells, os::expand_home(flags.charts), flags.png));
  if (format.empty()) return 0;
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
  command->add_option("records", flags->files, "folders, searched with those in them, files that run wrote, databases")
      ->type_name("DIR|FILE");
  add_database_flags(command, &flags->database, &flags->sweep);
  command
      ->add_option("-o", flags->format,
                   "html: one file that needs no network, with every sample up to 100 records, with quantiles and the "
                   "names of the files beyond; md, csv, json or jsonl as run prints them")
      ->type_name("FORMAT")
      ->default_str("html");
  command
      ->add_option("--charts", flags->charts,
                   "write each chart as an SVG file into a folder, for papers and without a browser; with it -o has no "
                   "default")
      ->type_name("DIR");
  command->add_flag("--png", flags->png, "with --charts: PNG instead, drawn by librsvg, which has to be installed");
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
