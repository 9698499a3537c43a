#include "report/read_records.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <thread>

#include "bench/statistics.h"
#include "core/error.h"
#include "core/json.h"
#include "core/os.h"
#include "core/parallel.h"
#include "report/database.h"

namespace quantbench {
namespace {

constexpr int64_t kMaxRecordFileBytes = int64_t{1} << 30;
constexpr int kDeepest = 64;     // of nested JSON, and of nested folders
constexpr size_t kAtOnce = 128;  // files that are held before they are handed over
constexpr unsigned kMostThreads = 8;

struct Candidate {
  std::string path;
  bool named = false;               // itself, and not found in a folder
  std::optional<std::string> text;  // of a row of a database; else it is in the file
};

// Of a file: what is to be done with its records, in order.
struct Parsed {
  std::vector<std::function<void()>> taken;
  std::vector<std::string> problems;
};

bool ends_as_json(const std::string& name) { return name.ends_with(".json") || name.ends_with(".jsonl"); }

void gather(const std::string& folder, int depth, std::vector<Candidate>* found) {
  if (depth > kDeepest) return;
  for (const std::string& name : os::list_directory(folder)) {
    const std::string path = folder + (folder.ends_with('/') ? "" : "/") + name;
    const auto status = os::status(path, false);
    if (status && status->is_directory) {
      gather(path, depth + 1, found);
    } else if (ends_as_json(name)) {
      const auto behind_link = os::status(path);
      if (behind_link && behind_link->is_regular) found->push_back({path});
    }
  }
}

std::vector<Candidate> found_files(std::span<const std::string> files_or_folders) {
  std::vector<Candidate> all, once;
  for (const std::string& name : files_or_folders) {
    const std::string path = os::expand_home(name);
    const auto status = os::status(path);
    if (!status) {
      fail(ErrorKind::usage, "{}: there is no such file or folder; expected records, as run --out writes them", name);
    }
    if (status->is_directory)
      gather(path, 0, &all);
    else
      all.push_back({path, true});
  }
  if (all.size() == 1) return all;
  std::set<std::string> seen;
  for (Candidate& c : all) {
    if (seen.insert(os::real_path(c.path)).second) once.push_back(std::move(c));
  }
  return once;
}

bool is_of_ours(const Record& j) { return j.is_object() && j.contains("schema") && j["schema"] == "quantbench.record"; }

// Files one after another, and what is in databases, read as it is asked for: one row at a time, so that who writes to
// one need not wait for all of it to be read.
class Supply {
 public:
  Supply(std::span<const std::string> files_or_folders, const std::string& sweep)
      : files_(found_files(files_or_folders)), sweep_(sweep) {}

  std::optional<Candidate> next() {
    for (;;) {
      if (database_) {
        while (row_ < rows_.size()) {
          const int64_t id = rows_[row_++];
          std::optional<std::string> text = database_->record_text(id);
          if (text) return Candidate{fmt::format("{}, record {}", files_[file_ - 1].path, id), true, std::move(text)};
        }
        database_.reset();
      }
      if (file_ == files_.size()) return std::nullopt;
      const Candidate& file = files_[file_++];
      if (!file.named || !is_database(file.path)) return file;
      open(file.path);
    }
  }

 private:
  void open(const std::string& path) {
    database_ = std::make_unique<Database>(path, Database::Access::read);
    rows_ = database_->ids(sweep_);
    row_ = 0;
    if (sweep_.empty() || !rows_.empty()) return;
    std::string names;
    for (const std::string& name : database_->sweeps()) names += (names.empty() ? "" : ", ") + name;
    fail(ErrorKind::usage, "{} has no records of a sweep '{}'; there are: {}", path, sweep_,
         names.empty() ? "none" : names);
  }

  std::vector<Candidate> files_;
  std::string sweep_;
  size_t file_ = 0;
  std::unique_ptr<Database> database_;
  std::vector<int64_t> rows_;
  size_t row_ = 0;
};

bool agrees(double a, double b) { return std::abs(a - b) <= 1e-9 * std::max(std::abs(a), std::abs(b)); }

std::string metric_problem(const Summary& s, const Record& part) {
  static const std::vector<MetricInfo> infos = metric_infos();
  const auto info = std::find_if(infos.begin(), infos.end(), [&](const MetricInfo& m) { return m.name == s.name; });
  const std::string unit = part.at("unit");
  if (info != infos.end() && unit != name_of(info->unit))
    return fmt::format("metric {} is in '{}', expected '{}'", s.name, unit, name_of(info->unit));
  if (!std::isfinite(s.median)) return fmt::format("metric {} is not a finite number", s.name);
  // What is left of the host's time beside the device's may be less than nothing by the resolution of two clocks.
  if (s.median < 0 && s.name != "host_overhead") return fmt::format("metric {} is negative; was it edited?", s.name);
  // A percentile of the steps of all runs together: its samples are those of each run, its interval is resampled.
  if (s.name.starts_with("inter_token_pooled_")) return "";
  if ((s.low && *s.low > s.median) || (s.high && *s.high < s.median))
    return fmt::format("metric {}: its median lies outside its interval; was it edited?", s.name);
  if (s.samples.empty()) return "";
  if (static_cast<int>(s.samples.size()) != s.runs)
    return fmt::format("metric {}: {} samples of {} runs; was it edited?", s.name, s.samples.size(), s.runs);
  if (!agrees(median(s.samples), s.median))
    return fmt::format("metric {}: its median is {}, that of its samples {}; was it edited?", s.name, s.median,
                       median(s.samples));
  return "";
}

// Throws Error usage. What is missing or null is no object without members.
const Record& object_at(const Record& in, const char* key, const std::string& where) {
  static const Record none = Record::object();
  const auto found = in.find(key);
  if (found == in.end() || found->is_null()) return none;
  if (!found->is_object()) fail(ErrorKind::usage, "'{}' of {} is no object", key, where);
  return *found;
}

// Throws Error usage unless it is a list of objects.
void check_objects(const Record& list, const std::string& what) {
  if (!list.is_array() || !std::all_of(list.begin(), list.end(), [](const Record& part) { return part.is_object(); })) {
    fail(ErrorKind::usage, "'{}' is no list of objects", what);
  }
}

void check_lists_of(const Record& part, const char* key, const std::string& where) {
  const auto list = part.find(key);
  if (list == part.end()) return;
  if (!list->is_array() || !std::all_of(list->begin(), list->end(), [](const Record& row) { return row.is_array(); })) {
    fail(ErrorKind::usage, "'{}' of {} is no list of lists", key, where);
  }
}

// What a view leaves out and reports use. Throws Error usage.
void check_parts(const Record& record) {
  object_at(record, "environment", "the record");
  check_objects(record.at("devices"), "devices");
  for (const Record& device : record.at("devices")) {
    const Record& gpu = object_at(device, "gpu", "a device");
    if (const auto of = gpu.find("compute_capability"); of != gpu.end() && !of->is_string())
      fail(ErrorKind::usage, "'compute_capability' of a device is no text");
  }
  check_objects(record.at("memory"), "memory");
  for (const Record& memory : record.at("memory")) {
    for (const char* key : {"load_peak_ledger", "run_peak_ledger", "end_ledger"}) {
      const Record& ledger = object_at(memory, key, "memory");
      if (!std::all_of(ledger.begin(), ledger.end(), [](const Record& bytes) { return bytes.is_number(); }))
        fail(ErrorKind::usage, "'{}' of memory has other things than numbers", key);
    }
  }
  const auto runs = record.find("runs");
  if (runs == record.end() || runs->is_null()) return;
  check_objects(*runs, "runs");
  for (const Record& run : *runs) {
    if (const auto steps = run.find("step_ns"); steps != run.end()) {
      if (!steps->is_array() ||
          !std::all_of(steps->begin(), steps->end(), [](const Record& ns) { return ns.is_number(); }))
        fail(ErrorKind::usage, "'step_ns' of a run is no list of numbers");
    }
    check_lists_of(run, "spans", "a run");
    if (const auto spans = run.find("spans"); spans != run.end()) {
      for (const Record& span : *spans) {
        if (span.size() < 4 || !span[2].is_number() || !span[3].is_number())
          fail(ErrorKind::usage, "a span of a run is not its name, its clock, its begin and its end");
      }
    }
    check_lists_of(object_at(run, "telemetry", "a run"), "samples", "a run's telemetry");
  }
}

std::string quality_problem(const QualityView& q) {
  for (const std::optional<Estimate>& e : {q.perplexity, q.perplexity_ratio, q.kl_mean, q.same_top}) {
    if (e && e->low && e->high && !(*e->low <= e->value && e->value <= *e->high))
      return fmt::format("quality: {} lies outside its interval; was it edited?", e->value);
  }
  if (q.perplexity && q.perplexity->value < 1)
    return fmt::format("quality: a perplexity of {}, which none can have; was it edited?", q.perplexity->value);
  return "";
}

std::string problem_of(const Record& record, RecordView* view) {
  if (!is_of_ours(record)) return "no record of quantbench (no \"schema\": \"quantbench.record\")";
  const Record version = record.value("schema_version", Record(nullptr));
  if (version != kRecordVersion) {
    return fmt::format("a record of schema version {}, expected {}; use the quantbench that wrote it, or a newer one",
                       version.is_null() ? "unknown" : version.dump(-1, ' ', false, Record::error_handler_t::replace),
                       kRecordVersion);
  }
  try {
    *view = view_of(record);
    check_parts(record);
    if (view->batch < 1) return fmt::format("a batch of {} sequences; was it edited?", view->batch);
    if (std::min({view->prompt_tokens, view->new_tokens, view->depth}) < 0)
      return "fewer than no tokens; was it edited?";
    for (const auto& [precision, format] :
         {std::pair("fp16", "FP16"), {"bf16", "BF16"}, {"int8", "LLM.int8"}, {"4bit", "NF4"}}) {
      if (view->imported_from.empty() && view->precision == precision && !view->precision_long.starts_with(format))
        return fmt::format("precision {} beside the format {}; was it edited?", precision, view->precision_long);
    }
    for (const Summary& s : view->metrics) {
      std::string problem = metric_problem(s, record.at("metrics").at(s.name));
      if (!problem.empty()) return problem;
    }
    if (view->quality) {
      if (std::string problem = quality_problem(*view->quality); !problem.empty()) return problem;
    }
    const auto sealed = record.find("content_sha256");
    if (sealed != record.end() && *sealed != content_sha256(record)) {
      return "it does not say what was written (content_sha256 is another); it was edited: measure again, or look for "
             "the "
             "file as it was";
    }
  } catch (const Record::exception& error) {
    std::string reason = error.what();
    if (const size_t at = reason.find("] "); at != std::string::npos) reason = reason.substr(at + 2);
    return fmt::format("not a whole record: {}; was it edited?", reason);
  } catch (const Error& error) {
    return fmt::format("not a whole record: {}; was it edited?", error.what());
  }
  return "";
}

// Takes one text apart: a file, or a line of one.
class Parser {
 public:
  Parser(const Candidate& from, Spans spans, const Prepare& prepare) : from_(from), spans_(spans), prepare_(prepare) {}

  Parsed parse() {
    try {
      if (from_.text) {
        take_text(*from_.text, from_.path);
        return std::move(parsed_);
      }
      const std::string text = os::read_file(from_.path, kMaxRecordFileBytes);
      if (!from_.path.ends_with(".jsonl")) {
        take_text(text, from_.path);
        return std::move(parsed_);
      }
      int number = 0;
      for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.find('\n', at), text.size());
        const std::string_view line = std::string_view(text).substr(at, end - at);
        ++number;
        if (line.find_first_not_of(" \t\r") != line.npos)
          take_text(line, fmt::format("{} (line {})", from_.path, number));
        at = end + 1;
      }
    } catch (const Error& error) {  // it cannot be read: the others can
      parsed_.problems.emplace_back(error.what());
    }
    return std::move(parsed_);
  }

 private:
  void take_value(Record&& value, const std::string& where) {
    if (!is_of_ours(value)) {
      if (from_.named) parsed_.problems.push_back(where + ": " + record_problem(value));
      return;
    }
    RecordView view;
    const std::string problem = problem_of(value, &view);
    if (problem.empty())
      parsed_.taken.push_back(prepare_(std::move(value), std::move(view), from_.path));
    else
      parsed_.problems.push_back(where + ": " + problem);
  }

  // A value of JSON and what it holds; `where` names it in problems.
  void take_text(std::string_view text, const std::string& where) {
    std::optional<Record> value = parse_record(text, spans_);
    if (!value) {
      if (nests_deeper(text, kDeepest)) {
        parsed_.problems.push_back(fmt::format("{}: JSON nested deeper than {} levels is no record", where, kDeepest));
        return;
      }
      try {
        parse_json(text, where, {kDeepest, kMaxRecordFileBytes});  // says at which byte, and why
      } catch (const Error& error) {
        parsed_.problems.emplace_back(error.what());
        return;
      }
      value = Record::parse(text.begin(), text.end());
    }
    if (!value->is_array()) {
      take_value(std::move(*value), where);
      return;
    }
    if (value->empty() && from_.named) parsed_.problems.push_back(where + ": an empty list has no record");
    for (size_t i = 0; i < value->size(); ++i) {
      take_value(std::move((*value)[i]), fmt::format("{} (record {})", where, i + 1));
    }
  }

  const Candidate& from_;
  Spans spans_;
  const Prepare& prepare_;
  Parsed parsed_;
};

}  // namespace

std::string record_problem(const Record& record) {
  RecordView view;
  return problem_of(record, &view);
}

std::vector<std::string> for_each_record(std::span<const std::string> files_or_folders, Spans spans,
                                         const Prepare& prepare, const std::string& sweep) {
  Supply supply(files_or_folders, sweep);
  std::vector<std::string> problems;
  std::optional<ThreadPool> pool;
  for (;;) {
    std::vector<Candidate> some;
    while (some.size() < kAtOnce) {
      std::optional<Candidate> next = supply.next();
      if (!next) break;
      some.push_back(std::move(*next));
    }
    if (some.empty()) return problems;
    // A first batch that is not full is all there is: one file starts no threads.
    if (!pool) {
      const size_t threads = some.size() == 1 ? 1 : std::clamp(std::thread::hardware_concurrency(), 1U, kMostThreads);
      pool.emplace(static_cast<int>(std::min(threads, some.size())));
    }
    std::vector<Parsed> parsed(some.size());
    pool->for_chunks(parsed.size(), 1, [&](size_t begin, size_t end, int) {
      for (size_t i = begin; i < end; ++i) parsed[i] = Parser(some[i], spans, prepare).parse();
    });
    for (const Parsed& of_file : parsed) {
      problems.insert(problems.end(), of_file.problems.begin(), of_file.problems.end());
      for (const std::function<void()>& take : of_file.taken) take();
    }
  }
}

FoundRecords read_records(std::span<const std::string> files_or_folders, const std::string& sweep) {
  FoundRecords found;
  found.problems = for_each_record(
      files_or_folders, Spans::steps,
      [&](Record&& record, RecordView&&, const std::string& path) {
        auto held = std::make_shared<Record>(std::move(record));  // a std::function must be copyable
        return [&found, &path, held] {
          found.records.push_back(std::move(*held));
          found.paths.push_back(path);
        };
      },
      sweep);
  if (!found.records.empty()) return found;
  std::string names;
  for (const std::string& name : files_or_folders) names += (names.empty() ? "" : ", ") + name;
  fail(ErrorKind::usage, "{}: no record there{}; expected files or folders that quantbench run --out has written",
       names,
       found.problems.empty()
           ? ""
           : fmt::format(" that can be used ({}{})", found.problems.front(),
                         found.problems.size() > 1 ? fmt::format("; and {} more", found.problems.size() - 1) : ""));
}

}  // namespace quantbench
