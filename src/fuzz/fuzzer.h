// What a fuzz target is: a function of bytes from outside that must return or throw an Error, inputs to begin with, and
// changes that know the format. driver.cpp makes a libFuzzer program of each (preset fuzz, tools/fuzz.sh).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quantbench::fuzz {

// Small, quick and repeatable from a seed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  uint64_t next() {  // xorshift64*
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1Du;
  }
  size_t below(size_t n) { return n == 0 ? 0 : static_cast<size_t>((next() >> 11) % n); }
  bool one_in(size_t n) { return below(n) == 0; }
  template <typename T>
  const T& pick(std::span<const T> from) {
    return from[below(from.size())];
  }

 private:
  uint64_t state_;
};

// Each target defines these three.
// Takes the input as the program would; whatever but an Error leaves it, and any contradiction (check), is a finding.
void run(std::string_view input);
std::vector<std::string> seeds();
// other: another input to take pieces of, perhaps empty.
void mutate(std::string* input, std::string_view other, Random& random);

// Ends the program where a claim about an accepted input does not hold, as a fault that libFuzzer reports.
void check(bool holds, const char* claim);
// A number below n that depends on the whole input alone: what takes much longer than reading an input is done to one
// in so many, and to the same ones whenever that input is tried again.
size_t drawn(std::string_view input, size_t n);
// Any bytes changed at random, as libFuzzer does it.
void mutate_bytes(std::string* text, Random& random);

}  // namespace quantbench::fuzz
