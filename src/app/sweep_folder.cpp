#include "app/sweep_folder.h"

#include <algorithm>

#include "bench/identity.h"
#include "core/json.h"

namespace quantbench {
namespace {

constexpr int64_t kMaxRecordFileBytes = int64_t{1} << 30;
constexpr const char* kPlanName = "sweep.plan";
constexpr const char* kPendingName = "group.pending";

Record row_of(const Cell& cell, const ModelIdentity& identity, size_t device, const Error* refused) {
  std::string files;
  for (const WeightFile& file : identity.files) {
    files += fmt::format("{} {} {}\n", file.name, file.bytes, file.header_sha256);
  }
  return {{"device", device},
          {"model", cell.model.name},
          {"commit", cell.model.commit},
          {"random_weights", cell.model.random_weights},
          {"outlier_channels", cell.model.outlier_channels},
          {"allow_nonfinite", cell.model.allow_nonfinite},
          {"config_sha256", identity.config_sha256},
          {"files_sha256", sha256_hex(files)},
          {"precision", with_half(std::string(name_of(cell.precision)), cell.half)},
          {"test", cell.test.name()},
          {"prompt_sha256", hash_of(cell.prompt)},
          {"context_sha256", hash_of(cell.context)},
          {"stop_at", cell.stop_at},
          {"host_tokens", cell.host_tokens},
          {"picture", cell.picture},
          {"engine", cell.engine.engine},
          {"threads", cell.engine.threads},
          {"refused", refused != nullptr}};
}

Record device_of(const std::string& asked, const DeviceInfo& info) {
  Record device{{"asked", asked}, {"id", info.id}, {"name", info.name}};
  if (info.gpu) {
    device["uuid"] = info.gpu->uuid;
    device["driver"] = info.gpu->driver;
    device["cublaslt"] = info.gpu->cublaslt ? info.gpu->cublaslt->version : "";
  }
  return device;
}

// "NAME.PID.SERIAL.tmp", as os::OutputFile calls a file that is not whole yet.
bool is_temporary(const std::string& name) {
  if (!name.ends_with(".tmp")) return false;
  size_t end = name.size() - 4;
  for (int part = 0; part < 2; ++part) {
    const size_t dot = name.rfind('.', end - 1);
    if (dot == name.npos || dot + 1 == end) return false;
    if (name.find_first_not_of("0123456789", dot + 1) < end) return false;
    end = dot;
  }
  return true;
}

bool is_record(const Record& j) { return j.is_object() && j.contains("schema") && j["schema"] == "quantbench.record"; }

// Which row of the plan with this hash a record is of.
std::optional<size_t> row_in(const Record& record, const std::string& plan_sha256) {
  if (!is_record(record) || !record.contains("sweep")) return std::nullopt;
  const Record& sweep = record["sweep"];
  if (!sweep.is_object() || !sweep.contains("row") || !sweep["row"].is_number_unsigned()) return std::nullopt;
  const auto outcome = record.find("outcome");
  if (outcome == record.end() || !outcome->is_object() || !outcome->contains("status")) return std::nullopt;
  if (!sweep.contains("plan_sha256") || sweep["plan_sha256"] != plan_sha256) return std::nullopt;
  return sweep["row"].get<size_t>();
}

bool is_ok(const Record& record) { return record.at("outcome").at("status") == "ok"; }

}  // namespace

Record plan_document(const RunPlan& plan, const std::vector<DeviceInfo>& devices, const BuildInfo& build,
                     const Environment& machine) {
  Record device_list = Record::array(), rows = Record::array();
  for (size_t d = 0; d < devices.size(); ++d) device_list.push_back(device_of(plan.devices[d], devices[d]));
  for (const PlannedGroup& group : plan.groups) {
    const ModelIdentity& identity = plan.models[group.model].identity;
    for (const RefusedCell& refused : group.refused) {
      rows.push_back(row_of(refused.cell, identity, group.device, &refused.error));
    }
    for (const Cell& cell : group.cells) rows.push_back(row_of(cell, identity, group.device, nullptr));
  }
  Record quality = Record::array();  // what each model reads
  for (const PlannedModel& model : plan.models) {
    quality.push_back(model.quality ? Record{{"sha256", model.quality->sha256},
                                             {"texts", model.quality->texts.size()},
                                             {"answer_tokens", model.quality->answer_tokens},
                                             {"reference", plan.quality_reference}}
                                    : Record(nullptr));
  }
  const MeasureOptions& o = plan.options;
  return {{"schema", "quantbench.plan"},
          {"schema_version", 1},
          {"program",
           {{"version", build.version},
            {"git_commit", build.git_commit},
            {"build_type", build.build_type},
            {"sanitizers", build.flags},
            {"build_id", os::build_id()}}},
          {"machine", {{"cpu", machine.cpu_name}, {"logical_cpus", machine.logical_cpus}, {"kernel", machine.kernel}}},
          {"options",
           {{"seed", o.seed},
            {"runs", o.runs},
            {"target_ci", o.target_ci},
            {"max_time_s", o.max_time_s},
            {"energy", o.energy},
            {"explain", o.explain}}},
          {"quality", quality},
          {"devices", device_list},
          {"rows", rows}};
}

std::string plan_differences(const Record& before, const Record& now) {
  constexpr size_t kShown = 3;
  const Record was = before.flatten(), is = now.flatten();
  std::vector<std::string> lines;
  const auto shown = [](const Record& side, const std::string& key) {
    return side.contains(key) ? side[key].dump(-1, ' ', false, Record::error_handler_t::replace) : "not there";
  };
  const auto compare = [&](const std::string& key) {
    const std::string a = shown(was, key), b = shown(is, key);
    if (a != b) lines.push_back(fmt::format("{} was {} and is {}", key.substr(key.starts_with('/') ? 1 : 0), a, b));
  };
  for (const auto& [key, value] : was.items()) compare(key);
  for (const auto& [key, value] : is.items()) {
    if (!was.contains(key)) compare(key);
  }
  std::string text;
  for (size_t i = 0; i < lines.size() && i < kShown; ++i) text += (i > 0 ? "; " : "") + lines[i];
  if (lines.size() > kShown) text += fmt::format("; and {} more", lines.size() - kShown);
  return text;
}

SweepFolder::SweepFolder(const std::string& path, const Record& plan, bool resume, const Say& say)
    : path_(path), plan_sha256_(sha256_hex(to_text(plan))), lock_(path) {
  {
    const os::OutputFile seen_now(path_ + "/record.json");  // and not after an hour: whether a file can be made
  }
  const std::string plan_path = path_ + "/" + kPlanName;
  if (!os::exists(plan_path)) {
    refuse_strangers();
    if (resume) say(fmt::format("--resume: {} has no sweep yet; this one begins", path_));
    os::write_file_atomically(plan_path, to_text(plan));
    lock_.keep();
    return;
  }
  if (!resume) {
    fail(ErrorKind::usage,
         "--out: {} has the records of a sweep already; give --resume to go on with it, or another folder", path_);
  }
  const Record before = json_of(kPlanName);
  if (!before.is_object()) {
    fail(ErrorKind::disk,
         "--resume: {} is no plan of a sweep, so nothing can be said of the records beside it; give "
         "another --out",
         plan_path);
  }
  const std::string differences = plan_differences(before, plan);
  if (!differences.empty()) {
    fail(ErrorKind::usage,
         "--resume: the sweep in {} is another one: {}; repeat the command that began it, or give another --out", path_,
         differences);
  }
  lock_.keep();
  for (const std::string& name : os::list_directory(path_)) {
    if (is_temporary(name)) os::remove_file(path_ + "/" + name);  // nobody else is at this folder
  }
  read_records(say);
  finish_pending(say);
}

Record SweepFolder::json_of(const std::string& name) const {
  const std::string text = os::read_file(path_ + "/" + name, kMaxRecordFileBytes);
  if (nests_deeper(text, JsonLimits().depth)) return {Record::value_t::discarded};
  return Record::parse(text, nullptr, false);
}

// Records without a plan, of a version that wrote none or copied from elsewhere: which cells they stand for is not
// known.
void SweepFolder::refuse_strangers() const {
  for (const std::string& name : os::list_directory(path_)) {
    if (!name.ends_with(".json")) continue;
    const Record j = json_of(name);
    if (!is_record(j)) continue;
    fail(ErrorKind::usage,
         "--out: {} has records already ({}) and no plan that tells what they are of; give another "
         "folder",
         path_, name);
  }
}

void SweepFolder::read_records(const Say& say) {
  for (const std::string& name : os::list_directory(path_)) {
    if (!name.ends_with(".json")) continue;
    Record record = json_of(name);
    const std::optional<size_t> row = row_in(record, plan_sha256_);
    if (!row) {
      say(fmt::format("--resume: {}/{} is no whole record of this sweep and is left as it is", path_, name));
      continue;
    }
    paths_[*row].push_back(path_ + "/" + name);
    const auto known = found_.find(*row);
    if (known == found_.end() || (is_ok(record) && !is_ok(known->second))) found_[*row] = std::move(record);
  }
}

// Writes what was being written when the program ended.
void SweepFolder::finish_pending(const Say& say) {
  const std::string path = path_ + "/" + kPendingName;
  if (!os::exists(path)) return;
  const Record pending = json_of(kPendingName);
  std::vector<RowRecord> records;
  if (pending.is_array()) {
    for (const Record& record : pending) {
      if (const auto row = row_in(record, plan_sha256_)) records.emplace_back(*row, record);
    }
  }
  say(fmt::format("--resume: {} record{} had been measured and not written yet", records.size(),
                  records.size() == 1 ? "" : "s"));
  if (const auto failures = write(records); !failures.empty()) throw Error(failures.front().second);
  os::remove_file(path);
  for (RowRecord& record : records) found_[record.first] = std::move(record.second);
}

const Record* SweepFolder::found(size_t row) const {
  const auto found = found_.find(row);
  return found == found_.end() ? nullptr : &found->second;
}

std::vector<std::pair<size_t, Error>> SweepFolder::write(const std::vector<RowRecord>& records) {
  std::vector<std::pair<size_t, Error>> failures;
  if (records.empty()) return failures;
  const std::string pending = path_ + "/" + kPendingName;
  bool all_kept = true;
  try {
    Record all = Record::array();
    for (const auto& [row, record] : records) all.push_back(record);
    os::write_file_atomically(pending, to_text(all));
  } catch (const Error&) {
    all_kept = false;  // a disk that is nearly full may have room for some
  }
  for (const auto& [row, record] : records) {
    try {
      std::vector<std::string>& paths = paths_[row];
      const std::string path = write_record(record, path_, paths);
      for (const std::string& old : paths) {
        if (old != path) os::remove_file(old);
      }
      paths = {path};
    } catch (const Error& error) {
      failures.emplace_back(row, error);
      if (paths_[row].empty()) paths_.erase(row);
    }
  }
  if (all_kept && failures.empty()) {
    try {
      os::remove_file(pending);
    } catch (const Error& error) {
      failures.emplace_back(records.front().first, error);
    }
  }
  return failures;
}

}  // namespace quantbench
