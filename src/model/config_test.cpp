#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/host_memory.h"
#include "core/error.h"
#include "core/json.h"
#include "core/os.h"
#include "model/family.h"
#include "model/registry.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// What a broken config is refused with; "accepted" if it is not.
std::string refusal(std::string_view published, const std::function<void(json&)>& edit) {
  ModelConfig config = published_config(published);
  config.where = "m/config.json";
  edit(config.config);
  try {
    make_model(config, Precision::fp16);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_model);
    EXPECT_THAT(error.what(), HasSubstr("m/config.json"));
    return error.what();
  }
  return "accepted";
}
std::string llama(const std::function<void(json&)>& edit) { return refusal("meta-llama/Llama-3.2-1B", edit); }
std::string phi(const std::function<void(json&)>& edit) { return refusal("microsoft/phi-2", edit); }
std::string qwen2(const std::function<void(json&)>& edit) { return refusal("Qwen/Qwen2.5-0.5B", edit); }

TEST(PublishedConfig, HasThePublishedParameterCount) {
  EXPECT_EQ(make_model(published_config("meta-llama/Llama-3.2-1B"), Precision::int8)->shape().parameters,
            1'235'814'400);
  EXPECT_EQ(make_model(published_config("microsoft/phi-2"), Precision::nf4)->shape().parameters, 2'779'683'840);
  EXPECT_EQ(make_model(published_config("Qwen/Qwen2.5-0.5B"), Precision::fp16)->shape().parameters, 494'032'768);
  EXPECT_EQ(make_model(published_config("google/flan-t5-base"), Precision::int8)->shape().parameters, 247'577'856);
  EXPECT_EQ(make_model(published_config("google/paligemma-3b-pt-224"), Precision::nf4)->shape().parameters,
            2'923'466'480);
  EXPECT_EQ(make_model(published_config("google/paligemma-3b-pt-448"), Precision::nf4)->shape().parameters,
            2'924'351'216);
}

TEST(PublishedConfig, QuantisesTheLinearsThatBitsandbytesQuantises) {
  // Counted with transformers and bitsandbytes.
  const auto counted = [](std::string_view id) {
    std::pair<int, int64_t> sum;
    for (const WeightSlot& slot : make_model(published_config(id), Precision::nf4)->weights()) {
      if (slot.quantized) ++sum.first, sum.second += int64_t{slot.rows} * slot.cols;
    }
    return sum;
  };
  EXPECT_EQ(counted("meta-llama/Llama-3.2-1B"), std::make_pair(112, int64_t{973'078'528}));
  EXPECT_EQ(counted("microsoft/phi-2"), std::make_pair(192, int64_t{2'516'582'400}));
  EXPECT_EQ(counted("Qwen/Qwen2.5-0.5B"), std::make_pair(168, int64_t{357'826'560}));
  EXPECT_EQ(counted("google/flan-t5-base"), std::make_pair(192, int64_t{160'432'128}));
  EXPECT_EQ(counted("google/paligemma-3b-pt-224"), std::make_pair(126 + 162 + 1, int64_t{2'395'238'400}));
}

TEST(PublishedConfig, TakesTheBytesThatItsFormatsSay) {
  const auto bytes = [](Precision precision) {
    return weight_bytes(decode_shapes(*make_model(published_config("meta-llama/Llama-3.2-1B"), precision)));
  };
  // 33 RMSNorms of 2048 in fp32, the tied table in fp16; 973,078,528 weights in linears.
  const size_t kept = 33u * 2048 * 4 + size_t{128256} * 2048 * 2, linears = 973'078'528;
  const MemoryUse fp16 = bytes(Precision::fp16), int8 = bytes(Precision::int8), nf4 = bytes(Precision::nf4);
  for (const MemoryUse* use : {&fp16, &int8, &nf4}) EXPECT_EQ((*use)[Use::unquantized], kept);
  EXPECT_EQ(fp16[Use::weights], linears * 2);
  EXPECT_EQ(int8[Use::weights], linears);
  EXPECT_EQ(int8[Use::scales], 16u * (2048 + 512 + 512 + 2048 + 8192 + 8192 + 2048) * 4);
  EXPECT_EQ(nf4[Use::weights], linears / 2);
  EXPECT_EQ(nf4[Use::scales], linears / 64 + linears / 64 / 256 * 4);  // 4.127 bits a weight in all
}

TEST(PublishedConfig, AnotherIdIsRefusedWithThoseKnown) {
  try {
    published_config("gpt-17");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_THAT(error.what(), HasSubstr("microsoft/phi-2"));
  }
}

TEST(Config, AMissingKeyIsRefusedByName) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                          "max_position_embeddings", "rms_norm_eps", "hidden_act"}) {
    EXPECT_THAT(llama([&](json& c) { c.erase(key); }), HasSubstr(fmt::format("'{}' is missing", key)));
  }
  for (const char* key : {"hidden_size", "layer_norm_eps", "partial_rotary_factor", "vocab_size"}) {
    EXPECT_THAT(phi([&](json& c) { c.erase(key); }), HasSubstr(fmt::format("'{}' is missing", key)));
  }
  for (const char* key : {"num_key_value_heads", "rms_norm_eps", "hidden_act"}) {
    EXPECT_THAT(qwen2([&](json& c) { c.erase(key); }), HasSubstr(fmt::format("'{}' is missing", key)));
  }
  for (const char* key : {"tie_word_embeddings", "rope_theta"}) {  // younger than the first models
    EXPECT_EQ(llama([&](json& c) { c.erase(key); }), "accepted");
    EXPECT_EQ(phi([&](json& c) { c.erase(key); }), "accepted");
  }
}

TEST(Config, AnAbsurdValueIsRefusedWithTheRange) {
  const std::vector<json> absurd = {0, -1, 1e30, 2048.5, "2048", true, json::array({2048}), uint64_t{1} << 63};
  for (const json& value : absurd) {
    for (const char* key : {"hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads"}) {
      EXPECT_THAT(llama([&](json& c) { c[key] = value; }),
                  testing::AllOf(HasSubstr(fmt::format("'{}' is", key)), HasSubstr("a whole number from 1 to")))
          << value;
    }
  }
  EXPECT_THAT(llama([](json& c) { c["rms_norm_eps"] = 0; }), HasSubstr("a number from 1e-12 to 0.1"));
  EXPECT_THAT(llama([](json& c) { c["tie_word_embeddings"] = "yes"; }), HasSubstr("true or false"));
}

TEST(Config, SizesThatNoMachineCouldHoldAreRefusedBeforeAnythingIsTaken) {
  const std::string text = llama([](json& c) {
    c["hidden_size"] = 1 << 20, c["intermediate_size"] = 1 << 20, c["num_hidden_layers"] = 4096;
    c["vocab_size"] = 1 << 24, c["head_dim"] = 64;
  });
  EXPECT_THAT(text, HasSubstr("parameters, expected at most"));
}

TEST(Config, ALinearTooWideForInt8SumsIsRefusedThereAlone) {
  ModelConfig config = published_config("meta-llama/Llama-3.2-1B");
  config.config["intermediate_size"] = 140'000;
  make_model(config, Precision::fp16);
  EXPECT_THROW(make_model(config, Precision::int8), Error);
}

TEST(Config, HeadsMustDivide) {
  EXPECT_THAT(llama([](json& c) { c["num_key_value_heads"] = 7; }),
              HasSubstr("expected a divisor of num_attention_heads, 32"));
  EXPECT_THAT(llama([](json& c) { c["num_attention_heads"] = 24, c.erase("head_dim"); }),
              HasSubstr("expected a divisor of hidden_size, 2048"));
  EXPECT_THAT(phi([](json& c) { c["num_attention_heads"] = 48, c["num_key_value_heads"] = 48; }),
              HasSubstr("expected a divisor of hidden_size, 2560"));
}

TEST(Config, WhatIsNotBuiltIsRefusedByName) {
  EXPECT_THAT(llama([](json& c) { c["mlp_bias"] = true; }), HasSubstr("'mlp_bias' is true"));
  EXPECT_THAT(llama([](json& c) { c["sliding_window"] = 4096; }), HasSubstr("'sliding_window' is 4096"));
  EXPECT_THAT(llama([](json& c) { c["hidden_act"] = "relu2"; }),
              HasSubstr("not supported, only silu, gelu_new, gelu_pytorch_tanh or relu is"));
  EXPECT_THAT(llama([](json& c) { c["partial_rotary_factor"] = 0.5; }), HasSubstr("'partial_rotary_factor' is 0.5"));
  EXPECT_EQ(llama([](json& c) { c["partial_rotary_factor"] = 1; }), "accepted");
  EXPECT_THAT(phi([](json& c) { c["qk_layernorm"] = true; }), HasSubstr("'qk_layernorm' is true"));
  EXPECT_THAT(phi([](json& c) { c["tie_word_embeddings"] = true; }), HasSubstr("'tie_word_embeddings' is true"));
  EXPECT_THAT(llama([](json& c) {
                c["rope_scaling"] = {{"type", "longrope"}, {"factor", 4}};
              }),
              HasSubstr("'type' is \"longrope\", which is not supported, only default, linear, dynamic, llama3 or"));
  EXPECT_EQ(llama([](json& c) { c["sliding_window"] = nullptr, c["mlp_bias"] = false; }), "accepted");
}

TEST(Config, AWindowThatIsNotUsedIsNoneAndOneThatIsUsedIsRefused) {
  EXPECT_EQ(qwen2([](json& c) { c["sliding_window"] = 16; }), "accepted") << "use_sliding_window is false";
  EXPECT_EQ(qwen2([](json& c) { c.erase("use_sliding_window"); }), "accepted") << "as Qwen2Config has it";
  EXPECT_THAT(qwen2([](json& c) { c["use_sliding_window"] = true; }),
              HasSubstr("'use_sliding_window' is true: sliding-window attention is not supported"));
  EXPECT_EQ(qwen2([](json& c) { c["layer_types"] = std::vector<std::string>(24, "full_attention"); }), "accepted");
  EXPECT_THAT(qwen2([](json& c) {
                c["layer_types"] = {"full_attention", "sliding_attention"};
              }),
              HasSubstr("is not supported, only \"full_attention\" in every layer is"));
  EXPECT_THAT(qwen2([](json& c) { c["layer_types"] = "full_attention"; }), HasSubstr("expected a list"));
}

TEST(Config, WhatIsNotBuiltAsksForAnotherModelNotForAnotherFile) {
  const std::vector<std::function<void(json&)>> edits = {
      [](json& c) { c["mlp_bias"] = true; },
      [](json& c) { c["sliding_window"] = 4096; },
      [](json& c) { c["hidden_act"] = "gelu"; },
      [](json& c) { c["partial_rotary_factor"] = 0.5; },
      [](json& c) {
        c["rope_scaling"] = {{"rope_type", "proportional"}, {"factor", 4}};
      },
      [](json& c) {
        c["rope_scaling"] = {{"rope_type", "longrope"}, {"factor", 4}};
      },
      [](json& c) {
        c["rope_scaling"] = {{"full_attention", {{"rope_type", "default"}}}};
      }};
  for (const auto& edit : edits) {
    EXPECT_THAT(llama(edit), testing::AllOf(testing::ContainsRegex("choose (another model|a model without it)$"),
                                            testing::Not(HasSubstr("came with the weights"))));
  }
}

TEST(Config, AModelTypeOfAnotherFamilyIsRefused) {
  EXPECT_THAT(llama([](json& c) { c["model_type"] = "mistral"; }),
              HasSubstr("'model_type' is \"mistral\", expected \"llama\" where 'architectures' says LlamaForCausalLM"));
  EXPECT_THAT(phi([](json& c) { c["model_type"] = 3; }), HasSubstr("'model_type' is 3, expected \"phi\""));
  EXPECT_EQ(llama([](json& c) { c.erase("model_type"); }), "accepted") << "it contradicts nothing";
}

TEST(Config, AnUnknownArchitectureIsRefusedWithThoseBuilt) {
  for (const json& value : {json("LlamaForCausalLM"), json::array(), json::array({"GPT2LMHeadModel"}), json()}) {
    EXPECT_THAT(llama([&](json& c) { c["architectures"] = value; }),
                HasSubstr("expected one of LlamaForCausalLM, PhiForCausalLM"));
  }
}

TEST(Config, SpecialIdsAreAnIntAListOrNothingAndGenerationConfigWins) {
  ModelConfig c{{{"eos_token_id", 2}}, nullptr, "m"};
  EXPECT_EQ(special_ids(c, "eos_token_id", 10), std::vector<int32_t>{2});
  c.generation = {{"eos_token_id", {3, 4}}};
  EXPECT_EQ(special_ids(c, "eos_token_id", 10), (std::vector<int32_t>{3, 4}));
  c.generation = {{"eos_token_id", nullptr}};
  EXPECT_EQ(special_ids(c, "eos_token_id", 10), std::vector<int32_t>{2});
  EXPECT_TRUE(special_ids(c, "bos_token_id", 10).empty());
  EXPECT_THROW(special_ids(c, "eos_token_id", 2), Error);
  for (const json& bad : {json(99999), json(-1), json("x"), json::array({2, 10})}) {
    c = {{{"eos_token_id", bad}}, {{"eos_token_id", 3}}, "m"};
    EXPECT_THROW(special_ids(c, "eos_token_id", 10), Error) << bad << ", whatever generation_config.json says";
    c = {{{"eos_token_id", 3}}, {{"eos_token_id", bad}}, "m"};
    EXPECT_THROW(special_ids(c, "eos_token_id", 10), Error) << bad;
  }
  EXPECT_THAT(llama([](json& x) { x["pad"] = 0, x["bos_token_id"] = json::array({1, 2}); }), "accepted");
}

TEST(Rope, Llama3ScalingKeepsBlendsAndDividesAsPublished) {
  const ModelConfig config = published_config("meta-llama/Llama-3.2-1B");
  const RopeConfig scaled = read_rope(ConfigReader(config), 64, 1.0);
  RopeConfig plain = scaled;
  plain.scaling = RopeScaling::none;
  const auto f = rope_frequencies(scaled), unscaled = rope_frequencies(plain);
  ASSERT_EQ(f.size(), 32u);
  for (size_t i = 0; i < 32; ++i) {
    if (i <= 14) {
      EXPECT_EQ(f[i], unscaled[i]) << i;
    } else if (i <= 17) {
      EXPECT_TRUE(f[i] < unscaled[i] && f[i] > unscaled[i] / 32) << i;
    } else {
      EXPECT_EQ(f[i], unscaled[i] / 32) << i;
    }
  }
  // λ = 2π·θ^(30/64) lies between 2048 and 8192: (1−s)·f/32 + s·f with s = (8192/λ − 1)/3.
  const double pure = std::pow(5e5, -30.0 / 64), s = (8192 * pure / (2 * M_PI) - 1) / 3;
  EXPECT_NEAR(f[15], (1 - s) * pure / 32 + s * pure, 1e-6 * pure);
}

TEST(Rope, ScalesAsTransformersDoes) {
  const json golden = json::parse(os::read_file(QB_SOURCE_DIR "/testdata/rope.golden.json", 1 << 20));
  int scaled = 0;
  for (const json& entry : golden["cases"]) {
    const ModelConfig config{entry["config"], nullptr, "m"};
    const RopeConfig rope = read_rope(ConfigReader(config), entry["head_dim"], entry["fraction"]);
    const auto expected = entry["frequencies"].get<std::vector<float>>();
    const std::vector<float> found = rope_frequencies(rope);
    ASSERT_EQ(found.size(), expected.size()) << entry["config"];
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i], expected[i], 3e-7 * expected[i]) << entry["config"] << " " << i;
    }
    EXPECT_NEAR(rope.magnitude, entry["magnitude"].get<double>(), 1e-12) << entry["config"];
    scaled += rope.scaling != RopeScaling::none;
  }
  EXPECT_EQ(scaled, 32) << "of 38: default and dynamic are plain";
}

TEST(Rope, ATableHasTheMagnitudeInBothItsParts) {
  const auto backend = make_backend("reference", {});
  RopeConfig config{.dims = 8, .theta = 10000};
  const std::vector<float> frequencies = rope_frequencies(config);
  for (const double magnitude : {1.0, 1.25}) {
    config.magnitude = magnitude;
    RopeTables tables(config);
    tables.make(*backend, 3);
    for (size_t at = 0; at < 3 * frequencies.size(); ++at) {
      const float angle = static_cast<float>(at / frequencies.size()) * frequencies[at % frequencies.size()];
      EXPECT_NEAR(tables.rope()->cos[at], magnitude * std::cos(angle), 1e-6) << at;
      EXPECT_NEAR(tables.rope()->sin[at], magnitude * std::sin(angle), 1e-6) << at;
    }
  }
}

TEST(Rope, WithoutAThetaItIsThatOfTheFirstModels) {
  const ModelConfig config{json::object(), nullptr, "m"};
  EXPECT_EQ(read_rope(ConfigReader(config), 64, 1).theta, 10000);
}

TEST(Rope, BothSpellingsOfTheParametersMeanTheSame) {
  const auto read = [](const char* text) {
    const ModelConfig config{parse_json(text, "m"), nullptr, "m"};
    return read_rope(ConfigReader(config), 64, 1.0);
  };
  const auto a = read(R"({"rope_theta": 10000.0, "rope_scaling": {"type": "llama3", "factor": 8.0,
      "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}})");
  const auto b = read(R"({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "llama3", "factor": 8.0,
      "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}})");
  EXPECT_EQ(rope_frequencies(a), rope_frequencies(b));
  EXPECT_EQ(rope_frequencies(read(R"({"rope_theta": 10000.0, "rope_scaling": null})")),
            rope_frequencies(read(R"({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}})")));
  EXPECT_THROW(read(R"({"rope_theta": 10000.0, "rope_scaling": {"factor": 8.0}})"), Error);
  EXPECT_THROW(read(R"({"rope_theta": 10000.0, "rope_scaling": "llama3"})"), Error);
}

// What transformers 5.17 reads (RotaryEmbeddingConfigMixin): it writes such files itself, with PhiConfig's default of
// 0.5 at the top and the model's own 0.4 in the object.
TEST(Rope, TheObjectCountsBeforeTheTopAndScalingBeforeParameters) {
  const auto theta = [](const char* text) {
    const ModelConfig config{json::parse(text), nullptr, "m/config.json"};
    return read_rope(ConfigReader(config), 64, 1).theta;
  };
  EXPECT_EQ(theta(R"({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}})"), 1e4);
  EXPECT_EQ(theta(R"({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}})"), 5e5);
  EXPECT_EQ(
      theta(R"({"rope_scaling": {"rope_type": "default", "rope_theta": 7}, "rope_parameters": {"rope_theta": 8}})"), 7);
  EXPECT_EQ(theta(R"({"rope_scaling": {}, "rope_parameters": {"rope_theta": 8}})"), 8);
  EXPECT_THROW(theta(R"({"rope_theta": 5, "rope_parameters": {"full_attention": {"rope_theta": 77}}})"), Error);
  const ModelConfig phi{
      json::parse(R"({"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.4}})"), nullptr,
      "m/config.json"};
  EXPECT_EQ(ConfigReader(phi).number("partial_rotary_factor", 0, 1), 0.4);
}

TEST(Rope, AnOddOrEmptyRotationIsRefused) {
  EXPECT_THAT(phi([](json& c) { c["partial_rotary_factor"] = 0.01; }), HasSubstr("turn 0 of a head's 80 dimensions"));
  EXPECT_THAT(phi([](json& c) { c["partial_rotary_factor"] = 0.4125; }), HasSubstr("turn 33 of"));
}

}  // namespace
}  // namespace quantbench
