// Seeded sampling, the same on every backend. Arg-max over logit / temperature + Gumbel(hash(seed, position, id)) draws
// from softmax(logits / temperature) (the Gumbel-max trick), independent of batch and threads. What top_k and top_p
// leave is found in whole numbers: ids are counted, or weighed with a mass that all backends round alike.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define QB_ANYWHERE __host__ __device__
#else
#define QB_ANYWHERE
#endif

namespace quantbench {

// splitmix64's finaliser (Steele, Lea and Flood 2014): every input bit reaches every output bit.
QB_ANYWHERE constexpr uint64_t mix64(uint64_t z) {
  z += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// position: of the row that the logits belong to; id: the candidate token.
QB_ANYWHERE inline float gumbel_noise(uint64_t seed, int32_t position, int32_t id) {
  const uint64_t counter = (uint64_t{static_cast<uint32_t>(position)} << 32) | static_cast<uint32_t>(id);
  const uint64_t bits = mix64(mix64(seed) ^ counter) >> 40;            // 24 bits
  const double uniform = (static_cast<double>(bits) + 0.5) * 0x1p-24;  // never 0 or 1
  return static_cast<float>(-std::log(-std::log(uniform)));
}

// What arg-max compares. NaN never wins: it compares false with everything.
QB_ANYWHERE inline float sampling_score(float logit, float temperature, uint64_t seed, int32_t position, int32_t id) {
  return temperature > 0 ? logit + temperature * gumbel_noise(seed, position, id) : logit;
}

// A number's place in the order of logits: larger for larger ones, the same for 0 and -0; NaN, below all, is 0.
QB_ANYWHERE inline uint32_t order_key(float logit) {
  if (logit != logit) return 0;
  const float x = logit + 0.0f;  // 0 for -0
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
QB_ANYWHERE inline float logit_of_key(uint32_t key) {
  const uint32_t bits = key >> 31 != 0 ? key & 0x7fffffffu : ~key;
  float logit;
  std::memcpy(&logit, &bits, sizeof logit);
  return logit;
}

// 2^40 · exp((logit - most) / temperature), rounded down, with an error below 2^-17 of it: additions, products and a
// division in fp32 that round alike everywhere, in this order. most: the largest logit. 0 for NaN.
constexpr int kMassBits = 40;
QB_ANYWHERE inline uint64_t sampling_mass(float logit, float most, float temperature) {
  if (logit == most) return uint64_t{1} << kMassBits;  // of infinity, too
  const float x = (logit - most) / temperature * 1.44269504f;
  if (!(x > -kMassBits)) return 0;
  const int whole = static_cast<int>(x - 0.5f);  // the nearest
  const float f = x - static_cast<float>(whole);
  // 2^f on [-1/2, 1/2]: the Taylor series of exp(f · ln 2), cut where it is below fp32's last place.
  float p = 1.52527338e-5f;
  p = p * f + 1.54035304e-4f;
  p = p * f + 1.33335581e-3f;
  p = p * f + 9.61812911e-3f;
  p = p * f + 5.55041087e-2f;
  p = p * f + 2.40226507e-1f;
  p = p * f + 6.93147181e-1f;
  p = p * f + 1.0f;
  constexpr int kFraction = 23;  // what fp32 holds of a number between 1 and 2
  return static_cast<uint64_t>(p * static_cast<float>(1 << kFraction)) << (kMassBits - kFraction) >> -whole;
}
// The mass that is to be kept of `total`, counted from the largest logit down: 1 … total, or 0 of 0.
QB_ANYWHERE inline uint64_t mass_to_keep(double top_p, uint64_t total) {
  const double wanted = std::ceil(top_p * static_cast<double>(total));
  const uint64_t rank = wanted < 1 ? 1 : static_cast<uint64_t>(wanted);
  return rank < total ? rank : total;
}

// The key at which a count or a mass from the largest down reaches a rank is found digit by digit, each by one pass
// that adds up what the keys with the digits before it have for each next digit.
constexpr int kKeyDigits = 3, kDigitBits = 11, kDigitValues = 1 << kDigitBits;
QB_ANYWHERE constexpr int digit_shift(int digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }
QB_ANYWHERE constexpr int digit_bits(int digit) { return digit == 2 ? 10 : kDigitBits; }
// prefix: the digits before this one.
QB_ANYWHERE inline bool has_prefix(uint32_t key, int digit, uint32_t prefix) {
  return digit == 0 || key >> digit_shift(digit - 1) == prefix;
}
QB_ANYWHERE inline uint32_t digit_of(uint32_t key, int digit) {
  return key >> digit_shift(digit) & ((1u << digit_bits(digit)) - 1);
}

QB_ANYWHERE inline bool is_among(const int32_t* ids, int count, int32_t id) {
  for (int i = 0; i < count; ++i) {
    if (ids[i] == id) return true;
  }
  return false;
}

}  // namespace quantbench
