// The noise of seeded sampling, the same on every backend: arg-max over logit / temperature + Gumbel(hash(seed,
// position, id)) draws from softmax(logits / temperature) (the Gumbel-max trick), independent of batch and threads.
#pragma once

#include <cmath>
#include <cstdint>

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

}  // namespace quantbench
