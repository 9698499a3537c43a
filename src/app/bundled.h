// The model that comes with the program.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace quantbench {

// Where it is looked for: $QUANTBENCH_BUNDLED_MODEL, ../share/quantbench/models/bundled beside the program's folder,
// and the source tree that the program was built in.
std::vector<std::string> bundled_places();
std::optional<std::string> find_bundled();
std::string require_bundled();
// The picture beside the bundled model. Error hub where it is not there.
std::string require_sample_picture();  // Error hub that lists the places
// The text beside the bundled model that it never read. Error hub where it is not there.
std::string require_validation_text();
constexpr const char* kBundledName = "bundled";  // also as --model-id

}  // namespace quantbench
