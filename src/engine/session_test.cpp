#include "engine/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/test_backends.h"
#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "engine/buffers.h"
#include "engine/test_forwarding_backend.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {
namespace {

using testing::HasSubstr;

constexpr StateShape kShape{.rows = 16, .logit_rows = 3, .sequences = 1, .positions = 40};
const std::vector<int32_t> kPrompt = {254, 17, 3, 99, 42};

class SessionTest : public testing::TestWithParam<std::string> {
 protected:
  explicit SessionTest(Precision precision = Precision::fp16)
      : checkpoint(Checkpoint::open(std::string(QB_SOURCE_DIR) + "/testdata/models/llama-untied")),
        backend(make_test_backend(GetParam())),
        model(make_model(config_of(*checkpoint), precision)),
        plan(backend->plan(decode_shapes(*model), kShape.rows)) {
    load(*model, *checkpoint, *backend, plan);
  }
  Session session() { return Session(*backend, *model, kShape); }

  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  Plan plan;
};

std::string refusal(Session& session, const std::vector<int32_t>& ids, int new_tokens) {
  try {
    session.generate(ids, {.max_new_tokens = new_tokens});
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "accepted";
}

TEST_P(SessionTest, GreedyTokensAreTheBestOfTheTeacherForcedLogits) {
  Session s = session();
  const auto run = s.generate(kPrompt, {.max_new_tokens = 11});
  ASSERT_EQ(run.tokens.size(), 11u);
  EXPECT_EQ(run.prompt_tokens, 5);
  EXPECT_TRUE(run.finite);
  std::vector<int32_t> ids = kPrompt;
  ids.insert(ids.end(), run.tokens.begin(), run.tokens.end());
  for (const bool steps : {false, true}) {
    const auto logits = s.logits(ids, steps);
    const auto vocab = static_cast<size_t>(model->shape().vocab);
    for (size_t i = 0; i < run.tokens.size(); ++i) {
      const float* row = &logits[(kPrompt.size() - 1 + i) * vocab];
      // The model's logits are far enough apart for prefill and step arithmetic to agree on the best.
      EXPECT_EQ(std::max_element(row, row + vocab) - row, run.tokens[i]) << i << (steps ? " steps" : " full");
    }
  }
}

size_t spans_by_host(const Run& run) {
  const auto by_host = [](const Span& span) { return span.clock == Clock::host; };
  return static_cast<size_t>(std::count_if(run.spans.begin(), run.spans.end(), by_host));
}

TEST_P(SessionTest, ARunIsRepeatable) {
  Session s = session();
  const GenerateOptions options{.max_new_tokens = 20};
  EXPECT_EQ(s.generate(kPrompt, options).tokens, s.generate(kPrompt, options).tokens);
}

TEST_P(SessionTest, SpansFollowOneAnotherAndAreOneATokenWithinTheTotal) {
  Session s = session();
  auto run = s.generate(kPrompt, {.max_new_tokens = 6});
  std::erase_if(run.spans, [](const Span& span) { return span.clock == Clock::device; });
  // The host does not see each step of a GPU end.
  ASSERT_EQ(run.spans.size(), backend->device().gpu ? 2u : 6u);
  EXPECT_EQ(run.spans[0].phase, Phase::prefill);
  EXPECT_EQ(run.spans[0].start_ns, 0);
  for (size_t i = 1; i < run.spans.size(); ++i) {
    EXPECT_EQ(run.spans[i].phase, Phase::decode);
    EXPECT_EQ(run.spans[i].start_ns, run.spans[i - 1].end_ns);
    EXPECT_GT(run.spans[i].end_ns, run.spans[i].start_ns);
  }
  EXPECT_GE(run.total_ns, run.spans.back().end_ns);
}

TEST_P(SessionTest, ADeviceWithAClockOfItsOwnTellsEachStepByIt) {
  Session s = session();
  for (const bool stops : {false, true}) {
    GenerateOptions options{.max_new_tokens = 6};
    const auto all = s.generate(kPrompt, options);
    if (stops) options.stop_at = {all.tokens[3]};
    auto run = stops ? s.generate(kPrompt, options) : all;
    std::erase_if(run.spans, [](const Span& span) { return span.clock == Clock::host; });
    if (!backend->device().gpu) {
      EXPECT_TRUE(run.spans.empty()) << "the host's clock is its own";
      continue;
    }
    ASSERT_EQ(run.spans.size(), run.tokens.size()) << "none for a step behind the end";
    EXPECT_EQ(run.spans[0].phase, Phase::prefill);
    EXPECT_EQ(run.spans[0].start_ns, 0);
    int64_t sum = 0;
    for (size_t i = 0; i < run.spans.size(); ++i) {
      const Span& span = run.spans[i];
      if (i > 0) {
        EXPECT_EQ(span.phase, Phase::decode);
        EXPECT_GE(span.start_ns, run.spans[i - 1].end_ns);
      }
      EXPECT_GT(span.end_ns, span.start_ns);
      sum += span.end_ns - span.start_ns;
    }
    EXPECT_LE(sum, run.total_ns) << "what is left is the host's";
  }
}

TEST_P(SessionTest, SamplingDependsOnTheSeedAlone) {
  Session s = session();
  const auto tokens = [&](float temperature, uint64_t seed) {
    return s.generate(kPrompt, {.max_new_tokens = 20, .sampling = {temperature, seed}}).tokens;
  };
  const auto first = tokens(1.0f, 1);
  EXPECT_NE(tokens(1.0f, 2), first);
  EXPECT_NE(tokens(0, 1), first);
  EXPECT_EQ(tokens(1.0f, 1), first);
}

TEST_P(SessionTest, TopKAndTopPLeaveOutWhatIsUnlikely) {
  Session s = session();
  const auto tokens = [&](const Sampling& sampling) {
    return s.generate(kPrompt, {.max_new_tokens = 8, .sampling = sampling}).tokens;
  };
  const auto best = tokens({}), all = tokens({2, 1});
  EXPECT_NE(all, best);
  EXPECT_EQ(tokens({2, 1, 1}), best);
  EXPECT_EQ(tokens({2, 1, 0, 1e-6}), best);
  EXPECT_EQ(tokens({2, 1, model->shape().vocab, 1.0}), all);
  const auto some = tokens({2, 1, 20, 0.8});
  EXPECT_NE(some, best);
  EXPECT_NE(some, all);
  EXPECT_EQ(tokens({2, 1, 20, 0.8}), some);
}

TEST_P(SessionTest, StopsAfterAnEndOfSequenceIdAndShowsTokensAsTheyCome) {
  Session s = session();
  const auto all = s.generate(kPrompt, {.max_new_tokens = 12}).tokens;
  const int32_t end = all[5];
  const auto first = std::find(all.begin(), all.end(), end);
  std::vector<int32_t> shown;
  const auto run =
      s.generate(kPrompt, {.max_new_tokens = 12, .sampling = {}, .stop_at = {end}, .on_token = [&](int32_t token) {
                             shown.push_back(token);
                           }});
  EXPECT_EQ(run.tokens, std::vector<int32_t>(all.begin(), first + 1));
  EXPECT_EQ(shown, run.tokens);
  EXPECT_EQ(spans_by_host(run), run.tokens.size());
  EXPECT_EQ(s.generate(kPrompt, {.max_new_tokens = 12}).tokens, all);
}

TEST_P(SessionTest, StopsAtTheFirstTokenAndAtAnyOfMoreIdsThanTheDeviceIsTold) {
  Session s = session();
  const auto all = s.generate(kPrompt, {.max_new_tokens = 12}).tokens;
  EXPECT_EQ(s.generate(kPrompt, {.max_new_tokens = 12, .sampling = {}, .stop_at = {all[0]}}).tokens.size(), 1u);
  std::vector<int32_t> stops;
  for (int32_t id = 0; id < model->shape().vocab; ++id) {
    if (std::find(all.begin(), all.begin() + 6, id) == all.begin() + 6 || id == all[5]) stops.push_back(id);
  }
  ASSERT_GT(stops.size(), RunBuffers::kMostStops);
  const auto end = std::find(all.begin(), all.end(), all[5]);
  EXPECT_EQ(s.generate(kPrompt, {.max_new_tokens = 12, .sampling = {}, .stop_at = stops}).tokens,
            std::vector<int32_t>(all.begin(), end + 1));
}

TEST_P(SessionTest, RefusesPromptsThatDoNotFitAndIdsOutsideTheVocabulary) {
  Session s = session();
  EXPECT_THAT(refusal(s, {}, 4), HasSubstr("0 tokens, expected 1 to 16"));
  EXPECT_THAT(refusal(s, std::vector<int32_t>(17, 1), 4), HasSubstr("17 tokens, expected 1 to 16"));
  EXPECT_THAT(refusal(s, kPrompt, 36), HasSubstr("5 tokens, expected 1 to 4 (40 positions in all, 36 of them"));
  EXPECT_THAT(refusal(s, {1, 256}, 4), HasSubstr("token 1 of the prompt is id 256, expected one below"));
  EXPECT_THAT(refusal(s, {-1}, 4), HasSubstr("id -1"));
  EXPECT_THAT(refusal(s, kPrompt, 0), HasSubstr("0 new tokens"));
  EXPECT_EQ(refusal(s, kPrompt, 35), "accepted");
}

TEST_P(SessionTest, RefusesMorePositionsThanTheModelWasMadeFor) {
  StateShape shape = kShape;
  shape.positions = model->shape().max_positions + 2;  // the last new token needs none
  try {
    Session s(*backend, *model, shape);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_THAT(error.what(), HasSubstr("129 positions, the model was made for at most 128"));
  }
}

TEST_P(SessionTest, TakesExactlyThePredictedMemoryAndNothingMoreWhileRunning) {
  const MemoryUse predicted = predict_memory(plan, *model, kShape);
  Session s = session();
  EXPECT_EQ(backend->memory().bytes, predicted.bytes);
  s.generate(kPrompt, {.max_new_tokens = 20});
  s.generate(kPrompt, {.max_new_tokens = 20, .sampling = {1, 1, 20, 0.9}, .stop_at = {1}});
  s.logits(kPrompt, false);
  EXPECT_EQ(backend->memory().bytes, predicted.bytes);
}

TEST_P(SessionTest, SaysThatLogitsWereNotFinite) {
  Session s = session();
  for (const WeightSlot& slot : model->weights()) {
    if (slot.name != "model.norm.weight") continue;
    const HostF32 nan{1, slot.cols, [&](int, int, float* out) { std::fill_n(out, slot.cols, NAN); }};
    *std::get<const float**>(slot.target) = std::get<F32Matrix>(backend->pack(nan, Role::vector, plan)).w;
  }
  EXPECT_FALSE(s.generate(kPrompt, {.max_new_tokens = 2}).finite);
}

INSTANTIATE_TEST_SUITE_P(All, SessionTest, testing::ValuesIn(test_backend_names()),
                         [](const auto& test) { return test.param; });

// A device that is always as far ahead as it may be: looks come when they are waited for and no earlier.
class FarAhead final : public ForwardingBackend {
 public:
  std::unique_ptr<Lookout> lookout(size_t bytes, int most) override {
    return std::make_unique<Late>(inner_->lookout(bytes, most), &most_pending);
  }

  int most_pending = 0;

 private:
  struct Late final : Lookout {
    Late(std::unique_ptr<Lookout> inner, int* most) : inner_(std::move(inner)), most_(most) {}
    void look(const void* from, size_t bytes) override {
      inner_->look(from, bytes);
      *most_ = std::max(*most_, pending());
    }
    int pending() const override { return inner_->pending(); }
    bool has_next() override { return false; }
    const void* next() override { return inner_->next(); }
    std::unique_ptr<Lookout> inner_;
    int* most_;
  };
};

TEST(SessionRunAhead, ShowsAllTokensUpToTheStopAndNoneBehindIt) {
  const auto checkpoint = Checkpoint::open(std::string(QB_SOURCE_DIR) + "/testdata/models/llama-untied");
  FarAhead backend;
  const auto model = make_model(config_of(*checkpoint), Precision::fp16);
  load(*model, *checkpoint, backend, backend.plan(decode_shapes(*model), kShape.rows));
  Session s(backend, *model, kShape);
  const auto all = s.generate(kPrompt, {.max_new_tokens = 30}).tokens;
  EXPECT_EQ(backend.most_pending, 0);  // nobody looks
  for (const size_t at : {0u, 1u, 5u, 8u, 9u, 20u, 28u, 29u}) {
    std::vector<int32_t> shown;
    const auto run = s.generate(
        kPrompt, {.max_new_tokens = 30, .sampling = {}, .stop_at = {all[at]}, .on_token = [&](int32_t token) {
                    shown.push_back(token);
                  }});
    const auto first = std::find(all.begin(), all.end(), all[at]);
    EXPECT_EQ(run.tokens, std::vector<int32_t>(all.begin(), first + 1));
    EXPECT_EQ(shown, run.tokens);
    EXPECT_EQ(spans_by_host(run), run.tokens.size());
  }
  EXPECT_EQ(backend.most_pending, kRunAhead + 1);
  // Broken off with looks pending, which the next generation does not take for its own.
  const auto break_off = [](int32_t) { fail(ErrorKind::interrupted, "enough"); };
  EXPECT_THROW(s.generate(kPrompt, {.max_new_tokens = 30, .sampling = {}, .stop_at = {}, .on_token = break_off}),
               Error);
  int count = 0;
  const auto third = [&](int32_t) {
    if (++count == 3) fail(ErrorKind::interrupted, "enough");
  };
  EXPECT_THROW(s.generate(kPrompt, {.max_new_tokens = 30, .sampling = {}, .stop_at = {}, .on_token = third}), Error);
  std::vector<int32_t> shown;
  s.generate(kPrompt, {.max_new_tokens = 30, .sampling = {}, .stop_at = {}, .on_token = [&](int32_t token) {
                         shown.push_back(token);
                       }});
  EXPECT_EQ(shown, all);
}

TEST(RequireMemory, RefusesWithThePartsAndWhatIsThere) {
  MemoryUse use;
  use[Use::weights] = size_t{3} << 30;
  use[Use::kv_cache] = size_t{1} << 29;
  DeviceInfo device;
  device.name = "a small machine";
  device.available_bytes = size_t{2} << 30;
  try {
    require_memory(use, device);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::out_of_memory);
    EXPECT_THAT(error.what(), HasSubstr("3.50 GiB are needed (weights 3.00, kv_cache 0.50), 2.00 GiB are available"));
  }
  device.available_bytes = use.total();
  require_memory(use, device);
}

}  // namespace
}  // namespace quantbench
