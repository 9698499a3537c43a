// What a device makes of weights while they are loaded, against quantize_int8 and quantize_nf4: every byte.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "backend/host_memory.h"
#include "backend/test_backends.h"
#include "quant/int8.h"
#include "quant/nf4.h"

namespace quantbench {
namespace {

class WeightQuantizerTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (const std::string why = why_not(GetParam()); !why.empty()) GTEST_SKIP() << why;
    backend_ = make_test_backend(GetParam());
    quantizer_ = backend_->weight_quantizer({});
    ASSERT_NE(quantizer_, nullptr);
  }
  template <typename T>
  std::vector<T> download(const T* from, size_t count) {
    std::vector<T> values(count);
    backend_->download(values.data(), from, count * sizeof(T));
    return values;
  }
  static HostF16 host(const std::vector<f16>& w, int n, int k) {
    return {n, k, [&w, k](int first, int count, f16* out) {
              std::copy_n(w.begin() + static_cast<ptrdiff_t>(first) * k, static_cast<ptrdiff_t>(count) * k, out);
            }};
  }
  // As bits, so that NaN equals itself.
  static std::vector<uint32_t> bits(std::span<const float> values) {
    std::vector<uint32_t> out(values.size());
    std::memcpy(out.data(), values.data(), values.size_bytes());
    return out;
  }
  void expect_same(const std::vector<f16>& w, int n, int k, const std::string& what) {
    ThreadPool pool(1);
    std::vector<int8_t> codes(w.size());
    std::vector<float> absmax(static_cast<size_t>(n));
    quantize_int8(w, n, k, codes, absmax, pool);
    const Matrix int8 = quantizer_->quantize(host(w, n, k), Format::int8, Role::linear);
    const auto& rows = std::get<Int8Matrix>(int8);
    EXPECT_EQ(rows.n, n);
    EXPECT_EQ(rows.k, k);
    EXPECT_TRUE(download(rows.w, w.size()) == codes) << what;
    EXPECT_EQ(bits(download(rows.absmax, absmax.size())), bits(absmax)) << what;

    Nf4Weights nf4;
    quantize_nf4(w, n, k, &nf4, pool);
    const Matrix packed = quantizer_->quantize(host(w, n, k), Format::nf4, Role::linear);
    const auto& blocks = std::get<Nf4Matrix>(packed);
    EXPECT_EQ(blocks.n, n);
    EXPECT_EQ(blocks.k, k);
    EXPECT_TRUE(blocks.double_quantized);
    EXPECT_EQ(blocks.absmax, nullptr);
    EXPECT_EQ(bits({&blocks.offset, 1}), bits({&nf4.offset, 1})) << what;
    EXPECT_TRUE(download(blocks.w, nf4.codes.size()) == nf4.codes) << what;
    EXPECT_EQ(download(blocks.absmax8, nf4.absmax8.size()), nf4.absmax8) << what;
    EXPECT_EQ(bits(download(blocks.nested_absmax, nf4.nested_absmax.size())), bits(nf4.nested_absmax)) << what;
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<WeightQuantizer> quantizer_;
};

// Bell-shaped, and of every block of 64 some extremes: zeros, subnormals, the largest number, ties of int8's codes.
std::vector<f16> random_weights(int n, int k, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<f16> w(static_cast<size_t>(n) * static_cast<size_t>(k));
  for (f16& value : w) value = to_f16(normal(random));
  for (size_t start = 0; start < w.size(); start += kNf4Block) {
    const size_t end = std::min(w.size(), start + kNf4Block);
    switch (random() % 8) {
      case 0:
        std::fill(w.begin() + static_cast<ptrdiff_t>(start), w.begin() + static_cast<ptrdiff_t>(end), f16{});
        break;
      case 1: w[start] = f16{0x7bff}; break;
      case 2: w[end - 1] = f16{0x8001}; break;
      case 3: w[start] = to_f16(127), w[end - 1] = to_f16(-2.5f); break;
      default: break;
    }
  }
  return w;
}

TEST_P(WeightQuantizerTest, MakesTheHostsBytes) {
  constexpr int kShapes[][2] = {{1, 1},   {1, 64},   {3, 1},    {5, 37},     {7, 130},
                                {66, 64}, {300, 72}, {2, 4304}, {131, 1000}, {257, 256}};
  uint32_t seed = 1;
  for (const auto& [n, k] : kShapes) {
    expect_same(random_weights(n, k, seed++), n, k, fmt::format("[{}, {}]", n, k));
  }
  expect_same(std::vector<f16>(500), 5, 100, "zeros");
}

// More than is staged at once, where a piece's last row is in the middle of a block.
TEST_P(WeightQuantizerTest, MakesTheHostsBytesPieceByPiece) {
  constexpr int kRows = 2051, kColumns = 4303;
  expect_same(random_weights(kRows, kColumns, 99), kRows, kColumns, "pieces");
}

TEST_P(WeightQuantizerTest, TakesWhatIsNoNumberAsTheHostDoes) {
  constexpr uint16_t kBits[] = {0x7c00, 0xfc00, 0x7e00, 0xfe01, 0x7c01};
  for (const uint16_t bits : kBits) {
    std::vector<f16> w = random_weights(9, 200, bits);
    w[777] = f16{bits};
    expect_same(w, 9, 200, fmt::format("{:#x}", bits));
  }
}

TEST_P(WeightQuantizerTest, GivesItsMemoryBackAndNoMore) {
  const MemoryUse before = backend_->memory();
  const std::vector<f16> w = random_weights(64, 128, 5);
  quantizer_->quantize(host(w, 64, 128), Format::nf4, Role::linear);
  EXPECT_GT(backend_->memory()[Use::workspace], before[Use::workspace]);
  quantizer_.reset();
  MemoryUse expected = before;
  expected[Use::weights] += piece_bytes(64 * 128 / 2);
  expected[Use::scales] += piece_bytes(128) + piece_bytes(sizeof(float));
  EXPECT_EQ(backend_->memory().bytes, expected.bytes);
}

// Those with memory of their own; the others leave quantising to the host.
std::vector<std::string> device_names() {
  std::vector<std::string> names = test_backend_names();
  std::erase_if(names, [](const std::string& name) { return name != "cuda" && name != kEmulatedCuda; });
  return names;
}
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(WeightQuantizerTest);
INSTANTIATE_TEST_SUITE_P(Backends, WeightQuantizerTest, testing::ValuesIn(device_names()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace quantbench
