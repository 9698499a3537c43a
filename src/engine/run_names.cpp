// What the parts of a run are called in records.
#include "engine/session.h"

namespace quantbench {

std::string_view name_of(Phase phase) {
  switch (phase) {
    case Phase::encode: return "encode";
    case Phase::vision: return "vision";
    case Phase::prefill: return "prefill";
    case Phase::decode: return "decode";
  }
  return "?";
}

std::string_view name_of(Clock clock) { return clock == Clock::host ? "host" : "device"; }

}  // namespace quantbench
