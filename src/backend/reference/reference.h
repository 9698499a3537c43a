// The specification: every op written out once, scalar and plain. Slow on purpose; other backends are compared with it.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace quantbench {

std::unique_ptr<Backend> make_reference_backend(const BackendOptions& options);

}  // namespace quantbench
