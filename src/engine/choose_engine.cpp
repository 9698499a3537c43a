#include "engine/choose_engine.h"

namespace quantbench {

EngineChoice choose_untested(Plan* plan, std::string_view requested, const DeviceInfo& device,
                             const EngineCache& cache) {
  if (plan->engines.size() == 1) {
    const std::string engine(plan->engines.front().name);
    return {.engine = engine, .by = requested == engine ? ChosenBy::request : ChosenBy::only};
  }
  const auto chosen = cache.find(engine_key(device, plan->tape));
  if (!chosen || !plan->has(chosen->engine)) return {};
  plan->keep(chosen->engine);
  return *chosen;
}

EngineChoice choose_by_test(Session& session, const Plan& plan, const DeviceInfo& device, const EngineCache& cache) {
  EngineChoice choice = session.test_engines();
  // What failed may not fail again.
  if (choice.by == ChosenBy::self_test) cache.keep(engine_key(device, plan.tape), choice);
  return choice;
}

}  // namespace quantbench
