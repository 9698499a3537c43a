// What this CPU can do, for code that carries a faster version of itself beside the portable one.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace quantbench {

// AVX2, F16C and FMA, which every CPU since Haswell (2013) and Zen (2017) has together; the kernel must save the
// registers too, which the compiler's check includes. F16C is read by hand: clang 14's builtin does not know its name.
inline bool cpu_has_avx2() {
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool has_f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  return has_f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

}  // namespace quantbench
