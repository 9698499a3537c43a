#include "backend/cpu/features.h"

#include <cpuid.h>

#include "core/error.h"
#include "core/os.h"

namespace quantbench::cpu {
namespace {

std::string missing(Isa isa, const Features& f) {
  std::string list;
  const auto need = [&list](bool present, const char* name) {
    if (!present) list += (list.empty() ? "" : ", ") + std::string(name);
  };
  need(f.avx2, "AVX2");
  need(f.fma, "FMA");
  need(f.f16c, "F16C");
  if (isa == Isa::avx512) {
    need(f.avx512, "AVX-512 F/BW/VL/DQ");
    need(f.vnni, "AVX-512 VNNI");
  }
  return list;
}

}  // namespace

std::string_view name_of(Isa isa) { return isa == Isa::avx512 ? "avx512" : "avx2"; }
std::string_view features_of(Isa isa) { return isa == Isa::avx512 ? "avx512+vnni" : "avx2+fma+f16c"; }

Features detect_features() {
  Features f;
  __builtin_cpu_init();  // its answers take into account which registers the operating system saves
  f.avx2 = __builtin_cpu_supports("avx2");
  f.fma = __builtin_cpu_supports("fma");
  f.avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  f.vnni = __builtin_cpu_supports("avx512vnni");
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  // F16C uses the registers of AVX, so it is usable where AVX2 is.
  f.f16c = f.avx2 && __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  const bool is_amd = __builtin_cpu_is("amd") != 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0) {
    constexpr unsigned kZen5 = 0x1A;
    f.wants_fetching = is_amd && ((eax >> 8) & 0xF) + ((eax >> 20) & 0xFF) == kZen5;
  }
  return f;
}

bool can_run(Isa isa, const Features& features) { return missing(isa, features).empty(); }

std::vector<Isa> available_isas() {
  const Features features = detect_features();
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    if (can_run(isa, features)) isas.push_back(isa);
  }
  return isas;
}

Isa select_isa(std::string_view requested, const Features& features) {
  std::string name(requested), origin = "--isa";
  if (name.empty() || name == "auto") {
    const auto chosen = os::environment("QUANTBENCH_ISA");
    name = chosen && !chosen->empty() ? *chosen : "auto";
    origin = "the environment variable QUANTBENCH_ISA";
  }
  if (!can_run(Isa::avx2, features)) {
    fail(ErrorKind::device,
         "the cpu backend cannot run here: this CPU lacks {}; it needs AVX2, FMA and F16C (Intel since Haswell, 2013; "
         "AMD since Excavator, 2015); use such a machine, or the slow reference backend with --device reference",
         missing(Isa::avx2, features));
  }
  if (name == "auto") return can_run(Isa::avx512, features) ? Isa::avx512 : Isa::avx2;
  if (name == "avx2") return Isa::avx2;
  if (name == "avx512") {
    if (can_run(Isa::avx512, features)) return Isa::avx512;
    fail(ErrorKind::device, "{} asks for the avx512 kernels, but this CPU lacks {}; choose avx2 or auto", origin,
         missing(Isa::avx512, features));
  }
  fail(ErrorKind::usage, "{}: expected auto, avx2 or avx512, found '{}'", origin, name);
}

}  // namespace quantbench::cpu
