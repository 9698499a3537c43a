// Looks into the decode steps of a generation that was made: what each part of a step takes, and how many of its
// columns LLM.int8 treats as outliers. Nothing of it is a part of any run.
#pragma once

#include <optional>

#include "backend/outlier_ops.h"
#include "backend/step_parts.h"
#include "engine/session.h"

namespace quantbench {

struct StepTimes {
  double step_ns = 0;                     // a whole step, by the engine that the parts are of
  ByPart<std::optional<double>> part_ns;  // nothing of a part that the step has not
  ByPart<std::optional<int>> launches;    // kernels; nothing where there are none
  int rounds = 0;                         // that each of these is the median of
};
// Repeats, for about a second, a whole step and then its parts one after the other (all ops of the first, all of the
// second, …), each by Backend::record_part, at the mean context of the run's steps. So a part finds in the caches what
// the parts before it leave there, as in a step; what it computes with are not a step's numbers, since its ops do not
// wait for one another's results. By the device's clock where it has one; the host is ahead of it, since the step comes
// first. run: the session's last one, of at least two new tokens.
StepTimes time_parts(Backend& backend, Session& session, const Run& run);

// Makes the first decode steps of the run, the session's last one, again, with the tokens that it made; at most `steps`
// of them. What a step wrote it writes again.
ByPart<OutlierCount> count_outliers(Backend& backend, Session& session, const Run& run, int steps);

}  // namespace quantbench
