// Ops behind one another with many rows, as a layer has them: a backend may leave the rows of one op ready for the
// next, so that an op alone does not show whether it takes the right ones.
#include <gtest/gtest.h>

#include <cmath>

#include "backend/ops_fixture.h"
#include "backend/test_backends.h"

namespace quantbench {
namespace {

constexpr int kHidden = 128, kHeads = 2, kKvHeads = 1, kHeadDim = 64, kInner = 192;

// Two layers that share their weights; in the second everything has another norm, and x is looked at once more by an op
// that does not follow the one that made it.
class Chain {
 public:
  Chain(Backend& backend, Format format, int rows, uint64_t seed) : backend_(backend), rows_(rows) {
    Random random(seed);
    const int heads = kHeads * kHeadDim, kv = kKvHeads * kHeadDim;
    const std::pair<int, int> sizes[] = {{heads, kHidden},  {kv, kHidden},     {kv, kHidden},     {kHidden, heads},
                                         {kInner, kHidden}, {kInner, kHidden}, {kHidden, kInner}, {kInner, kHidden}};
    for (const auto& [n, k] : sizes) {
      host_.push_back(std::make_unique<HostWeight>(format, true, n, k, true, random, backend.host_pool()));
    }
    for (int i = 0; i < 2; ++i) {
      std::vector<float> weight(kHidden);
      for (float& w : weight) w = random.uniform(0.5f, 1.5f);
      weight[static_cast<size_t>(random.below(kHidden))] = 9;  // an outlier channel
      norms_[i] = {upload(weight), nullptr, 1e-5f, i == 1};
    }
    std::vector<float> x(static_cast<size_t>(rows) * kHidden);
    for (float& v : x) v = random.uniform(-2, 2);
    x_ = {upload(x), DType::f32, rows, kHidden};
    q_ = out(heads);
    a_ = out(heads);
    h_ = out(kInner);
    h2_ = out(kInner);
    std::vector<int32_t> positions, sequences(static_cast<size_t>(rows));
    for (int i = 0; i < rows; ++i) positions.push_back(i);
    int32_t* const at = upload(positions);
    rows_of_ = {at, at, upload(sequences), rows};
    const size_t cache = static_cast<size_t>(rows) * kv * sizeof(f16);
    kv_ = {static_cast<f16*>(allocate(cache)), static_cast<f16*>(allocate(cache)), 1, rows, kKvHeads, kHeadDim};
    load(format);
  }

  std::vector<float> run() {
    run_ops(backend_.ops());
    backend_.synchronize();
    std::vector<float> all(static_cast<size_t>(rows_) * kHidden);
    backend_.download(all.data(), x_.data, x_.bytes());
    return all;
  }

 private:
  void run_ops(Ops& ops) {
    const auto& l = linears_;
    for (const Norm& norm : norms_) {
      ops.qkv({q_, kv_, x_, &norm, &l[0], &l[1], &l[2], nullptr, rows_of_});
      ops.project({h2_, x_, &norm, &l[7], Act::gelu_tanh});  // of the same normalised rows
      ops.attend({a_, q_, kv_, 0.125f, rows_of_});
      ops.add_linear({x_, a_, &l[3]});
      ops.add_linear({x_, h2_, &l[6]});
      ops.gated_up({h_, x_, &norm, &l[4], &l[5], Act::silu});
      ops.add_linear({x_, h_, &l[6]});
      ops.add_linear({x_, h_, &l[6]});  // the same rows again
      ops.add_linear({x_, a_, &l[3]});  // rows from before
    }
  }
  void load(Format format) {
    linears_.resize(host_.size());
    for (size_t i = 0; i < host_.size(); ++i) {
      Linear& linear = linears_[i];
      linear.biased = true;
      if (format == Format::f16) linear.weight = F16Matrix{host_[i]->n(), host_[i]->k()};
      if (format == Format::int8) linear.weight = Int8Matrix{host_[i]->n(), host_[i]->k()};
      if (format == Format::nf4) linear.weight = Nf4Matrix{host_[i]->n(), host_[i]->k()};
    }
    TapeOps tape;
    run_ops(tape);
    const Plan plan = backend_.plan(tape.tape(), rows_);
    for (size_t i = 0; i < host_.size(); ++i) {
      linears_[i].weight = backend_.pack(host_[i]->view(), Role::linear, plan);
      linears_[i].bias = upload(host_[i]->bias());
    }
    program_ = backend_.record(plan);
  }
  void* allocate(size_t bytes) {
    buffers_.push_back(backend_.allocate(Use::activations, bytes));
    return buffers_.back()->data();
  }
  template <typename T>
  T* upload(const std::vector<T>& values) {
    auto* const to = static_cast<T*>(allocate(values.size() * sizeof(T)));
    backend_.upload(*buffers_.back(), 0, values.data(), values.size() * sizeof(T));
    return to;
  }
  Tensor out(int cols) {
    return {allocate(static_cast<size_t>(rows_) * cols * sizeof(float)), DType::f32, rows_, cols};
  }

  Backend& backend_;
  int rows_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<std::unique_ptr<HostWeight>> host_;
  std::vector<Linear> linears_;
  Norm norms_[2];
  Tensor x_, q_, a_, h_, h2_;
  KvLayer kv_;
  Rows rows_of_;
  std::unique_ptr<Program> program_;
};

struct ChainCase {
  Format format;
  int rows;
};
class OpsChainTest : public testing::TestWithParam<ChainCase> {};

// All but the reference, and the emulator also as a card that has tensor products.
std::vector<std::pair<std::string, std::unique_ptr<Backend>>> tested_backends() {
  std::vector<std::pair<std::string, std::unique_ptr<Backend>>> backends;
  for (const std::string& name : test_backend_names()) {
    if (name != "reference") backends.emplace_back(name, make_test_backend(name));
  }
#if defined(QB_HAS_CUDA_EMULATOR)
  backends.emplace_back("emulated Hopper", cuda_emulated::make_backend({.gpu = cuda_emulated::kEmulatedHopper}));
#endif
  return backends;
}

TEST_P(OpsChainTest, RowsThatAnOpLeavesReadyAreThoseOfTheNext) {
  const auto [format, rows] = GetParam();
  constexpr uint64_t kSeed = 7;
  const auto reference = make_backend("reference", {});
  Chain expected_chain(*reference, format, rows, kSeed);
  const std::vector<float> expected = expected_chain.run();
  double square = 0;
  for (const float v : expected) square += double{v} * v;
  const auto backends = tested_backends();
  for (const auto& [name, backend] : backends) {
    Chain chain(*backend, format, rows, kSeed);
    const std::vector<float> got = chain.run();
    double error = 0;
    for (size_t i = 0; i < got.size(); ++i) error += (double{got[i]} - expected[i]) * (double{got[i]} - expected[i]);
    // Eighteen ops whose roundings add up to some parts in 10⁴, and to some in 10³ where they put codes on the other
    // side of a tie; a stale row would be wrong by as much as it is large.
    EXPECT_LT(std::sqrt(error / square), format == Format::int8 ? 2e-2 : 3e-3) << name;
  }
}

// One gated product after another of the same buffers: of rows with an outlier column, then of rows without. Marks that
// stayed would make that column's products more exact than LLM.int8's, by more than the activation's error.
std::vector<float> second_of_two_gates(Backend& backend, int rows) {
  constexpr int kIn = 256, kOut = 128;
  Random random(3);
  std::vector<std::unique_ptr<Buffer>> buffers;
  const auto upload = [&](const std::vector<float>& values) {
    buffers.push_back(backend.allocate(Use::activations, values.size() * sizeof(float)));
    backend.upload(*buffers.back(), 0, values.data(), values.size() * sizeof(float));
    return static_cast<float*>(buffers.back()->data());
  };
  const auto matrix = [&] {
    std::vector<float> x(static_cast<size_t>(rows) * kIn);
    for (float& v : x) v = random.uniform(-2, 2);
    return x;
  };
  std::vector<float> with = matrix();
  for (int row = 0; row < rows; ++row) with[static_cast<size_t>(row) * kIn + 17] = 20;
  const Tensor first{upload(with), DType::f32, rows, kIn}, second{upload(matrix()), DType::f32, rows, kIn};
  const Tensor h{upload(std::vector<float>(static_cast<size_t>(rows) * kOut)), DType::f32, rows, kOut};
  const Norm norm{upload(std::vector<float>(kIn, 1)), nullptr, 1e-5f, false};
  std::vector<std::unique_ptr<HostWeight>> host;
  Linear linears[2];
  for (Linear& linear : linears) {
    host.push_back(std::make_unique<HostWeight>(Format::int8, true, kOut, kIn, false, random, backend.host_pool()));
    linear.weight = Int8Matrix{kOut, kIn};
  }
  const auto run = [&](Ops& ops) {
    ops.gated_up({h, first, &norm, &linears[0], &linears[1], Act::silu});
    ops.gated_up({h, second, &norm, &linears[0], &linears[1], Act::silu});
  };
  TapeOps tape;
  run(tape);
  const Plan plan = backend.plan(tape.tape(), rows);
  for (int i = 0; i < 2; ++i) linears[i].weight = backend.pack(host[i]->view(), Role::linear, plan);
  const auto program = backend.record(plan);
  run(backend.ops());
  backend.synchronize();
  std::vector<float> out(static_cast<size_t>(rows) * kOut);
  backend.download(out.data(), h.data, h.bytes());
  return out;
}

TEST(OutlierMarks, AreGoneForTheNextRows) {
  const auto reference = make_backend("reference", {});
  const auto backends = tested_backends();
  for (const int rows : {5, 40, 70}) {
    const std::vector<float> expected = second_of_two_gates(*reference, rows);
    for (const auto& [name, backend] : backends) {
      const std::vector<float> got = second_of_two_gates(*backend, rows);
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], expected[i], 1e-5 + 1e-5 * std::abs(expected[i])) << name << ", " << rows << " rows, " << i;
      }
    }
  }
}

TEST(Hash, IsTheSameEverywhereAndFeelsEveryBitAndItsPlace) {
  const auto hash_of = [](Backend& backend, const std::vector<uint32_t>& words, int times) {
    const auto data = backend.allocate(Use::activations, words.size() * sizeof(uint32_t));
    const auto hash = backend.allocate(Use::activations, sizeof(uint64_t));
    backend.upload(*data, 0, words.data(), words.size() * sizeof(uint32_t));
    for (int i = 0; i < times; ++i) {
      backend.hash(static_cast<uint64_t*>(hash->data()), static_cast<const uint32_t*>(data->data()),
                   static_cast<int>(words.size()));
    }
    backend.synchronize();
    uint64_t value = 0;
    backend.download(&value, hash->data(), sizeof value);
    return value;
  };
  std::vector<uint32_t> words(5003);  // no whole number of anything
  for (size_t i = 0; i < words.size(); ++i) words[i] = static_cast<uint32_t>(i * i);
  const auto reference = make_backend("reference", {});
  const uint64_t once = hash_of(*reference, words, 1), twice = hash_of(*reference, words, 2);
  EXPECT_NE(once, twice);
  for (const std::string& name : test_backend_names()) {
    const auto backend = make_test_backend(name);
    EXPECT_EQ(hash_of(*backend, words, 1), once) << name;
    EXPECT_EQ(hash_of(*backend, words, 2), twice) << name;
    auto changed = words;
    changed.back() ^= 1u << 31;
    EXPECT_NE(hash_of(*backend, changed, 1), once) << name;
    changed = words;
    std::swap(changed[17], changed[4711]);
    EXPECT_NE(hash_of(*backend, changed, 1), once) << name;
  }
}

// 70: more than the kernels of few rows take, and than the least of those for many on Hopper.
std::vector<ChainCase> chain_cases() {
  std::vector<ChainCase> cases;
  for (const Format format : {Format::f16, Format::int8, Format::nf4}) {
    for (const int rows : {40, 70}) cases.push_back({format, rows});
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Formats, OpsChainTest, testing::ValuesIn(chain_cases()), [](const auto& test) {
  return fmt::format("{}_{}", name_of(test.param.format), test.param.rows);
});

}  // namespace
}  // namespace quantbench
