// What `quantbench run` does once its flags are read.
#pragma once

#include <string>

#include "app/run_plan.h"

namespace quantbench {

// Measures what the flags ask for (or, with --dry-run, says what that would take), writes records, and prints them as
// `output` (table, md, csv, json or jsonl) with the columns of `schema` (of csv). Returns the exit code, 0; what was
// not as it should be is thrown when all is written and printed. Error of any kind.
int run_sweep(const RunFlags& flags, const std::string& output, const std::string& schema);

}  // namespace quantbench
