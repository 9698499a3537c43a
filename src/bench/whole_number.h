// Counts out of a record that somebody else may have written.
#pragma once

#include <limits>
#include <utility>

#include "bench/record.h"
#include "core/error.h"

namespace quantbench {

// j as a T: a number that is whole, also where it is written as 64.0, and fits; else an Error usage, or what
// nlohmann::json throws of what is no number.
template <typename T>
T whole_number(const Record& j) {
  bool fits = true;
  if (j.is_number_float()) {
    constexpr T kHalf = std::numeric_limits<T>::max() / 2 + 1;
    constexpr double kEnd = static_cast<double>(kHalf) * 2;  // max + 1, exactly
    const double value = j.get<double>();
    fits = value >= static_cast<double>(std::numeric_limits<T>::min()) && value < kEnd &&
           static_cast<double>(static_cast<T>(value)) == value;
  } else if (j.is_number_unsigned()) {
    fits = std::in_range<T>(j.get<uint64_t>());
  } else if (j.is_number_integer()) {
    fits = std::in_range<T>(j.get<int64_t>());
  }
  if (!fits) fail(ErrorKind::usage, "{} where a whole number of {} bits is expected", j.dump(), 8 * sizeof(T));
  return j.get<T>();
}

}  // namespace quantbench
