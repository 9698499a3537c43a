// The choice of a token on every backend: which ids stay, how often each is drawn, and where a sequence ends.
#include "backend/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "backend/ops_fixture.h"
#include "backend/test_backends.h"

namespace quantbench {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// next_token of some rows, recorded.
class Choice {
 public:
  // stops: with their number in front; empty: no sequence ends.
  Choice(Backend& backend, const std::vector<float>& logits, int rows, const Sampling& sampling,
         const std::vector<int32_t>& stops = {})
      : backend_(backend), rows_(static_cast<size_t>(rows)) {
    std::vector<int32_t> counted(rows_);
    std::iota(counted.begin(), counted.end(), 0);
    NextToken op;
    op.rows = {upload(counted), upload(counted), upload(counted), rows};
    op.logits = {upload(logits), DType::f32, rows, static_cast<int>(logits.size() / rows_)};
    op.sampling = sampling;
    op.history_positions = kPositions;
    history_ = op.history = upload(std::vector<int32_t>(rows_ * kPositions, -1));
    if (!stops.empty()) {
      op.stops = upload(stops);
      done_ = op.done = upload(std::vector<int32_t>(rows_));
    }
    token_ = op.rows.token;
    position_ = op.rows.position;
    TapeOps tape;
    tape.next_token(op);
    program_ = backend.record(backend.plan(tape.tape(), rows));
  }
  std::vector<int32_t> run() {
    program_->run();
    backend_.synchronize();
    return tokens();
  }
  std::vector<int32_t> tokens() const { return download(token_, rows_); }
  std::vector<int32_t> positions() const { return download(position_, rows_); }
  std::vector<int32_t> history() const { return download(history_, rows_ * kPositions); }
  std::vector<int32_t> done() const { return download(done_, rows_); }

  static constexpr int kPositions = 8;

 private:
  template <typename T>
  T* upload(const std::vector<T>& values) {
    buffers_.push_back(backend_.allocate(Use::activations, values.size() * sizeof(T)));
    backend_.upload(*buffers_.back(), 0, values.data(), values.size() * sizeof(T));
    return static_cast<T*>(buffers_.back()->data());
  }
  std::vector<int32_t> download(const int32_t* from, size_t count) const {
    std::vector<int32_t> out(count);
    backend_.download(out.data(), from, count * sizeof(int32_t));
    return out;
  }

  Backend& backend_;
  size_t rows_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  int32_t *token_ = nullptr, *position_ = nullptr, *history_ = nullptr, *done_ = nullptr;
  std::unique_ptr<Program> program_;
};

class ChoiceTest : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backend> backend = make_test_backend(GetParam()), reference = make_backend("reference", {});

  // The emulator takes 20 ms for a row.
  bool is_slow() const { return GetParam() == kEmulatedCuda; }

  // Several times on one workspace, and each row at a position of its own.
  void expect_the_references(const std::vector<float>& row, const Sampling& sampling, const std::string& what) {
    constexpr int kRuns = 2;
    const int row_count = is_slow() ? 1 : 3;
    std::vector<float> logits;
    for (int r = 0; r < row_count; ++r) logits.insert(logits.end(), row.begin(), row.end());
    Choice expected(*reference, logits, row_count, sampling), found(*backend, logits, row_count, sampling);
    for (int run = 0; run < kRuns; ++run) {
      EXPECT_EQ(found.run(), expected.run())
          << what << ": " << row.size() << " ids, top_k " << sampling.top_k << ", top_p " << sampling.top_p;
    }
  }
};

const std::vector<Sampling> kCuts = {{50, 3, 1},      {50, 3, 7},       {3, 3, 1000},    {50, 3, 0, 0.5},
                                     {1, 3, 0, 0.9},  {50, 3, 0, 0.0},  {1, 3, 0, 1e-9}, {1, 3, 0, 1.0},
                                     {2, 3, 30, 0.4}, {50, 3, 7, 0.99}, {1e-20f, 3, 3},  {1e-3f, 3, 0, 0.9}};

TEST_P(ChoiceTest, KeepsTheIdsThatTheReferenceKeeps) {
  Random random(11);
  for (const int vocab : is_slow() ? std::vector{31, 5003} : std::vector{1, 2, 31, 2048, 5003}) {
    std::vector<float> spread(static_cast<size_t>(vocab)), ties(spread.size());
    for (float& v : spread) v = random.uniform(-4, 4) + random.uniform(-4, 4);
    for (float& v : ties) v = static_cast<float>(random.below(5));
    for (const Sampling& sampling : kCuts) {
      expect_the_references(spread, sampling, "spread");
      expect_the_references(ties, sampling, "ties");
    }
  }
}

TEST_P(ChoiceTest, TakesEveryKindOfNumber) {
  constexpr size_t kVocab = 37;
  std::vector<std::vector<float>> rows(8, std::vector<float>(kVocab, 1.5f));  // the first: all equal
  std::fill(rows[1].begin(), rows[1].end(), kNan);
  std::fill(rows[2].begin(), rows[2].end(), -kInfinity);
  for (size_t i = 0; i < kVocab; ++i) {
    const float x = static_cast<float>(i * 17 % kVocab) / 8;
    rows[3][i] = i % 3 == 0 ? kNan : x;
    rows[4][i] = i % 3 == 0 ? -kInfinity : x;
    rows[5][i] = i % 9 == 0 ? kInfinity : i % 2 == 0 ? kNan : -x;
    rows[6][i] = i % 2 == 0 ? 0.0f : -0.0f;
    rows[7][i] = (i % 2 == 0 ? -1 : 1) * x * 1e38f;  // differences that are not finite
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t cut = 0; cut < kCuts.size(); cut += is_slow() ? 4 : 1) {
      expect_the_references(rows[i], kCuts[(cut + i) % kCuts.size()], "row " + std::to_string(i));
    }
  }
}

TEST_P(ChoiceTest, EndsASequenceAtAStopAndLeavesItAlone) {
  // Two sequences; the first comes to a stop at once, the second to none.
  std::vector<float> logits(size_t{2} * 300);
  logits[250] = 5;
  logits[300 + 77] = 5;
  for (const Sampling& sampling : {Sampling{}, Sampling{0.5f, 1, 1}}) {
    Choice choice(*backend, logits, 2, sampling, {3, 9, 250, 12});
    for (int run = 0; run < 3; ++run) {
      EXPECT_EQ(choice.run(), (std::vector<int32_t>{250, 77}));
      EXPECT_EQ(choice.positions(), (std::vector<int32_t>{1, 2 + run}));
      EXPECT_EQ(choice.done(), (std::vector<int32_t>{1, 0}));
    }
    EXPECT_EQ(choice.history(),
              (std::vector<int32_t>{-1, 250, -1, -1, -1, -1, -1, -1, -1, -1, 77, 77, 77, -1, -1, -1}));
  }
}

INSTANTIATE_TEST_SUITE_P(All, ChoiceTest, testing::ValuesIn(test_backend_names()),
                         [](const auto& test) { return test.param; });

// Pearson's statistic of draws against the shares that they should have.
double chi_square(const std::vector<int>& counts, const std::vector<double>& shares, int draws) {
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = shares[i] * draws;
    if (expected == 0) {
      EXPECT_EQ(counts[i], 0) << "id " << i;
      continue;
    }
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

TEST(Sampling, DrawsEachIdAsOftenAsItsShareOfWhatStays) {
  constexpr int kDraws = 20000;
  constexpr double kTemperature = 1.5;
  const std::vector<double> weights = {1, 5, 2, 9, 0.5, 4, 3, 7};  // by 1 / temperature, before the cut
  struct Case {
    Sampling sampling;
    double least;  // of the weights that stay
    double bound;  // exceeded by one sample in 10,000: 7, 4 and 3 degrees of freedom
  };
  const Case cases[] = {{{kTemperature, 0}, 0, 29.88},
                        {{kTemperature, 0, 5}, 3, 23.51},
                        {{kTemperature, 0, 6, 0.8}, 4, 21.11}};  // of 30: 9, 16, 21, 25 (≥ 24)
  std::vector<float> logits;
  for (const double w : weights) logits.push_back(static_cast<float>(kTemperature * std::log(w)));
  std::vector<float> rows;
  for (int i = 0; i < kDraws; ++i) rows.insert(rows.end(), logits.begin(), logits.end());
  const auto backend = make_backend("reference", {});
  for (const Case& c : cases) {
    std::vector<double> shares(weights.size()), even(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) shares[i] = weights[i] >= c.least ? weights[i] : 0;
    const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
    const auto kept = std::count_if(shares.begin(), shares.end(), [](double s) { return s > 0; });
    for (size_t i = 0; i < weights.size(); ++i) {
      shares[i] /= total;
      even[i] = shares[i] > 0 ? 1.0 / static_cast<double>(kept) : 0;
    }
    for (const uint64_t seed : {1u, 2u, 3u}) {
      Sampling sampling = c.sampling;
      sampling.seed = seed;
      std::vector<int> counts(weights.size());
      for (const int32_t id : Choice(*backend, rows, kDraws, sampling).run()) ++counts[static_cast<size_t>(id)];
      EXPECT_LT(chi_square(counts, shares, kDraws), c.bound) << "seed " << seed << ", " << kept << " ids";
      EXPECT_GT(chi_square(counts, even, kDraws), 10 * c.bound);
    }
  }
}

TEST(Sampling, KeysOrderAsTheNumbersDo) {
  const float ascending[] = {-kInfinity, -3e38f, -1, -1e-40f, 0, 1e-40f, 1, 1.0000001f, 3e38f, kInfinity};
  for (size_t i = 1; i < std::size(ascending); ++i) {
    EXPECT_LT(order_key(ascending[i - 1]), order_key(ascending[i])) << ascending[i];
    EXPECT_EQ(logit_of_key(order_key(ascending[i])), ascending[i]);
  }
  EXPECT_EQ(order_key(-0.0f), order_key(0.0f));
  EXPECT_EQ(order_key(kNan), 0u);
  EXPECT_EQ(order_key(-kNan), 0u);
  EXPECT_GT(order_key(-kInfinity), 0u);
}

TEST(Sampling, MassIsTheExponential) {
  Random random(5);
  for (int i = 0; i < 20000; ++i) {
    const float most = random.uniform(-20, 20), logit = most - random.uniform(0, 30), t = random.uniform(0.3f, 3);
    const double expected = std::exp2(kMassBits) * std::exp((double{logit} - most) / t);
    // The error that is promised, and rounding down.
    EXPECT_NEAR(static_cast<double>(sampling_mass(logit, most, t)), expected, expected * 0x1p-17 + 1);
  }
  EXPECT_EQ(sampling_mass(1, 1, 0.1f), uint64_t{1} << kMassBits);
  EXPECT_EQ(sampling_mass(kInfinity, kInfinity, 1), uint64_t{1} << kMassBits);
  EXPECT_EQ(sampling_mass(kNan, 1, 1), 0u);
  EXPECT_EQ(sampling_mass(-kInfinity, 1, 1), 0u);
  EXPECT_EQ(sampling_mass(0, 100, 1), 0u);
}

TEST(Sampling, TopPIsAShareOfTheMassAndNeverNothing) {
  EXPECT_EQ(mass_to_keep(0.5, 10), 5u);
  EXPECT_EQ(mass_to_keep(0.51, 10), 6u);
  EXPECT_EQ(mass_to_keep(0, 10), 1u);
  EXPECT_EQ(mass_to_keep(1, 10), 10u);
  EXPECT_EQ(mass_to_keep(0.5, 0), 0u);
  EXPECT_EQ(mass_to_keep(1, UINT64_MAX >> 1), UINT64_MAX >> 1);
}

}  // namespace
}  // namespace quantbench
