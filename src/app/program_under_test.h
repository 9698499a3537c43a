// For tests of the program as people use it: started as a process, with what it prints and leaves behind.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/os.h"
#include "testing/test_folder.h"
#include "testing/test_json_schema.h"

namespace quantbench {

constexpr int64_t kPatience_ns = 120'000'000'000;  // a slow machine, with sanitizers
inline const std::string kTiny = QB_SOURCE_DIR "/testdata/models/llama-gqa";
inline const std::string kTokenizers = QB_SOURCE_DIR "/testdata/tokenizers";

struct Result {
  int code = -1;
  std::string out, err;
};

// The program in a shell (which asks no Hub, unless `before` says otherwise), so that its standard error goes to a
// file; the shell becomes the program (exec).
class TestedProgram {
 public:
  TestedProgram(const std::vector<std::string>& arguments, const std::string& before = "",
                const std::string& after = "")
      : process_("/bin/sh", shell_arguments(before, after, folder_ / "stderr", arguments)) {}

  std::string errors() const { return os::read_small_file(folder_ / "stderr").value_or(""); }
  pid_t pid() const { return process_.pid(); }
  Result finish() {
    Result result;
    std::string line;
    os::Process::Got got;
    while ((got = process_.read_line(&line, kPatience_ns)) == os::Process::Got::line) result.out += line + "\n";
    // Nobody reads what it may still be about to print, so it would wait for ever.
    if (got == os::Process::Got::timeout) process_.kill();
    result.code = process_.wait().code;
    result.err = errors();
    return result;
  }
  // Until the text stands in its standard error.
  bool wait_for(const std::string& text) {
    for (int64_t end = os::steady_now_ns() + kPatience_ns; os::steady_now_ns() < end;) {
      if (errors().find(text) != std::string::npos) return true;
      std::string line;
      if (process_.read_line(&line, 20'000'000) == os::Process::Got::end) return false;
    }
    return false;
  }

 private:
  static std::vector<std::string> shell_arguments(const std::string& before, const std::string& after,
                                                  const std::string& errors,
                                                  const std::vector<std::string>& arguments) {
    std::vector<std::string> all{
        "-c", "export HF_HUB_OFFLINE=1; " + before + " exec \"$@\" 2> '" + errors + "' " + after, "sh", QB_PROGRAM};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return all;
  }
  TestFolder folder_;
  os::Process process_;
};

inline Result run(const std::vector<std::string>& arguments, const std::string& before = "",
                  const std::string& after = "") {
  return TestedProgram(arguments, before, after).finish();
}

// A quick sweep of the tiny checkpoint: no tokenizer there, so ids. The reference backend spares the test the bandwidth
// probe, which reads gigabytes.
inline std::vector<std::string> tiny_run(const std::string& out, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments{"run",       "--model-id", kTiny, "--pg",  "4,8", "--device",
                                     "reference", "-r",         "2",   "--out", out};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}
// One of that many runs, with the bandwidth probe in between.
inline std::vector<std::string> long_run(const std::string& out, const std::string& runs) {
  return {"run", "--model-id", kTiny, "--pg", "4,200", "--device", "cpu", "--out", out, "-r", runs, "-o", "jsonl"};
}

inline std::vector<nlohmann::json> lines_of(const std::string& text) {
  std::vector<nlohmann::json> records;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) records.push_back(nlohmann::json::parse(line));
  return records;
}

// others: files that may be beside the records and the plan.
inline std::vector<nlohmann::json> records_in(const std::string& folder, const std::vector<std::string>& others = {}) {
  std::vector<nlohmann::json> records;
  for (const std::string& name : os::list_directory(folder)) {
    if (name == "sweep.plan" || std::count(others.begin(), others.end(), name) > 0) continue;
    EXPECT_TRUE(name.ends_with(".json")) << name;
    records.push_back(read_json_file(folder + "/" + name));
  }
  return records;
}

inline void expect_well_formed(const nlohmann::json& record) {
  JsonSchema schema(read_json_file(QB_SOURCE_DIR "/docs/record.schema.json"));
  EXPECT_THAT(schema.check(record), testing::IsEmpty());
}

// A copy of the tiny checkpoint to spoil.
inline void copy_tiny(const TestFolder& folder) {
  for (const std::string& name : os::list_directory(kTiny)) {
    folder.write(name, os::read_file(kTiny + "/" + name, 1 << 24));
  }
}

}  // namespace quantbench
