#include "engine/engine_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "checkpoint/checkpoint.h"
#include "core/json.h"
#include "core/os.h"
#include "engine/buffers.h"
#include "engine/choose_engine.h"
#include "engine/test_forwarding_backend.h"
#include "model/loader.h"
#include "model/registry.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// --- which one -----------------------------------------------------------------------------------------------------

TEST(Fastest, TheLastOfThoseThatAreEqualButForNoise) {
  const auto of = [](double first, double second) {
    const std::vector<EngineTime> times{{"first", first}, {"second", second}};
    return std::string(fastest(times));  // which is of `times`
  };
  EXPECT_EQ(of(100, 50), "second");
  EXPECT_EQ(of(50, 100), "first");
  EXPECT_EQ(of(100, 100), "second");
  EXPECT_EQ(of(100, 100.9), "second");
  EXPECT_EQ(of(100, 101.1), "first");
}

// Engines that take so long a step, and note the steps of each round.
struct Fakes {
  std::vector<TimedEngine> engines;
  std::vector<std::pair<std::string, int>> rounds;
  int64_t spent_ns = 0;

  void add(const std::string& name, int64_t step_ns, int fails_in_round = -1, ErrorKind kind = ErrorKind::device) {
    engines.push_back({name, [=, this, round = 0](int steps) mutable {
                         if (fails_in_round >= 0 && round++ >= fails_in_round) fail(kind, "{} waited for ever", name);
                         rounds.emplace_back(name, steps);
                         spent_ns += step_ns * steps;
                         return step_ns * steps;
                       }});
  }
  int most_steps() const {
    int most = 0;
    for (const auto& round : rounds) most = std::max(most, round.second);
    return most;
  }
};

TEST(TestInTurn, TakesAboutASecondOfLargeModelsAndLittleOfSmallOnes) {
  Fakes large;
  large.add("a", 1'500'000);
  large.add("b", 1'000'000);
  const EngineChoice choice = test_in_turn(large.engines, 1000);
  EXPECT_EQ(choice.engine, "b");
  EXPECT_EQ(choice.by, ChosenBy::self_test);
  ASSERT_EQ(choice.times.size(), 2u);
  EXPECT_EQ(choice.times[0].engine, "a");
  EXPECT_EQ(choice.times[0].step_ns, 1'500'000);
  EXPECT_EQ(choice.times[1].step_ns, 1'000'000);
  EXPECT_GT(large.spent_ns, 700'000'000);
  EXPECT_LT(large.spent_ns, 1'100'000'000);
  // The first steps of each; then none always follows the other.
  EXPECT_THAT(std::vector(large.rounds.begin(), large.rounds.begin() + 6),
              ElementsAre(std::pair{"a", 1}, std::pair{"b", 1}, std::pair{"a", 1}, std::pair{"b", 1},
                          std::pair{"b", 30}, std::pair{"a", 20}));

  Fakes small;
  small.add("a", 40'000);
  small.add("b", 50'000);
  EXPECT_EQ(test_in_turn(small.engines, 1000).engine, "a");
  EXPECT_LT(small.spent_ns, 100'000'000);
  Fakes slow;
  slow.add("a", 900'000'000);
  slow.add("b", 800'000'000);
  EXPECT_EQ(test_in_turn(slow.engines, 1000).engine, "b");
  EXPECT_EQ(slow.rounds.size(), 8u) << "one that is not timed, and three rounds";
  Fakes few_positions;
  few_positions.add("a", 40'000);
  few_positions.add("b", 50'000);
  test_in_turn(few_positions.engines, 3);
  EXPECT_EQ(few_positions.most_steps(), 3);
}

TEST(TestInTurn, WhereOneFailsTheOtherIsTakenAndTheReasonKept) {
  for (const int round : {0, 1, 3}) {
    for (const bool first_fails : {false, true}) {
      Fakes fakes;
      fakes.add("a", 1'000'000, first_fails ? round : -1);
      fakes.add("b", 500'000, first_fails ? -1 : round);
      const EngineChoice choice = test_in_turn(fakes.engines, 10);
      EXPECT_EQ(choice.engine, first_fails ? "b" : "a");
      EXPECT_EQ(choice.by, ChosenBy::failure);
      EXPECT_EQ(choice.failure, first_fails ? "a waited for ever" : "b waited for ever");
      EXPECT_TRUE(choice.times.empty());
      EXPECT_EQ(fakes.rounds.back().first, choice.engine) << "it was seen to run";
    }
  }
}

TEST(TestInTurn, WhereNoneRunsTheFirstFailureIsTheError) {
  Fakes fakes;
  fakes.add("a", 1'000'000, 2);  // as a GPU that the other took from the process
  fakes.add("b", 1'000'000, 1);
  EXPECT_THAT(refusal([&] { test_in_turn(fakes.engines, 10); }, ErrorKind::device), HasSubstr("b waited for ever"));
  Fakes interrupted;
  interrupted.add("a", 1'000'000);
  interrupted.add("b", 1'000'000, 1, ErrorKind::interrupted);
  EXPECT_THAT(refusal([&] { test_in_turn(interrupted.engines, 10); }, ErrorKind::interrupted), HasSubstr("b waited"));
}

// --- the cache -----------------------------------------------------------------------------------------------------

const EngineKey kKey{"GPU-1", "580.1", "abcdef", "0123"};
const EngineChoice kChoice{"persistent", ChosenBy::self_test, {{"graph", 2000.5}, {"persistent", 1000}}};

class EngineCacheTest : public testing::Test {
 protected:
  TestFolder folder_;
  std::string path_ = folder_ / "quantbench/engines.json";
  EngineCache cache_{path_};
};

TEST_F(EngineCacheTest, FindsWhatWasKeptUnderTheSameKeyAlone) {
  EXPECT_FALSE(cache_.find(kKey));
  cache_.keep(kKey, kChoice);
  const auto found = EngineCache(path_).find(kKey);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->engine, "persistent");
  EXPECT_EQ(found->by, ChosenBy::cache);
  ASSERT_EQ(found->times.size(), 2u);
  EXPECT_EQ(found->times[0].engine, "graph");
  EXPECT_EQ(found->times[0].step_ns, 2000.5);
  for (std::string EngineKey::*part : {&EngineKey::gpu, &EngineKey::driver, &EngineKey::program, &EngineKey::model}) {
    EngineKey other = kKey;
    other.*part = "other";
    EXPECT_FALSE(cache_.find(other));
    other.*part = "";  // not known
    cache_.keep(other, kChoice);
    EXPECT_FALSE(cache_.find(other));
  }
}

TEST_F(EngineCacheTest, AddsToWhatAnotherProcessWroteAndReplacesItsOwn) {
  EngineKey second = kKey;
  second.model = "4567";
  EngineCache other(path_);
  cache_.keep(kKey, kChoice);
  other.keep(second, {"graph", ChosenBy::self_test, {{"graph", 1}}});
  cache_.keep(kKey, {"graph", ChosenBy::self_test, {{"graph", 3}}});
  EXPECT_EQ(cache_.find(second)->engine, "graph");
  EXPECT_EQ(cache_.find(kKey)->times.size(), 1u);
  EXPECT_EQ(read_json_file(path_).at("choices").size(), 2u);
}

TEST_F(EngineCacheTest, KeepsSoManyAndTheNewest) {
  const auto key = [](size_t i) { return EngineKey{"GPU-1", "580.1", "abcdef", fmt::format("{}", i)}; };
  constexpr size_t kMore = EngineCache::kMostChoices + 3;
  for (size_t i = 0; i < kMore; ++i) cache_.keep(key(i), kChoice);
  EXPECT_EQ(read_json_file(path_).at("choices").size(), EngineCache::kMostChoices);
  EXPECT_FALSE(cache_.find(key(2)));
  EXPECT_TRUE(cache_.find(key(3)));
  EXPECT_TRUE(cache_.find(key(kMore - 1)));
}

TEST_F(EngineCacheTest, IgnoresAndReplacesAFileThatIsNotItsOwn) {
  const std::string entry =
      R"({"gpu": "GPU-1", "driver": "580.1", "program": "abcdef", "model": "0123", "engine": "graph", "step_ns": {}})";
  folder_.write("quantbench/engines.json", R"({"version": 1, "choices": [)" + entry + "]}");
  EXPECT_TRUE(cache_.find(kKey)) << "so those below fail for the reason given";
  for (const std::string& text : {std::string(), std::string("{"), std::string("[1, 2]"), std::string("\xff\xfe"),
                                  std::string(R"({"version": 1})"), std::string(R"({"version": 1, "choices": [3]})"),
                                  R"({"version": 2, "choices": [)" + entry + "]}", std::string(2 << 20, ' '),
                                  std::string(R"({"version": 1, "choices": [{"gpu": 7}]})")}) {
    folder_.write("quantbench/engines.json", text);
    EXPECT_FALSE(cache_.find(kKey)) << text.substr(0, 60);
    cache_.keep(kKey, kChoice);
    EXPECT_TRUE(cache_.find(kKey)) << text.substr(0, 60);
  }
}

TEST_F(EngineCacheTest, AFolderThatCannotBeWrittenIsNoError) {
  folder_.write("quantbench", "a file where the folder should be");
  cache_.keep(kKey, kChoice);
  EXPECT_FALSE(cache_.find(kKey));
  const EngineCache nowhere(std::nullopt);
  nowhere.keep(kKey, kChoice);
  EXPECT_FALSE(nowhere.find(kKey));
}

// --- a session -----------------------------------------------------------------------------------------------------

constexpr StateShape kShape{.rows = 16, .logit_rows = 3, .sequences = 1, .positions = 40};
const std::vector<int32_t> kPrompt = {254, 17, 3, 99, 42};
constexpr size_t kOwnBytes = 4096;  // of the persistent engine of the test

// The reference with two engines, of which one is slow, and either may fail.
class TwoEngines final : public ForwardingBackend {
 public:
  explicit TwoEngines(std::string slow = "graph") : slow_(std::move(slow)) {
    device_ = inner_->device();
    device_.gpu = {.uuid = "GPU-fake", .driver = "580.1"};
  }
  const DeviceInfo& device() const override { return device_; }
  using ForwardingBackend::plan;
  Plan plan(const Tape& step, int max_rows, const Tape& before) override {
    Plan plan = inner_->plan(step, max_rows, before);
    plan.engines = {{"graph"}, {"persistent", kOwnBytes}};
    plan.predicted[Use::workspace] += kOwnBytes;
    return plan;
  }
  std::unique_ptr<Program> record(const Plan& plan) override { return record_beside(plan, plan.engines.front().name); }
  std::unique_ptr<Program> record_beside(const Plan& plan, std::string_view engine) override {
    recorded.emplace_back(engine);
    auto own = engine == "persistent" ? inner_->allocate(Use::workspace, kOwnBytes) : nullptr;
    return std::make_unique<Step>(*this, std::string(engine), std::move(own), inner_->record(plan));
  }

  std::vector<std::string> recorded;
  std::string failing;
  int steps = 0;

 private:
  struct Step final : Program {
    Step(TwoEngines& b, std::string e, std::unique_ptr<Buffer> o, std::unique_ptr<Program> i)
        : backend(b), engine(std::move(e)), own(std::move(o)), inner(std::move(i)) {}
    void run() override {
      ++backend.steps;
      if (engine == backend.failing) fail(ErrorKind::device, "{} waited for ever", engine);
      constexpr int64_t kSlowNs = 5'000'000;  // many times what a step takes, but under a sanitizer
      const int64_t start_ns = os::steady_now_ns();
      inner->run();
      const int64_t took_ns = os::steady_now_ns() - start_ns;
      while (engine == backend.slow_ && os::steady_now_ns() - start_ns < 2 * took_ns + kSlowNs) {
      }
    }
    TwoEngines& backend;
    std::string engine;
    std::unique_ptr<Buffer> own;
    std::unique_ptr<Program> inner;
  };

  std::string slow_;
  DeviceInfo device_;
};

class ChooseEngine : public testing::Test {
 protected:
  struct Loaded {
    std::unique_ptr<Checkpoint> checkpoint =
        Checkpoint::open(std::string(QB_SOURCE_DIR) + "/testdata/models/llama-untied");
    TwoEngines backend;
    std::unique_ptr<Model> model;
    Plan plan;

    explicit Loaded(const std::string& slow = "graph", Precision precision = Precision::fp16)
        : backend(slow),
          model(make_model(config_of(*checkpoint), precision)),
          plan(backend.plan(decode_shapes(*model), kShape.rows)) {
      load(*model, *checkpoint, backend, plan);
    }
    EngineKey key() const { return engine_key(backend.device(), plan.tape); }
    // As a worker does it.
    EngineChoice choose(const EngineCache& cache, std::vector<int32_t>* tokens = nullptr) {
      EngineChoice choice = choose_untested(&plan, "auto", backend.device(), cache);
      Session session(backend, *model, kShape, choice.engine);
      if (choice.engine.empty()) choice = choose_by_test(session, plan, backend.device(), cache);
      plan.keep(choice.engine);
      EXPECT_EQ(backend.memory().bytes, predict_memory(plan, *model, kShape).bytes) << choice.engine;
      if (tokens) *tokens = session.generate(kPrompt, {.max_new_tokens = 20}).tokens;
      return choice;
    }
  };

  TestFolder folder_;
  EngineCache cache_{folder_ / "engines.json"};
};

TEST_F(ChooseEngine, TestsOnceAndFindsTheResultAgain) {
  std::vector<int32_t> alone, tested, cached;
  {
    Loaded loaded;
    Session session(loaded.backend, *loaded.model, kShape);
    alone = session.generate(kPrompt, {.max_new_tokens = 20}).tokens;
  }
  Loaded first;
  const EngineChoice choice = first.choose(cache_, &tested);
  EXPECT_EQ(choice.engine, "persistent");
  EXPECT_EQ(choice.by, ChosenBy::self_test);
  EXPECT_THAT(first.backend.recorded, ElementsAre("graph", "persistent"));
  EXPECT_EQ(tested, alone) << "what the test left in the cache is not read";

  Loaded second;
  const EngineChoice again = second.choose(cache_, &cached);
  EXPECT_EQ(again.engine, "persistent");
  EXPECT_EQ(again.by, ChosenBy::cache);
  EXPECT_EQ(again.times.size(), 2u);
  EXPECT_THAT(second.backend.recorded, ElementsAre("persistent")) << "and no other step";
  EXPECT_EQ(second.backend.steps, 19) << "of the generation alone";
  EXPECT_EQ(cached, alone);
}

TEST_F(ChooseEngine, GivesTheMemoryOfTheSlowerOneBack) {
  Loaded loaded("persistent");
  EXPECT_EQ(loaded.choose(cache_).engine, "graph");  // choose() looks at the ledger
  EXPECT_EQ(cache_.find(loaded.key())->engine, "graph");
}

TEST_F(ChooseEngine, AFailureIsSaidAndNotKept) {
  Loaded loaded;
  loaded.backend.failing = "persistent";
  std::vector<int32_t> tokens;
  const EngineChoice choice = loaded.choose(cache_, &tokens);
  EXPECT_EQ(choice.engine, "graph");
  EXPECT_EQ(choice.by, ChosenBy::failure);
  EXPECT_EQ(choice.failure, "persistent waited for ever");
  EXPECT_EQ(tokens.size(), 20u);
  EXPECT_FALSE(cache_.find(loaded.key()));
}

TEST_F(ChooseEngine, ATestBehindAContextLeavesTheContextAsItIs) {
  const std::vector<int32_t> context = {7, 8, 9, 10};
  const auto logits = [&](bool test) {
    Loaded loaded;
    Session session(loaded.backend, *loaded.model, kShape);
    session.fill_context(context);
    if (test) {
      EXPECT_EQ(session.test_engines().engine, "persistent");
    }
    return session.logits(kPrompt, false);
  };
  EXPECT_EQ(logits(true), logits(false));
}

TEST_F(ChooseEngine, ChoosesNothingWhereNothingIsLeftToChoose) {
  Loaded loaded;
  Plan one = loaded.plan;
  one.keep("graph");
  EXPECT_EQ(one.predicted[Use::workspace] + kOwnBytes, loaded.plan.predicted[Use::workspace]);
  EXPECT_EQ(choose_untested(&one, "graph", loaded.backend.device(), cache_).by, ChosenBy::request);
  const EngineChoice only = choose_untested(&one, "auto", loaded.backend.device(), cache_);
  EXPECT_EQ(only.by, ChosenBy::only);
  EXPECT_EQ(only.engine, "graph");
  // A name that this program does not know.
  cache_.keep(loaded.key(), {"faster", ChosenBy::self_test, {}});
  EXPECT_EQ(choose_untested(&loaded.plan, "auto", loaded.backend.device(), cache_).engine, "");
  EXPECT_EQ(loaded.plan.engines.size(), 2u);
}

TEST_F(ChooseEngine, AKeyIsOfFormatsAndShapesAndNotOfWeightsOrRoom) {
  Loaded one, same;
  Loaded int8("graph", Precision::int8), nf4("graph", Precision::nf4);
  EXPECT_EQ(one.key(), same.key());
  EXPECT_NE(one.key(), int8.key());
  EXPECT_NE(int8.key(), nf4.key());
  EXPECT_TRUE(one.key().is_known());
  const auto key = [&](const std::string& name, int value) {
    ModelConfig config = config_of(*one.checkpoint);
    config.config[name] = value;
    return engine_key(one.backend.device(), decode_shapes(*make_model(config, Precision::fp16)));
  };
  const int layers = one.model->shape().layers;
  EXPECT_EQ(key("num_hidden_layers", layers), one.key());
  EXPECT_NE(key("num_hidden_layers", layers + 1), one.key());
  EXPECT_NE(key("vocab_size", one.model->shape().vocab + 64), one.key());
  DeviceInfo host = one.backend.device();
  host.gpu.reset();
  EXPECT_FALSE(engine_key(host, one.plan.tape).is_known());
}

}  // namespace
}  // namespace quantbench
