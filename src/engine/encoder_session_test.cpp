// Sessions of models with an encoder: what generate() makes is what teacher-forced logits say, alone and side by side.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "backend/backend.h"
#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "engine/session.h"
#include "engine/test_goldens.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {
namespace {

using testing::HasSubstr;

constexpr int kNew = 9;

struct Loaded {
  std::unique_ptr<Backend> backend = make_backend("cpu", {.threads = 2});
  std::unique_ptr<Model> model;

  Loaded(const std::string& name, int sequences, int prompt) {
    const auto checkpoint = Checkpoint::open(kGoldenModels + name);
    model = make_model(config_of(*checkpoint), Precision::fp16);
    const StateShape run = shape_of(sequences, prompt);
    const Plan plan =
        backend->plan(decode_shapes(*model, sequences), run.rows, encode_shapes(*model, run.encoder_rows));
    load(*model, *checkpoint, *backend, plan);
  }
  StateShape shape_of(int sequences, int prompt) const {
    return session_shape(model->shape(), sequences, 0, prompt, kNew);
  }
  Session session(int sequences, int prompt) { return Session(*backend, *model, shape_of(sequences, prompt)); }
};

std::vector<float> some_patches(const Picture& picture, int seed) {
  std::vector<float> values(static_cast<size_t>(picture.tokens() * picture.values()));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>((static_cast<int>(i) * 37 + seed * 101) % 200) / 100.0f - 1;
  }
  return values;
}

std::vector<int32_t> some_text(int count, int seed, int below) {
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back(2 + (i * 31 + seed * 17) % (below - 2));
  return ids;
}

// What the teacher-forced logits of a prompt and its own tokens say.
std::vector<int32_t> best_of(const std::vector<float>& logits, int vocab) {
  std::vector<int32_t> best;
  for (size_t at = 0; at < logits.size(); at += static_cast<size_t>(vocab)) {
    const auto first = logits.begin() + static_cast<std::ptrdiff_t>(at);
    best.push_back(static_cast<int32_t>(std::max_element(first, first + vocab) - first));
  }
  return best;
}

TEST(EncoderSession, T5GeneratesWhatItsLogitsSay) {
  constexpr int kPrompt = 13;
  Loaded loaded("t5", 1, kPrompt);
  Session session = loaded.session(1, kPrompt);
  const std::vector<int32_t> prompt = some_text(kPrompt, 1, 190);
  const auto run = session.generate(prompt, {.max_new_tokens = kNew});
  ASSERT_EQ(run.new_tokens(), kNew);  // the start token is none of them
  EXPECT_EQ(run.prompt_tokens, kPrompt);
  std::vector<int32_t> forced{loaded.model->shape().decoder_start};
  forced.insert(forced.end(), run.tokens.begin(), run.tokens.end() - 1);
  EXPECT_EQ(best_of(session.logits(prompt, forced, true), loaded.model->shape().vocab), run.tokens);
  ASSERT_GE(run.spans.size(), 3u);
  EXPECT_EQ(run.spans[0].phase, Phase::encode);
  EXPECT_EQ(run.spans[1].phase, Phase::prefill);
  EXPECT_EQ(run.spans[2].phase, Phase::decode);
  EXPECT_EQ(run.spans[1].start_ns, run.spans[0].end_ns);
}

TEST(EncoderSession, PaliGemmaGeneratesWhatItsLogitsSay) {
  Loaded loaded("paligemma", 1, 23);
  const Shape& shape = loaded.model->shape();
  const Picture& picture = *shape.encoder->picture;
  std::vector<int32_t> prompt(static_cast<size_t>(picture.tokens()), picture.token);
  const std::vector<int32_t> text = some_text(7, 3, picture.token);
  prompt.insert(prompt.end(), text.begin(), text.end());
  Session session = loaded.session(1, static_cast<int>(prompt.size()));
  const std::vector<float> patches = some_patches(picture, 1), others = some_patches(picture, 2);
  const auto run = session.generate({prompt, patches}, {.max_new_tokens = kNew});
  const auto forced = std::span(run.tokens).first(kNew - 1);
  EXPECT_EQ(best_of(session.logits({prompt, patches}, forced, true), shape.vocab), run.tokens);
  EXPECT_EQ(run.spans[0].phase, Phase::vision);
  EXPECT_EQ(run.spans[1].phase, Phase::prefill);
  EXPECT_NE(session.logits({prompt, patches}, {}, true), session.logits({prompt, others}, {}, true));
}

// Of two sequences each is what it would be alone, whether their prompts are one call or two.
TEST(EncoderSession, SequencesSideBySideAreWhatTheyAreAlone) {
  for (const char* name : {"t5", "t5-relu-tied", "paligemma"}) {
    Loaded loaded(name, 2, 21);
    const Shape& shape = loaded.model->shape();
    std::vector<int32_t> prompts, alone;
    std::vector<float> patches;
    size_t each = 0;
    for (int s = 0; s < 2; ++s) {
      std::vector<int32_t> prompt;
      std::vector<float> own;
      if (shape.has_picture()) {
        const Picture& picture = *shape.encoder->picture;
        prompt.assign(static_cast<size_t>(picture.tokens()), picture.token);
        own = some_patches(picture, s);
      }
      const std::vector<int32_t> text = some_text(5, s, 90);
      prompt.insert(prompt.end(), text.begin(), text.end());
      each = prompt.size();
      Session one = loaded.session(1, static_cast<int>(each));
      const auto run = one.generate({prompt, own}, {.max_new_tokens = kNew});
      alone.insert(alone.end(), run.tokens.begin(), run.tokens.end());
      prompts.insert(prompts.end(), prompt.begin(), prompt.end());
      patches.insert(patches.end(), own.begin(), own.end());
    }
    for (const bool together : {true, false}) {
      StateShape run = loaded.shape_of(2, static_cast<int>(each));
      if (!together) {
        run.encoder_rows /= 2;
        if (shape.has_picture()) run.rows /= 2;
      }
      Session session(*loaded.backend, *loaded.model, run);
      EXPECT_EQ(session.generate({prompts, patches}, {.max_new_tokens = kNew}).tokens, alone) << name << together;
    }
  }
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "no error";
}

TEST(EncoderSession, WrongPicturesAndTokensOfPicturesAreRefused) {
  Loaded loaded("paligemma", 1, 20);
  const Picture& picture = *loaded.model->shape().encoder->picture;
  Session session = loaded.session(1, 20);
  const std::vector<float> patches = some_patches(picture, 0);
  std::vector<int32_t> prompt(16, picture.token);
  prompt.insert(prompt.end(), {2, 5, 6, 7});
  const auto refused = [&](const std::vector<int32_t>& ids, std::span<const float> values) {
    return refusal([&] { session.generate({ids, values}, {.max_new_tokens = 1}); });
  };
  EXPECT_EQ(refused(prompt, patches), "no error");
  EXPECT_THAT(refused({2, 5, 6}, patches), HasSubstr("the prompt has 0 tokens of a picture (id 160)"));
  std::vector<int32_t> other = prompt;
  other[18] = picture.token;
  EXPECT_THAT(refused(other, patches), HasSubstr("has 17 tokens of a picture (id 160), 16 of them before its text"));
  EXPECT_THAT(refused(std::vector<int32_t>(16, picture.token), patches), HasSubstr("a text of at least one token"));
  EXPECT_THAT(refused(prompt, std::span(patches).first(588)), HasSubstr("pictures have 588 values, expected 9408"));
  EXPECT_THAT(refused(prompt, {}), HasSubstr("pictures have 0 values"));
}

TEST(EncoderSession, ATextTooLongForTheEncoderIsRefused) {
  Loaded loaded("t5", 1, 4);
  EXPECT_THAT(
      refusal([&] { loaded.session(1, 513); }),
      HasSubstr("the prompt has 513 tokens, the encoder of this T5ForConditionalGeneration model was made for at "
                "most 512"));
  Session session = loaded.session(1, 4);
  EXPECT_THAT(refusal([&] { session.generate(std::vector<int32_t>(5, 3), {.max_new_tokens = 1}); }),
              HasSubstr("the prompt has 5 tokens, expected 1 to 4"));
  EXPECT_THAT(refusal([&] { session.fill_context(std::vector<int32_t>(5, 3)); }),
              HasSubstr("a context before the prompt"));
}

}  // namespace
}  // namespace quantbench
