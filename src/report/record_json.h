// JSON of records from outside, taken apart several times as fast as nlohmann's parser does: of a report of ten
// thousand records that is where the time goes.
#pragma once

#include <optional>
#include <string_view>

#include "bench/record.h"

namespace quantbench {

// What becomes of the times of single decode steps, most of a record's text.
enum class Spans : uint8_t {
  all,    // they stay as they are
  steps,  // a run's "spans" become "step_ns": what each decode step took (decode_steps_of)
};

// Nothing of what is not JSON, is deeper than 64 levels, or has a key twice in one object: nlohmann's parser says why.
std::optional<Record> parse_record(std::string_view text, Spans spans);

// Each decode step of a run of a record, in nanoseconds, by the device's clock where it tells them, else by the host's;
// empty where one span stands for all steps. Error Record::exception of spans that are not as records have them.
std::vector<double> decode_steps_of(const Record& run);

}  // namespace quantbench
