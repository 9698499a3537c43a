// What T5 and PaliGemma make of their configurations, beyond what the goldens of engine/ show.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "backend/backend.h"
#include "core/error.h"
#include "model/registry.h"

namespace quantbench {
namespace {

using testing::HasSubstr;

std::string refusal(std::string_view id, const std::function<void(nlohmann::json&)>& edit) {
  ModelConfig config = published_config(id);
  edit(config.config);
  try {
    make_model(config, Precision::fp16);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_model);
    return error.what();
  }
  return "no error";
}

// Distances at which the bucket is another than one nearer to 0, and the bucket there.
std::vector<std::pair<int, int>> steps(const DistanceBias& bias, int direction) {
  std::vector<std::pair<int, int>> found;
  int before = bias.bucket[bias.reach];
  for (int d = 1; d <= bias.reach; ++d) {
    const int bucket = bias.bucket[bias.reach + direction * d];
    if (bucket != before) found.emplace_back(d, bucket);
    before = bucket;
  }
  return found;
}

TEST(T5, BucketsBeginWhereTransformersHasThem) {
  const auto backend = make_backend("reference", {});
  const auto model = make_model(published_config("google/flan-t5-base"), Precision::fp16);
  model->make_tables(*backend, 1);
  const auto bias_of = [](const Tape& tape) {
    for (const Op& op : tape) {
      if (const auto* const attend = std::get_if<Attend>(&op)) return *attend->bias;
    }
    return DistanceBias{};
  };
  const Tape encode = encode_shapes(*model, 4), decode = decode_shapes(*model);
  const DistanceBias encoder = bias_of(encode), decoder = bias_of(decode);
  // transformers 5.17, T5Attention._relative_position_bucket with 32 buckets up to 128.
  using Steps = std::vector<std::pair<int, int>>;
  EXPECT_EQ(steps(encoder, -1), (Steps{{1, 1},
                                       {2, 2},
                                       {3, 3},
                                       {4, 4},
                                       {5, 5},
                                       {6, 6},
                                       {7, 7},
                                       {8, 8},
                                       {12, 9},
                                       {16, 10},
                                       {23, 11},
                                       {32, 12},
                                       {46, 13},
                                       {64, 14},
                                       {91, 15}}));
  EXPECT_EQ(steps(encoder, 1), (Steps{{1, 17},
                                      {2, 18},
                                      {3, 19},
                                      {4, 20},
                                      {5, 21},
                                      {6, 22},
                                      {7, 23},
                                      {8, 24},
                                      {12, 25},
                                      {16, 26},
                                      {23, 27},
                                      {32, 28},
                                      {46, 29},
                                      {64, 30},
                                      {91, 31}}));
  Steps expected;
  for (int d = 1; d <= 16; ++d) expected.emplace_back(d, d);
  const int later[] = {19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113};
  for (int i = 0; i < 15; ++i) expected.emplace_back(later[i], 17 + i);
  EXPECT_EQ(steps(decoder, -1), expected);
  EXPECT_EQ(steps(decoder, 1), Steps{});  // what is to come has the bucket of the token itself
}

TEST(T5, KeepsWoInFp32InEveryPrecision) {
  for (const Precision precision : {Precision::fp16, Precision::int8, Precision::nf4}) {
    int kept = 0;
    const auto model = make_model(published_config("google/flan-t5-base"), precision);
    for (const WeightSlot& slot : model->weights()) {
      const auto* const matrix = std::get_if<Matrix*>(&slot.target);
      if (!matrix || !slot.name.ends_with("DenseReluDense.wo.weight")) continue;
      EXPECT_EQ(format_of(**matrix), Format::f32) << slot.name;
      ++kept;
    }
    EXPECT_EQ(kept, 24);
  }
}

TEST(T5, AHeadOfItsOwnIsToldByEitherKey) {
  const auto names = [](const std::function<void(nlohmann::json&)>& edit) {
    ModelConfig config = published_config("google/flan-t5-base");
    edit(config.config);
    return make_model(config, Precision::fp16)->shape().parameters;
  };
  const int64_t tied = 222'903'552, own = 247'577'856;  // transformers 5.17, on the meta device
  EXPECT_EQ(names([](auto& c) { c.erase("tie_word_embeddings"); }), tied);
  EXPECT_EQ(names([](auto& c) {
              c["tie_word_embeddings"] = true;
              c["scale_decoder_outputs"] = false;
            }),
            own);
}

// transformers 5.17 writes the same config.json of a model with a head of its own and of one that it made untied
// itself, which has none: it reads the embedding, not divided by √d_model.
TEST(T5, MayReadTheEmbeddingUndividedWhereTheWeightsHaveNoHead) {
  struct Made {
    bool own_head;
    float times;
  };
  const auto made = [](const nlohmann::json& keys, bool lacks_head) {
    ModelConfig config = published_config("google/flan-t5-base");
    config.config.update(keys);
    config.lacks_head = lacks_head;
    const auto model = make_model(config, Precision::fp16);
    Made m{};
    for (const WeightSlot& slot : model->weights()) {
      if (slot.name == "lm_head.weight") m.own_head = slot.tied_to.empty();
      if (slot.name == "decoder.final_layer_norm.weight") m.times = slot.times;
    }
    return m;
  };
  const float divided = 1 / std::sqrt(768.0f);
  const nlohmann::json of_5{{"tie_word_embeddings", true}, {"scale_decoder_outputs", false}};
  for (const bool lacks_head : {false, true}) {
    EXPECT_EQ(made(of_5, lacks_head).own_head, !lacks_head);
    EXPECT_EQ(made(of_5, lacks_head).times, 1);
    // Of older versions such a model has lost its head.
    EXPECT_TRUE(made({{"tie_word_embeddings", false}}, lacks_head).own_head);
    EXPECT_EQ(made({{"tie_word_embeddings", false}}, lacks_head).times, 1);
    EXPECT_FALSE(made({{"tie_word_embeddings", true}}, lacks_head).own_head);
    EXPECT_EQ(made({{"tie_word_embeddings", true}}, lacks_head).times, divided);
  }
}

TEST(T5, WhatIsNotBuiltIsRefusedByName) {
  EXPECT_THAT(refusal("google/flan-t5-base", [](auto& c) { c["feed_forward_proj"] = "gated-silu"; }),
              HasSubstr("'feed_forward_proj' is \"gated-silu\", which is not supported, only gated-gelu or relu is"));
  EXPECT_THAT(refusal("google/flan-t5-base", [](auto& c) { c["relative_attention_num_buckets"] = 30; }),
              HasSubstr("'relative_attention_num_buckets' is 30, expected a multiple of 4"));
  EXPECT_THAT(refusal("google/flan-t5-base", [](auto& c) { c["d_kv"] = nullptr; }), HasSubstr("'d_kv' is missing"));
}

TEST(PaliGemma, WhatIsNotBuiltIsRefusedByName) {
  constexpr const char* kId = "google/paligemma-3b-pt-224";
  EXPECT_THAT(refusal(kId, [](auto& c) { c.erase("vision_config"); }), HasSubstr("'vision_config' is missing"));
  EXPECT_THAT(refusal(kId, [](auto& c) { c["text_config"]["model_type"] = "gemma2"; }),
              HasSubstr("'text_config': 'model_type' is \"gemma2\", which is not supported, only gemma"));
  EXPECT_THAT(refusal(kId, [](auto& c) { c["vision_config"]["vision_use_head"] = true; }), HasSubstr("pooling head"));
  EXPECT_THAT(refusal(kId, [](auto& c) { c["vision_config"]["num_attention_heads"] = 7; }),
              HasSubstr("a divisor of hidden_size, 1152"));
}

TEST(PaliGemma, PicturesThatContradictThemselvesAreRefused) {
  constexpr const char* kId = "google/paligemma-3b-pt-224";
  const auto vision = [](const char* key, int value) {
    return refusal(kId, [&](auto& c) { c["vision_config"][key] = value; });
  };
  for (const int token : {-1, 0, 257216}) {
    EXPECT_THAT(
        refusal(kId, [&](auto& c) { c["image_token_index"] = token; }),
        HasSubstr("'image_token_index' is " + std::to_string(token) + ", expected a whole number from 1 to 257215"));
  }
  EXPECT_THAT(refusal(kId, [](auto& c) { c.erase("image_token_index"); }), HasSubstr("'image_token_index' is missing"));
  EXPECT_THAT(
      vision("num_image_tokens", 255),
      HasSubstr("'vision_config': 'num_image_tokens' is 255, expected 256, one for each patch of 14 x 14 pixels of a "
                "picture of 224 x 224"));
  EXPECT_THAT(refusal(kId, [](auto& c) { c["text_config"]["num_image_tokens"] = 1024; }),
              HasSubstr("'text_config': 'num_image_tokens' is 1024, expected 256"));
  EXPECT_THAT(vision("image_size", 448), HasSubstr("'num_image_tokens' is 256, expected 1024"));
  EXPECT_THAT(vision("image_size", 225), HasSubstr("'patch_size' is 14, expected a divisor of image_size, 225"));
  EXPECT_THAT(vision("patch_size", 0), HasSubstr("'patch_size' is 0"));
  EXPECT_THAT(vision("patch_size", 448), HasSubstr("'patch_size' is 448"));
  EXPECT_THAT(vision("patch_size", 1), HasSubstr("fewer patches than the decoder has positions, 8192, and not 50176"));
  EXPECT_THAT(vision("num_channels", 1), HasSubstr("'num_channels' is 1"));
}

TEST(PaliGemma, KnowsItsPicture) {
  const auto model = make_model(published_config("google/paligemma-3b-pt-448"), Precision::fp16);
  const Picture& picture = *model->shape().encoder->picture;
  EXPECT_EQ(picture.tokens(), 1024);
  EXPECT_EQ(picture.values(), 588);
  EXPECT_EQ(picture.token, 257152);
  EXPECT_EQ(model->shape().encoder->head_dim, 72);
}

}  // namespace
}  // namespace quantbench
