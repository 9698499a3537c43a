#include "app/bundled.h"

#include <fmt/ranges.h>

#include "core/error.h"
#include "core/os.h"

namespace quantbench {

std::vector<std::string> bundled_places() {
  // Where a place was named, no other will do.
  if (const auto told = os::environment("QUANTBENCH_BUNDLED_MODEL"); told && !told->empty()) return {*told};
  std::vector<std::string> places;
  const std::string program = os::executable_path();
  places.push_back(program.substr(0, program.rfind('/')) + "/../share/quantbench/models/bundled");
  places.emplace_back(QB_BUNDLED_IN_SOURCE);
  return places;
}

std::optional<std::string> find_bundled() {
  for (const std::string& place : bundled_places()) {
    if (os::exists(place + "/config.json")) return os::real_path(place);
  }
  return std::nullopt;
}

std::string require_sample_picture() {
  constexpr const char* kName = "/../sample.jpg";
  for (const std::string& place : bundled_places()) {
    if (os::exists(place + kName)) return os::real_path(place + kName);
  }
  fail(ErrorKind::hub, "the sample picture is not there (looked beside {}); give --image-path",
       fmt::join(bundled_places(), ", "));
}

std::string require_validation_text() {
  constexpr const char* kName = "/validation.txt";
  for (const std::string& place : bundled_places()) {
    if (os::exists(place + kName)) return os::real_path(place + kName);
  }
  fail(ErrorKind::hub, "the built-in text is not there (looked in {}); give --quality FILE",
       fmt::join(bundled_places(), ", "));
}

std::string require_bundled() {
  if (auto found = find_bundled()) return *found;
  fail(ErrorKind::hub,
       "the bundled model is not there (looked in {}); give --model-id, or set QUANTBENCH_BUNDLED_MODEL to a folder "
       "that has it",
       fmt::join(bundled_places(), ", "));
}

}  // namespace quantbench
