#include "report/read_records.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <set>
#include <thread>

#include "bench/statistics.h"
#include "core/error.h"
#include "core/json.h"
#include "core/os.h"

namespace quantbench {
namespace {

constexpr int64_t kLargestFile = int64_t{1} << 30;
constexpr int kDeepest = 64;    // of nested JSON, and of nested folders
constexpr size_t kAtOnce = 64;  // files that are held before they are handed over
constexpr unsigned kMostThreads = 8;

struct Candidate {
  std::string path;
  bool named = false;  // itself, and not found in a folder
};

struct Parsed {
  std::vector<Record> records;
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

std::vector<Candidate> candidates(std::span<const std::string> files_or_folders) {
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
  std::set<std::string> seen;
  for (Candidate& c : all) {
    if (seen.insert(os::real_path(c.path)).second) once.push_back(std::move(c));
  }
  return once;
}

bool is_of_ours(const Record& j) { return j.is_object() && j.contains("schema") && j["schema"] == "quantbench.record"; }

void take_value(Record&& value, const Candidate& from, const std::string& where, Parsed* into) {
  if (!is_of_ours(value)) {
    if (from.named) into->problems.push_back(where + ": " + record_problem(value));
    return;
  }
  const std::string problem = record_problem(value);
  if (problem.empty())
    into->records.push_back(std::move(value));
  else
    into->problems.push_back(where + ": " + problem);
}

// A value of JSON and what it holds; `where` names it in problems.
void take_text(std::string_view text, const Candidate& from, const std::string& where, Parsed* into) {
  if (nests_deeper(text, kDeepest)) {
    into->problems.push_back(fmt::format("{}: JSON nested deeper than {} levels is no record", where, kDeepest));
    return;
  }
  Record value = Record::parse(text.begin(), text.end(), nullptr, false);
  if (value.is_discarded()) {
    try {
      parse_json(text, where);  // says at which byte, and why
      into->problems.push_back(where + ": not valid JSON; is the file complete?");
    } catch (const Error& error) {
      into->problems.emplace_back(error.what());
    }
    return;
  }
  if (!value.is_array()) {
    take_value(std::move(value), from, where, into);
    return;
  }
  if (value.empty() && from.named) into->problems.push_back(where + ": an empty list has no record");
  for (size_t i = 0; i < value.size(); ++i) {
    take_value(std::move(value[i]), from, fmt::format("{} (record {})", where, i + 1), into);
  }
}

Parsed parse(const Candidate& from) {
  Parsed parsed;
  try {
    const std::string text = os::read_file(from.path, kLargestFile);
    if (!from.path.ends_with(".jsonl")) {
      take_text(text, from, from.path, &parsed);
      return parsed;
    }
    int number = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      const std::string_view line = std::string_view(text).substr(at, end - at);
      ++number;
      if (line.find_first_not_of(" \t\r") != line.npos)
        take_text(line, from, fmt::format("{} (line {})", from.path, number), &parsed);
      at = end + 1;
    }
  } catch (const Error& error) {  // it cannot be read: the others can
    parsed.problems.emplace_back(error.what());
  }
  return parsed;
}

// Side by side: most of the time goes into taking numbers apart.
std::vector<Parsed> parse_all(std::span<const Candidate> files) {
  std::vector<Parsed> parsed(files.size());
  std::atomic<size_t> next{0};
  const auto work = [&](std::exception_ptr* failure) {
    try {
      for (size_t i = next++; i < files.size(); i = next++) parsed[i] = parse(files[i]);
    } catch (...) {  // no memory: a thread must not end so
      *failure = std::current_exception();
      next = files.size();
    }
  };
  const size_t threads =
      std::min<size_t>(std::clamp(std::thread::hardware_concurrency(), 1U, kMostThreads), files.size() / 2);
  std::vector<std::exception_ptr> failures(std::max<size_t>(threads, 1));
  std::vector<std::jthread> others;
  for (size_t i = 1; i < threads; ++i) others.emplace_back(work, &failures[i]);
  work(failures.data());
  others.clear();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  return parsed;
}

bool agrees(double a, double b) { return std::abs(a - b) <= 1e-9 * std::max(std::abs(a), std::abs(b)); }

std::string metric_problem(const Summary& s, const Record& part) {
  static const std::vector<MetricInfo> infos = metric_infos();
  const auto info = std::find_if(infos.begin(), infos.end(), [&](const MetricInfo& m) { return m.name == s.name; });
  const std::string unit = part.at("unit");
  if (info != infos.end() && unit != name_of(info->unit))
    return fmt::format("metric {} is in '{}', expected '{}'", s.name, unit, name_of(info->unit));
  if (!std::isfinite(s.median)) return fmt::format("metric {} is not a finite number", s.name);
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

}  // namespace

std::string record_problem(const Record& record) {
  if (!is_of_ours(record)) return "no record of quantbench (no \"schema\": \"quantbench.record\")";
  const Record version = record.value("schema_version", Record(nullptr));
  if (version != kRecordVersion) {
    return fmt::format("a record of schema version {}, expected {}; use the quantbench that wrote it, or a newer one",
                       version.is_null() ? "unknown" : version.dump(-1, ' ', false, Record::error_handler_t::replace),
                       kRecordVersion);
  }
  try {
    const RecordView view = view_of(record);
    for (const Summary& s : view.metrics) {
      std::string problem = metric_problem(s, record.at("metrics").at(s.name));
      if (!problem.empty()) return problem;
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

std::vector<std::string> for_each_record(std::span<const std::string> files_or_folders, const TakeRecord& take) {
  const std::vector<Candidate> files = candidates(files_or_folders);
  std::vector<std::string> problems;
  for (size_t at = 0; at < files.size(); at += kAtOnce) {
    const auto some = std::span(files).subspan(at, std::min(kAtOnce, files.size() - at));
    std::vector<Parsed> parsed = parse_all(some);
    for (size_t i = 0; i < parsed.size(); ++i) {
      problems.insert(problems.end(), parsed[i].problems.begin(), parsed[i].problems.end());
      for (Record& record : parsed[i].records) take(std::move(record), some[i].path);
    }
  }
  return problems;
}

FoundRecords read_records(std::span<const std::string> files_or_folders) {
  FoundRecords found;
  found.problems = for_each_record(files_or_folders, [&](Record&& record, const std::string& path) {
    found.records.push_back(std::move(record));
    found.paths.push_back(path);
  });
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
