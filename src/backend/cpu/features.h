// Which vector instructions this CPU and its operating system offer, and which of our two kernel sets runs on it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quantbench::cpu {

// avx2: AVX2, FMA and F16C. avx512: also AVX-512 F, BW, VL, DQ and VNNI; without VNNI a CPU runs the avx2 kernels.
enum class Isa : uint8_t { avx2, avx512 };
std::string_view name_of(Isa isa);      // "avx2", "avx512", as in BackendOptions::isa
std::string_view features_of(Isa isa);  // "avx2+fma+f16c", "avx512+vnni", for reports

struct Features {
  bool avx2 = false, fma = false, f16c = false;
  bool avx512 = false;  // F, BW, VL and DQ
  bool vnni = false;    // AVX512_VNNI
  // Dense products of few rows are faster where software fetches weights ahead. So it is on Zen 5
  // (docs/performance.md); on Zen 4 they then get half of what memory gives, since a fetch that finds no room in the
  // first level's queue holds up what is behind it. Not known of others, whose hardware is left alone.
  bool wants_fetching = false;
};
Features detect_features();

bool can_run(Isa isa, const Features& features);
std::vector<Isa> available_isas();  // of this machine, the slowest first; empty if not even avx2

// requested: "auto" (then the environment's QUANTBENCH_ISA, then the best), "avx2" or "avx512". Error usage for another
// name, device where this CPU cannot run it.
Isa select_isa(std::string_view requested, const Features& features);

}  // namespace quantbench::cpu
