// The one place that names concrete backends.
#include <fmt/ranges.h>

#include "backend/backend.h"
#include "backend/cpu/cpu.h"
#include "backend/cuda/cuda.h"
#include "backend/reference/reference.h"
#include "core/error.h"

namespace quantbench {
namespace {

struct Entry {
  std::string_view name;
  std::unique_ptr<Backend> (*make)(const BackendOptions&);
};
// "auto" takes the first.
constexpr Entry kBackends[] = {
#if defined(__x86_64__)
    {"cpu", make_cpu_backend},
#endif
#if defined(QB_CUDA_BACKEND)
    {"cuda", cuda::make_backend},
#endif
    {"reference", make_reference_backend},
};

}  // namespace

std::unique_ptr<Backend> make_backend(std::string_view name, const BackendOptions& options) {
  if (name == "auto") return kBackends[0].make(options);
  for (const Entry& entry : kBackends) {
    if (entry.name == name) return entry.make(options);
  }
  fail(ErrorKind::usage, "there is no backend '{}'; this build has {}: name one of them, or auto", name,
       fmt::join(backend_names(), ", "));
}

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kBackends) names.emplace_back(entry.name);
  return names;
}

}  // namespace quantbench
