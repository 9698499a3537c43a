// The folder of a sweep: its plan first, then a record for every row. Whatever ends the program, --resume finds there
// what is finished, whole and once.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "app/run_plan.h"
#include "bench/environment.h"
#include "bench/record.h"
#include "core/os.h"

namespace quantbench {

// All that must be the same for two runs of the program to be one sweep: flags that change what is measured, seed,
// program, machine, devices, and the rows with their models and prompts. devices: what the plan's stand for.
Record plan_document(const RunPlan& plan, const std::vector<DeviceInfo>& devices, const BuildInfo& build,
                     const Environment& machine);
// "options/seed was 42 and is 43; …" of the first few differences; empty: there is none.
std::string plan_differences(const Record& before, const Record& now);

using Say = std::function<void(const std::string&)>;

class SweepFolder {
 public:
  using RowRecord = std::pair<size_t, Record>;  // row of the plan

  // Takes the folder, makes it where it is missing, and writes the plan. Error usage where it has a sweep and `resume`
  // is not asked for, where that is another sweep, or where another process is at it; Error disk.
  SweepFolder(const std::string& path, const Record& plan, bool resume, const Say& say);
  const std::string& plan_sha256() const { return plan_sha256_; }

  // What was there before, by row; of a row that has none yet, null.
  const Record* found(size_t row) const;
  // Those of rows that were measured together. After a SIGKILL at any moment the folder has all of them, perhaps in
  // group.pending, or what it had before. Returns what went wrong, by row.
  std::vector<std::pair<size_t, Error>> write(const std::vector<RowRecord>& records);
  size_t count() const { return paths_.size(); }  // rows that have a record

 private:
  Record json_of(const std::string& name) const;  // discarded where it is none, or nests too deeply
  void refuse_strangers() const;
  void finish_pending(const Say& say);
  void read_records(const Say& say);

  std::string path_, plan_sha256_;
  os::OutputFolder lock_;
  std::map<size_t, std::vector<std::string>> paths_;  // of a row's files; several only where a write was cut short
  std::map<size_t, Record> found_;
};

}  // namespace quantbench
