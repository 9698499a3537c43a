#include "checkpoint/random_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cpu_features.h"
#include "core/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define QB_AVX2 __attribute__((target("avx2,f16c,fma")))
#endif

namespace quantbench {
namespace {

// 64-bit finaliser of SplitMix64 (Steele, Lea and Flood 2014).
uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// FNV-1a, then mixed with the seed.
uint64_t key_of(uint64_t seed, const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return mix(hash ^ mix(seed + 0x9e3779b97f4a7c15u));
}

// A 32-bit hash of the index with a key word before and between the two multiplications, so that no stream is another
// one shifted.
constexpr uint32_t kFirstFactor = 0x7feb352d, kSecondFactor = 0x846ca68b;
struct StreamKey {
  uint32_t before, between;
};
StreamKey stream_key(uint64_t key, uint64_t index_high) {
  const uint64_t k = mix(key + index_high);
  return {static_cast<uint32_t>(k), static_cast<uint32_t>(k >> 32)};
}
uint32_t hash_of(uint32_t index, StreamKey key) {
  uint32_t x = index ^ key.before;
  x = (x ^ x >> 16) * kFirstFactor + key.between;
  x = (x ^ x >> 15) * kSecondFactor;
  return x ^ x >> 16;
}

constexpr int kByteSumMean = 510;  // of four bytes

f16 element(uint32_t index, StreamKey key, float mean, float scale) {
  const uint32_t x = hash_of(index, key);
  const auto sum = static_cast<int>((x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24));
  return to_f16(static_cast<float>(sum - kByteSumMean) * scale + mean);
}

// A run within which the high word of the index does not change.
void fill_run_portable(StreamKey key, uint32_t first, size_t count, float mean, float scale, f16* out) {
  for (size_t i = 0; i < count; ++i) out[i] = element(first + static_cast<uint32_t>(i), key, mean, scale);
}

using FillRun = void(StreamKey key, uint32_t first, size_t count, float mean, float scale, f16* out);

void fill(FillRun* run, uint64_t key, uint64_t first, size_t count, float mean, float scale, f16* out) {
  while (count > 0) {
    const uint64_t left = (uint64_t{1} << 32) - (first & 0xffffffffu);
    const size_t part = static_cast<size_t>(std::min<uint64_t>(count, left));
    run(stream_key(key, first >> 32), static_cast<uint32_t>(first), part, mean, scale, out);
    first += part;
    count -= part;
    out += part;
  }
}

void fill_portable(uint64_t key, uint64_t first, size_t count, float mean, float scale, f16* out) {
  fill(fill_run_portable, key, first, count, mean, scale, out);
}

#if defined(__x86_64__)
namespace avx2 {

QB_AVX2 void fill_run(StreamKey key, uint32_t first, size_t count, float mean, float scale, f16* out) {
  const __m256i before = _mm256_set1_epi32(static_cast<int>(key.before));
  const __m256i between = _mm256_set1_epi32(static_cast<int>(key.between));
  const __m256i first_factor = _mm256_set1_epi32(static_cast<int>(kFirstFactor));
  const __m256i second_factor = _mm256_set1_epi32(static_cast<int>(kSecondFactor));
  const __m256i byte_ones = _mm256_set1_epi8(1), word_ones = _mm256_set1_epi16(1), eight = _mm256_set1_epi32(8);
  const __m256 scales = _mm256_set1_ps(scale), means = _mm256_set1_ps(mean);
  __m256i index =
      _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    __m256i x = _mm256_xor_si256(index, before);
    index = _mm256_add_epi32(index, eight);
    x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 16));
    x = _mm256_add_epi32(_mm256_mullo_epi32(x, first_factor), between);
    x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 15));
    x = _mm256_mullo_epi32(x, second_factor);
    x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 16));
    const __m256i sum = _mm256_madd_epi16(_mm256_maddubs_epi16(x, byte_ones), word_ones);
    const __m256 z = _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, _mm256_set1_epi32(kByteSumMean)));
    const __m256 value = _mm256_add_ps(_mm256_mul_ps(z, scales), means);
    const __m128i half = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), half);
  }
  fill_run_portable(key, first + static_cast<uint32_t>(i), count - i, mean, scale, out + i);
}

void fill_all(uint64_t key, uint64_t first, size_t count, float mean, float scale, f16* out) {
  fill(fill_run, key, first, count, mean, scale, out);
}

}  // namespace avx2
#endif

// `count` different channels of `width`, ascending; the same for every norm of this width.
std::vector<int> plant(uint64_t seed, int count, int width) {
  std::vector<int> channels;
  for (uint64_t draw = 0; channels.size() < static_cast<size_t>(count); ++draw) {
    const uint64_t random = mix(key_of(seed, "outlier channels") + draw);
    const int channel = static_cast<int>(random % static_cast<uint64_t>(width));
    const auto at = std::lower_bound(channels.begin(), channels.end(), channel);
    if (at == channels.end() || *at != channel) channels.insert(at, channel);
  }
  return channels;
}

}  // namespace

RandomFill* portable_random_fill() { return fill_portable; }
RandomFill* avx2_random_fill() {
#if defined(__x86_64__)
  if (cpu_has_avx2()) return avx2::fill_all;
#endif
  return nullptr;
}

RandomWeights::RandomWeights(uint64_t seed, const std::vector<RandomTensor>& tensors, int outlier_channels)
    : seed_(seed), outlier_channels_(outlier_channels) {
  for (const RandomTensor& tensor : tensors) {
    Entry entry;
    entry.tensor = tensor;
    entry.key = key_of(seed, tensor.name);
    const auto cols = static_cast<double>(tensor.cols);
    double sigma = 0;
    switch (tensor.kind) {
      case RandomKind::linear:
        // Planted channels add their weight's square each to the sum of the inputs' squares.
        sigma = 1.0 / std::sqrt(cols + outlier_channels * (double{kOutlierNormWeight} * kOutlierNormWeight - 1.0));
        break;
      case RandomKind::embedding: sigma = 1.0 / std::sqrt(cols); break;
      case RandomKind::norm:
        sigma = 0.1;
        entry.mean = 1.0f - tensor.plus;
        if (outlier_channels < 0 || outlier_channels >= tensor.cols) {
          fail(ErrorKind::usage, "--outlier-channels is {}, expected 0 to {}: '{}' has {} channels", outlier_channels,
               tensor.cols - 1, tensor.name, tensor.cols);
        }
        entry.outliers = plant(seed, outlier_channels, tensor.cols);
        break;
      case RandomKind::bias:
        sigma = 0.02;
        entry.mean = -tensor.plus;
        break;
    }
    if (tensor.sigma > 0) sigma = tensor.sigma;
    entry.scale = static_cast<float>(sigma / kRandomSigma);
    entries_.emplace(tensor.name, std::move(entry));
  }
}

std::string RandomWeights::where() const {
  return outlier_channels_ == 0
             ? fmt::format("random weights (seed {})", seed_)
             : fmt::format("random weights (seed {}, {} outlier channels)", seed_, outlier_channels_);
}

std::vector<std::string> RandomWeights::names() const {
  std::vector<std::string> result;
  for (const auto& [name, entry] : entries_) result.push_back(name);
  std::sort(result.begin(), result.end());
  return result;
}

std::optional<TensorInfo> RandomWeights::find(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  const RandomTensor& tensor = found->second.tensor;
  if (!tensor.stored_shape.empty()) return TensorInfo{DType::f16, tensor.stored_shape};
  if (tensor.rows == 1) return TensorInfo{DType::f16, {tensor.cols}};
  return TensorInfo{DType::f16, {tensor.rows, tensor.cols}};
}

const RandomWeights::Entry& RandomWeights::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) fail(ErrorKind::internal, "{}: no tensor '{}' was asked for", where(), name);
  return found->second;
}

void RandomWeights::read_f16(const std::string& name, int64_t first, int64_t count, f16* out) const {
  const Entry& at = entry(name);
  if (first < 0 || count < 0 || first + count > at.tensor.rows) {
    fail(ErrorKind::internal, "{}: rows {} + {} of '{}', which has {}", where(), first, count, name, at.tensor.rows);
  }
  const auto cols = static_cast<uint64_t>(at.tensor.cols);
  RandomFill* const fast = avx2_random_fill();
  (fast ? fast : portable_random_fill())(at.key, static_cast<uint64_t>(first) * cols, static_cast<size_t>(count) * cols,
                                         at.mean, at.scale, out);
  for (int64_t row = 0; row < count; ++row) {
    for (const int channel : at.outliers) {
      out[static_cast<uint64_t>(row) * cols + static_cast<uint64_t>(channel)] = to_f16(kOutlierNormWeight);
    }
  }
}

// The fp16 numbers, rounded.
void RandomWeights::read_bf16(const std::string& name, int64_t first, int64_t count, bf16* out) const {
  const auto cols = static_cast<size_t>(entry(name).tensor.cols);
  std::vector<f16> row(cols);
  for (int64_t i = 0; i < count; ++i) {
    read_f16(name, first + i, 1, row.data());
    for (size_t j = 0; j < cols; ++j) *out++ = to_bf16(to_float(row[j]));
  }
}

void RandomWeights::read_f32(const std::string& name, int64_t first, int64_t count, float* out) const {
  const auto cols = static_cast<size_t>(entry(name).tensor.cols);
  std::vector<f16> row(cols);
  for (int64_t i = 0; i < count; ++i) {
    read_f16(name, first + i, 1, row.data());
    for (size_t j = 0; j < cols; ++j) *out++ = to_float(row[j]);
  }
}

void RandomWeights::read_bytes(const std::string& name, int64_t, std::span<std::byte>) const {
  fail(ErrorKind::internal, "{}: '{}' has no bytes on disk", where(), name);
}

}  // namespace quantbench
