#include "engine/engine_choice.h"

#include <algorithm>
#include <cassert>

#include "core/error.h"

namespace quantbench {
namespace {

constexpr int64_t kTestNs = 1'000'000'000, kRoundNs = 30'000'000;
constexpr int kMostRoundSteps = 64, kLeastRounds = 3, kMostRounds = 15;  // at 50 µs a step all of them take 0.1 s
constexpr double kTie = 0.01;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

std::string_view name_of(ChosenBy by) {
  switch (by) {
    case ChosenBy::only: return "only one possible";
    case ChosenBy::request: return "requested";
    case ChosenBy::self_test: return "self-test";
    case ChosenBy::cache: return "self-test (cached)";
    case ChosenBy::failure: return "the other failed";
  }
  return "?";
}

std::string_view fastest(std::span<const EngineTime> times) {
  assert(!times.empty());
  const auto is_faster = [](const EngineTime& a, const EngineTime& b) { return a.step_ns < b.step_ns; };
  const double least_ns = std::min_element(times.begin(), times.end(), is_faster)->step_ns;
  return std::find_if(times.rbegin(), times.rend(),
                      [&](const EngineTime& t) { return t.step_ns <= least_ns * (1 + kTie); })
      ->engine;
}

EngineChoice test_in_turn(std::span<const TimedEngine> engines, int most_steps) {
  assert(!engines.empty() && most_steps >= 1);
  const TimedEngine* running = nullptr;
  const auto step_ns = [&](const TimedEngine& engine, int steps) {
    running = &engine;
    return static_cast<double>(engine.run_ns(steps)) / steps;
  };
  try {
    std::vector<std::vector<double>> rounds(engines.size());
    std::vector<int> steps(engines.size(), 1);
    for (const TimedEngine& engine : engines) step_ns(engine, 1);
    double spent_ns = 0;
    for (int round = 0; round < kMostRounds && (round < kLeastRounds || spent_ns < kTestNs); ++round) {
      for (size_t i = 0; i < engines.size(); ++i) {
        const size_t turn = round % 2 == 0 ? i : engines.size() - 1 - i;  // none always follows the other
        const double ns = step_ns(engines[turn], steps[turn]);
        rounds[turn].push_back(ns);
        spent_ns += ns * steps[turn];
        const double fitting = static_cast<double>(kRoundNs) / std::max(ns, 1.0);
        steps[turn] = static_cast<int>(std::clamp(fitting, 1.0, double{kMostRoundSteps}));
        steps[turn] = std::min(steps[turn], most_steps);
      }
    }
    EngineChoice choice{.by = ChosenBy::self_test};
    for (size_t i = 0; i < engines.size(); ++i) choice.times.push_back({engines[i].name, median(rounds[i])});
    choice.engine = fastest(choice.times);
    return choice;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::interrupted) throw;
    const TimedEngine* const failed = running;
    for (const TimedEngine& engine : engines) {
      if (&engine == failed) continue;
      try {
        engine.run_ns(1);
        return {.engine = engine.name, .by = ChosenBy::failure, .failure = error.what()};
      } catch (const Error&) {
        // The GPU is lost to this process, of which the first failure says more.
      }
    }
    throw;
  }
}

}  // namespace quantbench
