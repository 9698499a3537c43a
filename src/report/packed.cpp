#include "report/packed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <optional>
#include <vector>

namespace quantbench {
namespace {

// Times are whole nanoseconds or half ones (medians), power comes in milliwatts, times a token in 64ths.
constexpr double kDivisors[] = {1, 2, 10, 64, 100, 1000};
constexpr double kLargest = 9007199254740992.0 / 4;  // what JavaScript adds up and multiplies exactly

std::optional<std::vector<int64_t>> integers(std::span<const double> values, double divisor) {
  std::vector<int64_t> out;
  out.reserve(values.size());
  for (const double v : values) {
    const double scaled = std::nearbyint(v * divisor);
    if (!(std::fabs(scaled) < kLargest) || scaled / divisor != v || (v == 0 && std::signbit(v))) return std::nullopt;
    out.push_back(static_cast<int64_t>(scaled));
  }
  return out;
}

}  // namespace

std::string base64(std::string_view bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t three = 0;
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    for (size_t j = 0; j < 3; ++j) three = (three << 8) | (j < count ? static_cast<uint8_t>(bytes[i + j]) : 0u);
    for (size_t j = 0; j < 4; ++j) text += j <= count ? kDigits[(three >> (18 - 6 * j)) & 63] : '=';
  }
  return text;
}

std::string packed(std::span<const double> values) {
  if (values.empty()) return "";
  for (const double divisor : kDivisors) {
    auto whole = integers(values, divisor);
    if (!whole) continue;
    int64_t step = 0;
    for (const int64_t x : *whole) step = std::gcd(step, x);
    if (step == 0) step = 1;
    std::string bytes;
    int64_t before = 0;
    for (const int64_t x : *whole) {
      const int64_t delta = x / step - before;
      before = x / step;
      uint64_t rest = (static_cast<uint64_t>(delta) << 1) ^ static_cast<uint64_t>(delta >> 63);
      for (; rest >= 128; rest >>= 7) bytes += static_cast<char>((rest & 127) | 128);
      bytes += static_cast<char>(rest);
    }
    return fmt::format("{},{};{}", divisor, step, base64(bytes));
  }
  std::string bytes(values.size() * sizeof(double), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());  // every machine that this runs on is little-endian
  return "f;" + base64(bytes);
}

}  // namespace quantbench
