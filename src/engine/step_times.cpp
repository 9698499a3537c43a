#include "engine/step_times.h"

#include <algorithm>
#include <cassert>

#include "core/os.h"

namespace quantbench {
namespace {

constexpr int kLeastRounds = 6, kMostRounds = 51;  // the first of them warms up and does not count
constexpr int64_t kEnough_ns = 1'000'000'000;

double median_of(std::vector<double> values) {
  assert(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// Times between marks, by the device's clock where there is one.
class Marks {
 public:
  explicit Marks(Backend& backend) : backend_(backend), timeline_(backend.timeline()) {}
  void restart() {
    backend_.synchronize();
    if (timeline_) timeline_->restart();
    host_ns_.clear();
  }
  void mark() {
    if (timeline_)
      timeline_->mark();
    else
      host_ns_.push_back(os::steady_now_ns());
  }
  std::vector<int64_t> times_ns() { return timeline_ ? timeline_->times_ns() : host_ns_; }

 private:
  Backend& backend_;
  std::unique_ptr<Timeline> timeline_;
  std::vector<int64_t> host_ns_;
};

std::vector<int32_t> tokens_at(const Run& run, int token) {
  std::vector<int32_t> ids;
  for (int s = 0; s < run.sequences; ++s) {
    ids.push_back(
        run.tokens[static_cast<size_t>(s) * static_cast<size_t>(run.new_tokens()) + static_cast<size_t>(token)]);
  }
  return ids;
}

// Where the first new token stands: behind the context and the prompt, or, where an encoder took that, its own start.
int first_position(const Session& session, const Run& run) {
  return run.context_tokens + (session.prompt_is_encoded() ? 1 : run.prompt_tokens);
}

}  // namespace

StepTimes time_parts(Backend& backend, Session& session, const Run& run) {
  const int new_tokens = run.new_tokens();
  assert(new_tokens >= 2);
  const Tape step = session.step_ops();
  const ByPart<Tape> parts = cut_by_part(step);
  std::vector<std::unique_ptr<Program>> programs;
  std::vector<StepPart> part_of;
  programs.push_back(backend.record_part(step));
  for (int i = 0; i < kStepParts; ++i) {
    const auto part = static_cast<StepPart>(i);
    if (parts[part].empty()) continue;
    programs.push_back(backend.record_part(parts[part]));
    part_of.push_back(part);
  }

  // A step at place p sees p + 1 positions; so this is the mean of all, unless there are too few: a round goes on by
  // two places, one for the step and one for the choice among its parts.
  const int place = first_position(session, run) + std::min(new_tokens / 2 - 1, new_tokens - 3);
  const std::vector<int32_t> ids = tokens_at(run, std::max(0, new_tokens / 2 - 1));
  Marks marks(backend);
  std::vector<std::vector<double>> taken_ns(programs.size());
  const int64_t start_ns = os::steady_now_ns();
  for (int round = 0; round < kMostRounds; ++round) {
    if (round >= kLeastRounds && os::steady_now_ns() - start_ns > kEnough_ns) break;
    session.place(place, ids);
    marks.restart();
    marks.mark();
    for (const auto& program : programs) {
      program->run();
      marks.mark();
    }
    const std::vector<int64_t> times_ns = marks.times_ns();
    if (round == 0) continue;
    for (size_t i = 0; i < programs.size(); ++i) {
      taken_ns[i].push_back(static_cast<double>(times_ns[i + 1] - times_ns[i]));
    }
  }
  StepTimes times;
  times.rounds = static_cast<int>(taken_ns.front().size());
  times.step_ns = median_of(taken_ns.front());
  for (size_t i = 0; i < part_of.size(); ++i) {
    times.part_ns[part_of[i]] = median_of(taken_ns[i + 1]);
    times.launches[part_of[i]] = programs[i + 1]->launches();
  }
  return times;
}

ByPart<OutlierCount> count_outliers(Backend& backend, Session& session, const Run& run, int steps) {
  const int first = first_position(session, run);
  const Tape step = session.step_ops();
  OutlierOps ops(backend);
  for (int i = 0; i < std::min(steps, run.new_tokens() - 1); ++i) {
    session.place(first + i, tokens_at(run, i));
    for (const Op& op : step) quantbench::run(op, ops);
  }
  backend.synchronize();
  return ops.counts();
}

}  // namespace quantbench
