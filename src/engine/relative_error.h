// How far numbers lie from others, as a share of these.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>

namespace quantbench {

// √(Σ(found − expected)² / Σ expected²); both of one length. NaN where a number is.
inline double relative_error(std::span<const float> found, std::span<const float> expected) {
  double difference = 0, square = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double apart = double{found[i]} - expected[i];
    difference += apart * apart;
    square += double{expected[i]} * expected[i];
  }
  return std::sqrt(difference / square);
}

}  // namespace quantbench
