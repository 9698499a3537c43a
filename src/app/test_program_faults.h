// For tests: the program, one call of the system after another failing.
#pragma once

#include "app/program_under_test.h"

namespace quantbench {

inline constexpr const char* kCalls[] = {"open",  "read",   "pread", "write", "fsync",
                                         "close", "rename", "mkdir", "map",   "new"};

inline std::string quoted(const std::string& text) { return "'" + text + "'"; }

class ProgramFaults : public testing::Test {
 protected:
  // Runs the command with the Nth call failing, for N from 1 until there are not so many; `check` looks at what each
  // leaves in the folder `out`, whose path {} in the arguments stands for.
  void fail_each(const std::vector<std::string>& arguments, bool in_workers,
                 const std::function<void(const Result&, const std::string& out)>& check) {
    const bool all = os::environment("QUANTBENCH_TEST_FAULTS").value_or("") == "all";
    for (const std::string call : kCalls) {
      long runs = 0;
      // Of allocations there are many thousands.
      const auto step = [&](long n) { return !all ? std::max(1L, n / 2) : call == "new" ? std::max(1L, n / 50) : 1L; };
      for (long n = 1;; n += step(n)) {
        SCOPED_TRACE(fmt::format("{} {} fails{}", call, n, in_workers ? " in a worker" : ""));
        const TestFolder folder;
        std::vector<std::string> with{QB_FAULTY_PROGRAM};
        for (const std::string& argument : arguments) with.push_back(argument == "{}" ? folder / "out" : argument);
        // The shell becomes the program under test, and that at once the one with faults.
        const Result r =
            run(with, fmt::format("QB_FAULT='{} {}' QB_FAULT_SEEN={} XDG_CACHE_HOME={} {} ; export QB_FAULT "
                                  "QB_FAULT_SEEN XDG_CACHE_HOME QB_FAULT_IN; {} shift;",
                                  call, n, quoted(folder / "seen"), quoted(folder / "cache"),
                                  in_workers ? "QB_FAULT_IN=worker" : "", environment_));
        if (!os::exists(folder / "seen")) {
          ASSERT_EQ(r.code, 0) << r.err;
          break;  // there are no N of them
        }
        ++runs;
        // None of it ends by a signal (−1) or with a code of a shell's.
        EXPECT_TRUE(r.code == 0 || (r.code >= 64 && r.code <= 71)) << r.code << "\n" << r.err;
        if (r.code != 0) {
          EXPECT_THAT(r.err, testing::HasSubstr("quantbench: error: "));
        }
        check(r, folder / "out");
        if (HasFailure()) return;
      }
      total_ += runs;
      std::printf("%ld faults of %s%s\n", runs, call.c_str(), in_workers ? " in workers" : "");
    }
    EXPECT_GT(total_, 30) << "too few calls failed to show anything";
  }
  std::string environment_;
  long total_ = 0;
};

}  // namespace quantbench
