#include "bench/open_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "backend/test_backends.h"
#include "checkpoint/safetensors.h"
#include "core/json.h"
#include "core/os.h"
#include "engine/relative_error.h"
#include "engine/session.h"
#include "model/loader.h"
#include "model/registry.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

const std::string kModels = std::string(QB_SOURCE_DIR) + "/testdata/models/";

// llama-gqa as transformers would save it in `precision` if it were told to leave the linears of `skipped` alone, which
// config.json names as `skip_modules`.
void write_partly_quantised(const TestFolder& folder, const std::string& precision,
                            const std::vector<std::string>& skipped, const json& skip_modules) {
  const auto whole = Checkpoint::open(kModels + "llama-gqa"),
             quantised = Checkpoint::open(kModels + "llama-gqa-" + precision);
  const auto is_kept = [&](const std::string& name) {
    return std::any_of(skipped.begin(), skipped.end(),
                       [&](const std::string& module) { return name.find(module) != name.npos; });
  };
  std::vector<std::pair<std::string, TensorInfo>> tensors;
  for (const auto& [from, kept] : {std::pair{quantised.get(), false}, {whole.get(), true}}) {
    for (const std::string& name : from->names()) {
      if (is_kept(name) == kept) tensors.emplace_back(name, *from->find(name));
    }
  }
  SafetensorsWriter file(folder / "model.safetensors", tensors);
  for (const auto& [name, info] : tensors) {
    std::vector<std::byte> bytes(static_cast<size_t>(byte_count(info)));
    (is_kept(name) ? *whole : *quantised).read_bytes(name, 0, bytes);
    file.write(bytes);
  }
  file.commit();
  json config = quantised->config();
  config["quantization_config"]["llm_int8_skip_modules"] = skip_modules;
  folder.write("config.json", config.dump());
}

ModelSource source_of(const TestFolder& folder) {
  ModelSource source;
  source.name = source.folder = folder.path();
  return source;
}

std::string refusal(const TestFolder& folder, Precision precision) {
  try {
    open_model(source_of(folder), precision);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_model);
    return error.what();
  }
  return "accepted";
}

class PartlyQuantised : public testing::TestWithParam<Precision> {
 protected:
  static std::string suffix() { return GetParam() == Precision::int8 ? "int8" : "nf4"; }
};

TEST_P(PartlyQuantised, SkippedModulesStayAsTheyAreOnEveryBackend) {
  const TestFolder folder;
  write_partly_quantised(folder, suffix(), {"layers.1.", "k_proj", "layers.2.mlp.down_proj"},
                         {R"(model\.layers\.[1]\..*)", "k_proj", "model.layers.*2.mlp.down", "(", "lm_head"});
  const std::vector<int32_t> ids = {3, 141, 59, 26, 53, 58, 97, 93, 23, 84};
  std::vector<float> expected;
  std::vector<std::string> names = test_backend_names();
  std::stable_partition(names.begin(), names.end(), [](const std::string& name) { return name == "reference"; });
  for (const std::string& name : names) {
    const auto backend = make_test_backend(name);
    OpenedModel opened = open_model(source_of(folder), GetParam());
    const std::vector<std::string> kept = skipped_modules(*opened.model, GetParam());
    EXPECT_EQ(kept.size(), 7u + 3 + 1 + 1) << "a layer, three more k_proj, one down_proj and the head";
    EXPECT_THAT(kept, AllOf(Contains("model.layers.0.self_attn.k_proj"), Contains("model.layers.1.mlp.gate_proj"),
                            Not(Contains("model.layers.0.self_attn.q_proj"))));
    const Plan plan = backend->plan(decode_shapes(*opened.model), static_cast<int>(ids.size()));
    load(*opened.model, *opened.weights, *backend, plan);
    Session session(*backend, *opened.model, session_shape(1, 0, static_cast<int>(ids.size()), 1));
    for (const bool steps : {false, true}) {
      const std::vector<float> logits = session.logits(ids, steps);
      if (expected.empty()) expected = logits;
      // Of int8 a code may fall the other way, and which columns are outliers depends on the rows of a call.
      EXPECT_LE(relative_error(logits, expected), GetParam() == Precision::int8 ? 0.05 : 5e-3) << name << " " << steps;
    }
  }
}

TEST_P(PartlyQuantised, WhatIsNotNamedMustBeQuantisedAndAPairMustBeAlike) {
  const TestFolder unnamed, halved;
  write_partly_quantised(unnamed, suffix(), {"layers.1."}, {"lm_head", "model.layers.2"});
  EXPECT_THAT(refusal(unnamed, GetParam()), AllOf(HasSubstr("'model.layers.1."), HasSubstr("not quantised")));
  write_partly_quantised(halved, suffix(), {"layers.1.mlp.up_proj"}, {"up_proj"});
  EXPECT_THAT(refusal(halved, GetParam()), HasSubstr("of a gate_proj and its up_proj one is quantised"));
}

TEST(OpenModel, AT5WithoutItsHeadIsRefusedUnlessItsConfigMayMeanIt) {
  const TestFolder folder;
  const auto whole = Checkpoint::open(kModels + "t5");
  std::vector<std::pair<std::string, TensorInfo>> tensors;
  for (const std::string& name : whole->names()) {
    if (name != "lm_head.weight") tensors.emplace_back(name, *whole->find(name));
  }
  SafetensorsWriter file(folder / "model.safetensors", tensors);
  for (const auto& [name, info] : tensors) {
    std::vector<std::byte> bytes(static_cast<size_t>(byte_count(info)));
    whole->read_bytes(name, 0, bytes);
    file.write(bytes);
  }
  file.commit();
  json config = whole->config();
  folder.write("config.json", config.dump());
  EXPECT_THAT(refusal(folder, Precision::fp16), HasSubstr("1 tensor is missing: 'lm_head.weight'"));
  config["tie_word_embeddings"] = true;
  config["scale_decoder_outputs"] = false;
  folder.write("config.json", config.dump());
  EXPECT_EQ(refusal(folder, Precision::fp16), "accepted");
}

TEST(OpenModel, WeightsOfAnotherModelAreSeenBeforeAnythingIsLoaded) {
  const TestFolder folder;
  std::filesystem::copy(kModels + "llama-gqa/model.safetensors", folder / "model.safetensors");
  json config = parse_json(os::read_file(kModels + "llama-gqa/config.json", 1 << 20), "config.json");
  config["num_hidden_layers"] = 5;
  folder.write("config.json", config.dump());
  EXPECT_THAT(refusal(folder, Precision::fp16), HasSubstr("model.layers.4."));
}

INSTANTIATE_TEST_SUITE_P(Precisions, PartlyQuantised, testing::Values(Precision::int8, Precision::nf4),
                         [](const auto& test) { return std::string(test.param == Precision::int8 ? "int8" : "nf4"); });

}  // namespace
}  // namespace quantbench
