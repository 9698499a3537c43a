// The two engines of a GPU beside each other: what one token gives may not depend on how it is made.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>

#include "backend/test_backends.h"
#include "checkpoint/checkpoint.h"
#include "engine/choose_engine.h"
#include "engine/relative_error.h"
#include "model/loader.h"
#include "model/registry.h"
#include "quant/int8.h"
#include "quant/nf4.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

std::unique_ptr<Backend> make_engine(std::string_view backend, const std::string& engine, bool stalls = false) {
#if defined(QB_HAS_CUDA_EMULATOR)
  if (backend == kEmulatedCuda) {
    return cuda_emulated::make_backend(
        {.engine = engine, .gpu = cuda_emulated::kEmulatedHopper, .persistent_stalls = stalls});
  }
#endif
  return make_backend(std::string(backend), {.engine = engine, .persistent_stalls = stalls});
}

struct Case {
  std::string_view backend;
  Precision precision;
  // Of random weights; empty: the bundled model.
  std::string_view shape = {};
  int outliers = 0;
};

ModelConfig small(std::string_view model, int hidden, int heads, int kv_heads, int inner) {
  ModelConfig config = published_config(std::string(model));
  config.generation = nullptr;
  config.config["hidden_size"] = hidden;
  config.config["num_attention_heads"] = heads;
  config.config["num_key_value_heads"] = kv_heads;
  config.config["intermediate_size"] = inner;
  config.config["num_hidden_layers"] = 2;
  config.config["vocab_size"] = 512;
  config.config["bos_token_id"] = config.config["eos_token_id"] = 511;
  return config;
}
// What the bundled model does not have: LayerNorm, biases, heads of 80 of which 32 are rotated, an odd number of
// chunks a row, and no gate.
ModelConfig small_phi() { return small("microsoft/phi-2", 1280, 16, 16, 1536); }
// Heads of another size than the bundled model's.
ModelConfig small_llama(int head_dim) {
  ModelConfig config = small("meta-llama/Llama-3.2-1B", 512, 512 / head_dim, 2, 1024);
  config.config["head_dim"] = head_dim;
  return config;
}
ModelConfig config_of_shape(std::string_view shape) {
  return shape == "phi" ? small_phi() : small_llama(shape == "heads_of_128" ? 128 : 32);
}

struct Opened {
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  Plan plan;
  static constexpr StateShape kShape{.rows = 380, .logit_rows = 8, .sequences = 1, .positions = 400};

  Opened(const std::string& engine, const Case& c, bool stalls = false)
      : backend(make_engine(c.backend, engine, stalls)),
        model(c.shape.empty() ? nullptr : make_model(config_of_shape(c.shape), c.precision)) {
    if (!model) {
      checkpoint = Checkpoint::open(std::string(QB_SOURCE_DIR) + "/models/bundled");
      model = make_model(config_of(*checkpoint), c.precision);
    }
    plan = backend->plan(decode_shapes(*model), kShape.rows);
    if (checkpoint)
      load(*model, *checkpoint, *backend, plan);
    else
      load(*model, RandomWeights(42, random_tensors(*model), c.outliers), *backend, plan);
  }
};

std::vector<int32_t> ids_below(int vocab, size_t count) {
  std::vector<int32_t> ids(count);
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>((i * 7919 + 13) % static_cast<size_t>(vocab));
  }
  return ids;
}

class Engines : public testing::TestWithParam<Case> {
 protected:
  bool is_emulated() const { return GetParam().backend == kEmulatedCuda; }
  bool is_int8() const { return GetParam().precision == Precision::int8; }
  void SetUp() override {
    if (is_emulated()) return;
    if (!tests_cuda()) GTEST_SKIP() << why_not("cuda");
    Opened graph("graph", GetParam());
    if (graph.backend->device().features != "sm_90") GTEST_SKIP() << "the persistent engine is for sm_90";
  }
};

TEST_P(Engines, GiveTheSameLogits) {
  const auto logits = [this](const std::string& engine) {
    Opened opened(engine, GetParam());
    EXPECT_EQ(opened.plan.engines.front().name, engine);
    Session session(*opened.backend, *opened.model, Opened::kShape);
    const auto ids = ids_below(opened.model->shape().vocab, is_emulated() ? 3 : 64);
    auto out = session.logits(ids, true);
    EXPECT_EQ(session.logits(ids, true), out) << engine << ": a second run differs";
    return out;
  };
  const auto expected = logits("graph"), found = logits("persistent");
  ASSERT_EQ(expected.size(), found.size());
  ASSERT_TRUE(std::all_of(found.begin(), found.end(), [](float v) { return std::isfinite(v); }));
  // int8: an activation's code may fall the other way.
  EXPECT_LT(relative_error(found, expected), is_int8() ? 2e-2 : 2e-3);
}

// Past the first 128 positions attention goes round more than once.
using EnginesFar = Engines;
TEST_P(EnginesFar, GenerateTheSameTextEveryTime) {
  const int new_tokens = is_emulated() ? 4 : 300;
  const auto generate = [&](const std::string& engine, const Sampling& sampling, std::vector<int32_t> stop_at = {}) {
    Opened opened(engine, GetParam());
    Session session(*opened.backend, *opened.model, Opened::kShape);
    const bool is_watched = !stop_at.empty();
    const auto run =
        session.generate(ids_below(opened.model->shape().vocab, is_emulated() ? 140 : 64),
                         {.max_new_tokens = new_tokens, .sampling = sampling, .stop_at = std::move(stop_at)});
    EXPECT_TRUE(run.finite);
    const auto by_host = [](const Span& s) { return s.clock == Clock::host; };
    const auto seen = static_cast<size_t>(std::count_if(run.spans.begin(), run.spans.end(), by_host));
    EXPECT_EQ(seen, is_watched ? run.tokens.size() : 2u);
    EXPECT_EQ(run.spans.size() - seen, run.tokens.size()) << "prefill, and each step by the device's clock";
    return run.tokens;
  };
  const Sampling sampled{.temperature = 0.8f, .seed = 7};
  const Sampling cut{.temperature = 0.8f, .seed = 7, .top_k = 50, .top_p = 0.9};
  std::vector<Sampling> samplings{{}, cut};
  if (!is_emulated()) samplings.push_back(sampled);
  for (const Sampling& sampling : samplings) {
    const auto found = generate("persistent", sampling);
    EXPECT_TRUE(is_emulated() || generate("persistent", sampling) == found) << "a second run differs";
    const int32_t last = found[found.size() / 2];
    const auto stop = std::find(found.begin(), found.end(), last);
    EXPECT_EQ(generate("persistent", sampling, {last}), std::vector<int32_t>(found.begin(), stop + 1));
    if (is_emulated() && !is_int8()) {
      EXPECT_EQ(generate("graph", sampling), found);
    }
  }
}

// Not the text: where two tokens are equally likely but for rounding, the engines may take different ones.
// Hundreds of steps: on a card alone.
using EnginesDeep = Engines;
TEST_P(EnginesDeep, GiveTheSameLogitsFarIntoTheContext) {
  const auto logits = [](const std::string& engine) {
    Opened opened(engine, GetParam());
    Session session(*opened.backend, *opened.model, Opened::kShape);
    return session.logits(ids_below(opened.model->shape().vocab, 360), true);
  };
  const auto expected = logits("graph"), found = logits("persistent");
  EXPECT_LT(relative_error(found, expected), is_int8() ? 5e-2 : 2e-3);
}

// What a session that chose its engine gives is what that engine gives.
using EnginesChosen = Engines;
TEST_P(EnginesChosen, GivesWhatTheOneThatWasTakenGives) {
  const TestFolder folder;
  const EngineCache cache(folder / "engines.json");
  const auto logits = [this](Session& session, const Opened& of) {
    return session.logits(ids_below(of.model->shape().vocab, is_emulated() ? 3 : 64), true);
  };
  Opened opened("auto", GetParam());
  ASSERT_EQ(opened.plan.engines.size(), 2u);
  const DeviceInfo device = opened.backend->device();
  EXPECT_EQ(choose_untested(&opened.plan, "auto", device, cache).engine, "");
  Session session(*opened.backend, *opened.model, Opened::kShape);
  const EngineChoice choice = choose_by_test(session, opened.plan, device, cache);
  EXPECT_EQ(choice.by, ChosenBy::self_test) << choice.failure;
  EXPECT_EQ(choice.times.size(), 2u);
  const auto found = logits(session, opened);

  Opened alone(choice.engine, GetParam());
  Session of_alone(*alone.backend, *alone.model, Opened::kShape);
  EXPECT_EQ(found, logits(of_alone, alone)) << choice.engine;
  EXPECT_EQ(opened.backend->memory().bytes, alone.backend->memory().bytes) << "the other's memory is given back";

  const EngineChoice again = choose_untested(&opened.plan, "auto", device, cache);
  EXPECT_EQ(again.engine, choice.engine);
  EXPECT_EQ(again.by, ChosenBy::cache);
}

// A decoder that reads an encoder: also where the engines are tested before any text has been read.
class EnginesOfT5 : public Engines {
 protected:
  struct Loaded {
    std::unique_ptr<Backend> backend;
    std::unique_ptr<Model> model;
    Plan plan;
    StateShape run;

    Loaded(const std::string& engine, const Case& c) : backend(make_engine(c.backend, engine)) {
      ModelConfig config = published_config("google/flan-t5-base");
      config.generation = nullptr;
      const std::pair<const char*, int> sizes[] = {{"d_model", 256},          {"d_ff", 256},
                                                   {"num_heads", 4},          {"num_layers", 1},
                                                   {"num_decoder_layers", 2}, {"vocab_size", 512}};
      for (const auto& [key, size] : sizes) config.config[key] = size;
      model = make_model(config, c.precision);
      run = session_shape(model->shape(), 1, 0, kText, 64);
      plan = backend->plan(decode_shapes(*model), run.rows, encode_shapes(*model, run.encoder_rows));
      load(*model, RandomWeights(42, random_tensors(*model), c.outliers), *backend, plan);
    }
  };
  static constexpr int kText = 7;
};
TEST_P(EnginesOfT5, GiveTheSameLogitsAndCanBeTestedFirst) {
  const std::vector<int32_t> text = ids_below(512, kText), ids = ids_below(512, is_emulated() ? 3 : 40);
  std::vector<std::vector<float>> found;
  for (const char* engine : {"graph", "persistent"}) {
    Loaded loaded(engine, GetParam());
    Session session(*loaded.backend, *loaded.model, loaded.run);
    found.push_back(session.logits(text, ids, true));
  }
  EXPECT_LT(relative_error(found[1], found[0]), is_int8() ? 5e-2 : 2e-3);
  Loaded loaded("auto", GetParam());
  ASSERT_EQ(loaded.plan.engines.size(), 2u);
  Session session(*loaded.backend, *loaded.model, loaded.run);
  const std::string taken = session.test_engines().engine;
  EXPECT_EQ(session.logits(text, ids, true), found[taken == "persistent" ? 1 : 0]) << taken;
}

// A decoder behind a picture: heads of 256, one of them for keys and values, and rows so long that the persistent
// engine makes LLM.int8's codes of them another way.
class EnginesOfPaliGemma : public Engines {
 protected:
  static ModelConfig config() {
    ModelConfig config = published_config("google/paligemma-3b-pt-224");
    config.generation = nullptr;
    constexpr int kWidth = 256, kPictureTokens = 16;
    config.config["vocab_size"] = 512;
    config.config["image_token_index"] = kPictureToken;
    config.config["hidden_size"] = config.config["projection_dim"] = kWidth;
    auto& text = config.config["text_config"];
    text["hidden_size"] = kWidth;
    text["intermediate_size"] = 9216;
    text["num_attention_heads"] = text["num_hidden_layers"] = 2;
    text["num_image_tokens"] = kPictureTokens;
    text["vocab_size"] = 512;
    auto& vision = config.config["vision_config"];
    vision["hidden_size"] = 144;  // two heads of 72
    vision["num_attention_heads"] = 2;
    vision["num_hidden_layers"] = 1;
    vision["intermediate_size"] = 288;
    vision["image_size"] = 56;
    vision["num_image_tokens"] = kPictureTokens;
    vision["projection_dim"] = kWidth;
    return config;
  }
  static constexpr int kPictureToken = 500, kText = 5;
};
TEST_P(EnginesOfPaliGemma, GiveTheSameLogits) {
  std::vector<std::vector<float>> found;
  for (const char* engine : {"graph", "persistent"}) {
    const auto backend = make_engine(GetParam().backend, engine);
    const auto model = make_model(config(), GetParam().precision);
    const Picture& picture = *model->shape().encoder->picture;
    std::vector<int32_t> prompt(static_cast<size_t>(picture.tokens()), kPictureToken);
    for (const int32_t id : ids_below(kPictureToken, kText)) prompt.push_back(id);
    std::vector<float> patches(static_cast<size_t>(picture.tokens()) * static_cast<size_t>(picture.values()));
    for (size_t i = 0; i < patches.size(); ++i) patches[i] = static_cast<float>(i * 37 % 200) / 100.0f - 1;
    const StateShape run = session_shape(model->shape(), 1, 0, static_cast<int>(prompt.size()), 64);
    const Plan plan = backend->plan(decode_shapes(*model), run.rows, encode_shapes(*model, run.encoder_rows));
    load(*model, RandomWeights(42, random_tensors(*model), GetParam().outliers), *backend, plan);
    Session session(*backend, *model, run);
    EXPECT_EQ(plan.engines.front().name, engine);
    found.push_back(session.logits({prompt, patches}, ids_below(kPictureToken, is_emulated() ? 3 : 40), true));
  }
  EXPECT_LT(relative_error(found[1], found[0]), is_int8() ? 5e-2 : 2e-3);
}

// What stands in place of a right number, and where.
struct Poison {
  const char* what;
  std::string tensor;
  float value;
};
const Poison kPoisons[] = {
    {"NaN in the first norm", "model.layers.0.input_layernorm.weight", NAN},
    {"infinity in the first norm", "model.layers.0.input_layernorm.weight", INFINITY},
    {"-infinity in a norm behind an attention", "model.layers.1.input_layernorm.weight", -INFINITY},
    {"NaN in the last norm", "model.norm.weight", NAN},
    {"NaN in a product's weights", "model.layers.1.self_attn.q_proj.weight", NAN},
    {"infinity in a product's weights", "model.layers.0.self_attn.v_proj.weight", INFINITY},
};
// One number of a vector, or one row's worth of a linear: in fp16 a weight, in int8 a row's absmax, in nf4 all scales.
void put(const Poison& poison, Opened& opened, Precision precision) {
  bool is_put = false;
  for (const WeightSlot& slot : opened.model->weights()) {
    if (slot.name != poison.tensor) continue;
    is_put = true;
    if (const float** const* vector = std::get_if<const float**>(&slot.target)) {
      const HostF32 values{1, slot.cols, [&](int, int, float* out) {
                             std::fill_n(out, slot.cols, 1.0f);
                             out[slot.cols / 3] = poison.value;
                           }};
      **vector = std::get<F32Matrix>(opened.backend->pack(values, Role::vector, opened.plan)).w;
      continue;
    }
    const auto n = static_cast<size_t>(slot.rows), k = static_cast<size_t>(slot.cols);
    std::vector<f16> values(n * k, to_f16(0.25f));
    HostMatrix host =
        HostF16{slot.rows, slot.cols, [&](int first, int count, f16* out) {
                  std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(first) * slot.cols, count * slot.cols, out);
                }};
    std::vector<int8_t> codes(n * k);
    std::vector<float> absmax(n);
    Nf4Weights nf4;
    if (precision == Precision::fp16) values[k / 2] = to_f16(poison.value);
    if (precision == Precision::int8) {
      quantize_int8(values, slot.rows, slot.cols, codes, absmax, opened.backend->host_pool());
      absmax[n / 2] = poison.value;
      host = HostInt8{slot.rows, slot.cols, codes, absmax};
    }
    if (precision == Precision::nf4) {
      quantize_nf4(values, slot.rows, slot.cols, &nf4, opened.backend->host_pool());
      HostNf4 view = nf4.view();
      view.offset = poison.value;
      host = view;
    }
    *std::get<Matrix*>(slot.target) = opened.backend->pack(host, Role::linear, opened.plan);
  }
  ASSERT_TRUE(is_put) << poison.tensor;
}

// A step by the engine itself: a prompt's logits come from other kernels. LLM.int8 by the letter, as the graph engine
// has it, gives what is no number the code 0; the persistent engine takes it for an outlier, whose product shows it.
using EnginesNotFinite = Engines;
TEST_P(EnginesNotFinite, EndAndShowItInTheLogits) {
  const auto is_finite = [](float v) { return std::isfinite(v); };
  for (const Poison& poison : kPoisons) {
    for (const std::string engine : {"persistent", "graph"}) {
      if (engine == "graph" && (is_int8() || is_emulated())) continue;
      SCOPED_TRACE(engine + ": " + poison.what);
      Opened opened(engine, GetParam());
      put(poison, opened, GetParam().precision);
      Session session(*opened.backend, *opened.model, Opened::kShape);
      const int vocab = opened.model->shape().vocab;
      const auto logits = session.logits(ids_below(vocab, 2), true);
      EXPECT_FALSE(std::all_of(logits.end() - vocab, logits.end(), is_finite));
      const auto run = session.generate(ids_below(vocab, 2), {.max_new_tokens = is_emulated() ? 2 : 3});
      EXPECT_FALSE(run.finite);
      EXPECT_TRUE(std::all_of(run.tokens.begin(), run.tokens.end(), [&](int32_t id) { return id >= 0 && id < vocab; }));
    }
  }
}

// A fault of the kernel's would be a wait that never ends. On a card the launch takes the process's context with it, so
// a process of its own looks.
using EnginesStalled = Engines;
TEST_P(EnginesStalled, GiveUpWithAnError) {
  const auto fails = [this] {
    try {
      Opened opened("persistent", GetParam(), true);
      Session session(*opened.backend, *opened.model, Opened::kShape);
      session.logits(ids_below(opened.model->shape().vocab, 1), true);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  if (is_emulated()) {
    EXPECT_THAT(fails(), testing::ContainsRegex("emulated kernel: wait [123] of step [0-9]+ was given up"));
    return;
  }
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  constexpr int kStatus = 3;
  const auto tell = [&] {
    std::cerr << fails() << std::endl;
    std::_Exit(kStatus);
  };
  EXPECT_EXIT(tell(), testing::ExitedWithCode(kStatus),
              "the persistent engine waited for seconds and gave up .wait [123] of step");
}

std::vector<Case> cases(std::string_view backend) {
  std::vector<Case> all;
  for (const std::string_view shape : {"", "phi"}) {
    for (const Precision precision : {Precision::fp16, Precision::int8, Precision::nf4}) {
      all.push_back({backend, precision, shape});
    }
  }
  all.push_back({backend, Precision::int8, "phi", 4});
  all.push_back({backend, Precision::fp16, "heads_of_32"});
  all.push_back({backend, Precision::nf4, "heads_of_128"});
  return all;
}
std::string name_of_case(const testing::TestParamInfo<Case>& test) {
  const Case& c = test.param;
  return fmt::format("{}{}{}{}", c.precision == Precision::nf4 ? "nf4" : name_of(c.precision),
                     c.shape.empty() ? "" : "_", c.shape, c.outliers > 0 ? "_outliers" : "");
}
std::vector<Case> bundled(std::string_view backend) {
  const std::vector<Case> all = cases(backend);
  return {all.begin(), all.begin() + 3};
}
std::vector<Case> small_ones(std::string_view backend, size_t count = 3) {
  std::vector<Case> some;
  for (const Precision precision : {Precision::fp16, Precision::int8, Precision::nf4}) {
    some.push_back({backend, precision, "heads_of_128"});
  }
  some.resize(count);
  return some;
}
INSTANTIATE_TEST_SUITE_P(cuda, Engines, testing::ValuesIn(cases("cuda")), name_of_case);
INSTANTIATE_TEST_SUITE_P(cuda, EnginesFar, testing::ValuesIn(bundled("cuda")), name_of_case);
INSTANTIATE_TEST_SUITE_P(cuda, EnginesDeep, testing::ValuesIn(bundled("cuda")), name_of_case);
INSTANTIATE_TEST_SUITE_P(cuda, EnginesNotFinite, testing::ValuesIn(small_ones("cuda")), name_of_case);
INSTANTIATE_TEST_SUITE_P(cuda, EnginesStalled, testing::ValuesIn(small_ones("cuda", 1)), name_of_case);
INSTANTIATE_TEST_SUITE_P(cuda, EnginesChosen, testing::ValuesIn(bundled("cuda")), name_of_case);
INSTANTIATE_TEST_SUITE_P(cuda, EnginesOfT5, testing::ValuesIn(bundled("cuda")), name_of_case);
INSTANTIATE_TEST_SUITE_P(cuda, EnginesOfPaliGemma, testing::ValuesIn(bundled("cuda")), name_of_case);
#if defined(QB_HAS_CUDA_EMULATOR)
TEST(Engine, ThatIsAskedForAndCannotRunIsRefusedWithTheReason) {
  using testing::HasSubstr;
  const auto refused = [](const BackendOptions& options, int batch) {
    const auto backend = cuda_emulated::make_backend(options);
    const auto model = make_model(config_of_shape("phi"), Precision::fp16);
    return refusal([&] { backend->plan(decode_shapes(*model, batch), 8); }, ErrorKind::device);
  };
  EXPECT_THAT(refused({.engine = "persistent"}, 3),
              HasSubstr("--engine persistent: the persistent engine does not take a batch of 3 sequences; use --engine "
                        "graph or auto"));
}

INSTANTIATE_TEST_SUITE_P(emulated, Engines, testing::ValuesIn(cases(kEmulatedCuda)), name_of_case);
INSTANTIATE_TEST_SUITE_P(emulated, EnginesFar, testing::ValuesIn(bundled(kEmulatedCuda)), name_of_case);
INSTANTIATE_TEST_SUITE_P(emulated, EnginesNotFinite, testing::ValuesIn(small_ones(kEmulatedCuda)), name_of_case);
INSTANTIATE_TEST_SUITE_P(emulated, EnginesStalled, testing::ValuesIn(small_ones(kEmulatedCuda, 1)), name_of_case);
INSTANTIATE_TEST_SUITE_P(emulated, EnginesChosen, testing::ValuesIn(bundled(kEmulatedCuda)), name_of_case);
INSTANTIATE_TEST_SUITE_P(emulated, EnginesOfT5, testing::ValuesIn(bundled(kEmulatedCuda)), name_of_case);
INSTANTIATE_TEST_SUITE_P(emulated, EnginesOfPaliGemma, testing::ValuesIn(bundled(kEmulatedCuda)), name_of_case);
#endif

}  // namespace
}  // namespace quantbench
