// Which engine repeats a step, where the plan leaves several: the faster of a self-test.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quantbench {

enum class ChosenBy : uint8_t { only, request, self_test, cache, failure };
std::string_view name_of(ChosenBy by);  // as records have it: "self-test (cached)"

struct EngineTime {  // of one that was tested
  std::string engine;
  double step_ns = 0;
};

struct EngineChoice {
  std::string engine;  // empty: still to be chosen
  ChosenBy by = ChosenBy::only;
  std::vector<EngineTime> times;  // where they were compared, now or when the choice was put into the cache
  std::string failure;            // by failure: why the other engine could not be taken
};

struct TimedEngine {
  std::string name;
  std::function<int64_t(int steps)> run_ns;  // so many steps, until the last is done. Error where it cannot
};

// Each engine takes a step that is not timed, then short rounds of at most `most_steps` steps, in turn and about a
// second in all; the median round counts, and the last engine stays unless another is more than 1 % faster. Where an
// engine fails the next is taken without being timed; the first failure's Error, where none is left that runs.
EngineChoice test_in_turn(std::span<const TimedEngine> engines, int most_steps);

// The last of those that are within 1 % of the fastest. In a plan's order that is the persistent engine: one launch a
// token, which a busy host holds up least; and what is equal but for noise is chosen alike every time.
std::string_view fastest(std::span<const EngineTime> times);

}  // namespace quantbench
