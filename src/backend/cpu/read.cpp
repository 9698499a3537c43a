// Loops that do nothing but read, to find out what this machine's memory gives.
#include "backend/cpu/simd.h"

namespace quantbench::cpu::QB_ISA {
namespace {

#if defined(__AVX512F__)
using Bits = __m512i;
QB_INLINE Bits no_bits() { return _mm512_setzero_si512(); }
QB_INLINE Bits load_bits(const char* p) { return _mm512_load_si512(p); }
QB_INLINE Bits merge(Bits a, Bits b) { return _mm512_or_si512(a, b); }
QB_INLINE uint64_t folded(Bits a) { return static_cast<uint64_t>(_mm512_reduce_or_epi64(a)); }
#else
using Bits = __m256i;
QB_INLINE Bits no_bits() { return _mm256_setzero_si256(); }
QB_INLINE Bits load_bits(const char* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
QB_INLINE Bits merge(Bits a, Bits b) { return _mm256_or_si256(a, b); }
QB_INLINE uint64_t folded(Bits a) {
  alignas(32) uint64_t words[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words), a);
  return words[0] | words[1] | words[2] | words[3];
}
#endif

constexpr size_t kStep = 256;    // bytes a turn
constexpr size_t kAhead = 2048;  // bytes that a software prefetch runs ahead
constexpr size_t kVectorBytes = sizeof(Bits);

}  // namespace

uint64_t read_plain(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  Bits a = no_bits(), b = no_bits();
  for (size_t i = 0; i < bytes; i += kStep) {
    for (size_t j = 0; j < kStep; j += 2 * kVectorBytes) {
      a = merge(a, load_bits(p + i + j));
      b = merge(b, load_bits(p + i + j + kVectorBytes));
    }
  }
  return folded(merge(a, b));
}

uint64_t read_prefetch(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  Bits a = no_bits(), b = no_bits();
  for (size_t i = 0; i < bytes; i += kStep) {
    for (size_t j = 0; j < kStep; j += 64) _mm_prefetch(p + i + j + kAhead, _MM_HINT_T0);
    for (size_t j = 0; j < kStep; j += 2 * kVectorBytes) {
      a = merge(a, load_bits(p + i + j));
      b = merge(b, load_bits(p + i + j + kVectorBytes));
    }
  }
  return folded(merge(a, b));
}

uint64_t read_streams(const void* data, size_t bytes) {
  constexpr int kStreams = 4;
  const char* p = static_cast<const char*>(data);
  const size_t part = bytes / kStreams;
  Bits acc[kStreams];
  for (int s = 0; s < kStreams; ++s) acc[s] = no_bits();
  for (size_t i = 0; i < part; i += kVectorBytes) {
    for (int s = 0; s < kStreams; ++s) acc[s] = merge(acc[s], load_bits(p + s * part + i));
  }
  return folded(merge(merge(acc[0], acc[1]), merge(acc[2], acc[3])));
}

}  // namespace quantbench::cpu::QB_ISA
