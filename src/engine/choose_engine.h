// What --engine auto takes, in the two moments that it may be known: before weights are loaded, and once a session is
// there that can be timed.
#pragma once

#include "engine/engine_cache.h"
#include "engine/session.h"

namespace quantbench {

// The engine that needs no test: the only one of the plan (requested: what --engine said), or the one that was chosen
// earlier, which becomes the plan's only one. Else no engine, and the plan stays as it is.
EngineChoice choose_untested(Plan* plan, std::string_view requested, const DeviceInfo& device,
                             const EngineCache& cache);

// By a test of the session's engines (Session::test_engines), whose result is kept. The session was made for the plan.
EngineChoice choose_by_test(Session& session, const Plan& plan, const DeviceInfo& device, const EngineCache& cache);

}  // namespace quantbench
