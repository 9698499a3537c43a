// The fast backend for x86-64: AVX2 or AVX-512 kernels, chosen when it is made.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace quantbench {

// Error device where the CPU lacks what is needed, usage for an unknown isa.
std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options);

}  // namespace quantbench
