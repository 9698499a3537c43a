// The two engines of a GPU beside each other: what one token gives may not depend on how it is made.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/test_backends.h"
#include "checkpoint/checkpoint.h"
#include "engine/session.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {
namespace {

struct Opened {
  std::unique_ptr<Checkpoint> checkpoint = Checkpoint::open(std::string(QB_SOURCE_DIR) + "/models/bundled");
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  Plan plan;
  static constexpr StateShape kShape{.rows = 64, .logit_rows = 8, .sequences = 1, .positions = 400};

  Opened(const std::string& engine, Precision precision)
      : backend(make_backend("cuda", {.engine = engine})),
        model(make_model(config_of(*checkpoint), precision)),
        plan(backend->plan(decode_shapes(*model), kShape.rows)) {
    load(*model, *checkpoint, *backend, plan);
  }
};

std::vector<int32_t> ids_below(int vocab) {
  std::vector<int32_t> ids(64);
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>((i * 7919 + 13) % static_cast<size_t>(vocab));
  }
  return ids;
}

class Engines : public testing::TestWithParam<Precision> {
 protected:
  void SetUp() override {
    if (!tests_cuda()) GTEST_SKIP() << why_not("cuda");
    Opened graph("graph", GetParam());
    if (graph.backend->device().features != "sm_90") GTEST_SKIP() << "the persistent engine is for sm_90";
  }
};

TEST_P(Engines, GiveTheSameLogits) {
  const auto logits = [](const std::string& engine) {
    Opened opened(engine, GetParam());
    EXPECT_EQ(opened.backend->engine(opened.plan), engine);
    Session session(*opened.backend, *opened.model, Opened::kShape);
    const auto ids = ids_below(opened.model->shape().vocab);
    auto out = session.logits(ids, true);
    EXPECT_EQ(session.logits(ids, true), out) << engine << ": a second run differs";
    return out;
  };
  const auto expected = logits("graph"), found = logits("persistent");
  ASSERT_EQ(expected.size(), found.size());
  double difference = 0, square = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(std::isfinite(found[i])) << i;
    difference += (expected[i] - found[i]) * (expected[i] - found[i]);
    square += expected[i] * expected[i];
  }
  // int8: an activation's code may fall the other way.
  EXPECT_LT(std::sqrt(difference / square), GetParam() == Precision::int8 ? 2e-2 : 2e-3);
}

// Past the first 128 positions attention goes round more than once.
TEST_P(Engines, GenerateTheSameTextFarIntoTheContext) {
  const auto generate = [](const std::string& engine, const Sampling& sampling, std::vector<int32_t> stop_at = {}) {
    Opened opened(engine, GetParam());
    Session session(*opened.backend, *opened.model, Opened::kShape);
    const auto run = session.generate(ids_below(opened.model->shape().vocab),
                                      {.max_new_tokens = 300, .sampling = sampling, .stop_at = std::move(stop_at)});
    EXPECT_TRUE(run.finite);
    return run.tokens;
  };
  const Sampling sampled{.temperature = 0.8f, .seed = 7};
  const Sampling cut{.temperature = 0.8f, .seed = 7, .top_k = 50, .top_p = 0.9};
  for (const Sampling& sampling : {Sampling{}, sampled, cut}) {
    const auto found = generate("persistent", sampling);
    EXPECT_EQ(generate("persistent", sampling), found);
    const auto stop = std::find(found.begin(), found.end(), found[150]);
    EXPECT_EQ(generate("persistent", sampling, {found[150]}), std::vector<int32_t>(found.begin(), stop + 1));
    if (GetParam() != Precision::int8) {
      const auto expected = generate("graph", sampling);
      const auto same = std::mismatch(found.begin(), found.end(), expected.begin()).first - found.begin();
      // Two tokens that are equally likely but for rounding can part them.
      EXPECT_GT(same, 100);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(cuda, Engines, testing::Values(Precision::fp16, Precision::int8, Precision::nf4),
                         [](const auto& test) {
                           return test.param == Precision::nf4 ? std::string("nf4") : std::string(name_of(test.param));
                         });

}  // namespace
}  // namespace quantbench
