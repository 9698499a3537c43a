// Records with all that the program writes, for fuzzing to begin with. Apart from records_fuzz.cpp, since the rooms
// bench and report each have an Outcome.
#pragma once

#include <string>

#include "model/model.h"

namespace quantbench::fuzz {

std::string whole_record(Precision precision, bool with_quality);

}  // namespace quantbench::fuzz
