// Teacher-forced logits of models with an encoder, and what the tower makes of a picture, against what Hugging Face's
// libraries computed (testdata/README.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/test_backends.h"
#include "checkpoint/checkpoint.h"
#include "engine/session.h"
#include "engine/test_goldens.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {
namespace {

constexpr int kSequences = 2;
using ConfigEdit = std::function<void(nlohmann::json&)>;

// [sequences, n] of a golden.
struct Ids {
  std::vector<int32_t> all;
  size_t each;
  Ids(const Golden& golden, const std::string& name)
      : all(golden.read<int32_t>(name)), each(all.size() / static_cast<size_t>(kSequences)) {}
  std::span<const int32_t> of(int sequence, size_t first, size_t count) const {
    return std::span(all).subspan(static_cast<size_t>(sequence) * each + first, count);
  }
};

// One picture's patches from RGB [size, size, 3], values as SigLIP's processor makes them.
std::vector<float> patches_of(const uint8_t* rgb, const Picture& picture) {
  std::vector<float> out;
  const int across = picture.size / picture.patch;
  for (int p = 0; p < picture.tokens(); ++p) {
    for (int channel = 0; channel < 3; ++channel) {
      for (int y = 0; y < picture.patch; ++y) {
        for (int x = 0; x < picture.patch; ++x) {
          const int row = p / across * picture.patch + y, column = p % across * picture.patch + x;
          const float value = static_cast<float>(rgb[(row * picture.size + column) * 3 + channel]) / 255.0f;
          out.push_back((value - 0.5f) / 0.5f);
        }
      }
    }
  }
  return out;
}

struct Outputs {
  std::vector<float> logits;  // [sequences, rows that the golden has, vocab]
  int vocab = 0;
};

Outputs run_model(Backend& backend, const std::string& name, Precision precision, bool steps, const ConfigEdit& edit) {
  const Golden golden(name);
  const auto checkpoint = Checkpoint::open(kGoldenModels + name);
  ModelConfig config = config_of(*checkpoint);
  if (edit) edit(config.config);
  const auto model = make_model(config, precision, checkpoint->prequantized());
  const Shape& shape = model->shape();
  const bool has_picture = shape.has_picture();
  const Ids ids(golden, has_picture ? "ids" : "decoder_ids");
  const Ids encoder_ids(golden, has_picture ? "ids" : "encoder_ids");
  const std::vector<int32_t> rows = golden.read<int32_t>("rows");
  const std::vector<uint8_t> pictures = has_picture ? golden.read<uint8_t>("pictures") : std::vector<uint8_t>{};
  const size_t prompt = has_picture ? static_cast<size_t>(rows.front()) + 1 : encoder_ids.each;
  const size_t forced = has_picture ? ids.each - prompt : ids.each, first = has_picture ? prompt : 0;

  StateShape run = session_shape(shape, 1, 0, static_cast<int>(prompt), static_cast<int>(forced));
  run.rows = std::max(run.rows, static_cast<int>(forced));
  run.logit_rows = 16;
  const Plan plan = backend.plan(decode_shapes(*model), run.rows, encode_shapes(*model, run.encoder_rows));
  load(*model, *checkpoint, backend, plan);
  Session session(backend, *model, run);

  Outputs out{.vocab = shape.vocab};
  for (int s = 0; s < kSequences; ++s) {
    std::vector<float> patches;
    if (has_picture) {
      const Picture& picture = *shape.encoder->picture;
      patches = patches_of(pictures.data() + static_cast<size_t>(s * picture.size * picture.size * 3), picture);
    }
    const auto all = session.logits({encoder_ids.of(s, 0, prompt), patches}, ids.of(s, first, forced), steps);
    for (const int32_t row : rows) {
      const auto at = (static_cast<size_t>(row) - (has_picture ? prompt - 1 : 0)) * static_cast<size_t>(shape.vocab);
      out.logits.insert(out.logits.end(), all.begin() + static_cast<ptrdiff_t>(at),
                        all.begin() + static_cast<ptrdiff_t>(at) + shape.vocab);
    }
  }
  return out;
}

struct Case {
  std::string backend, model, mode;
  bool steps;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.backend << " " << c.model << " " << c.mode << (c.steps ? " step by step" : " in full");
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const std::string& backend : test_backend_names()) {
    for (const bool steps : {false, true}) {
      for (const std::string model : {"t5", "t5-relu-tied", "paligemma"}) {
        // 136 steps of each of two sequences take the emulator a minute.
        if (backend == kEmulatedCuda && model == "t5" && steps) continue;
        for (const char* mode : {"fp16", "int8", "nf4"}) cases.push_back({backend, model, mode, steps});
      }
    }
  }
  return cases;
}

Figures figures_of(Backend& backend, const Case& c, const ConfigEdit& edit = {}) {
  const Golden golden(c.model);
  // In fp16 and nf4 a row's numbers do not depend on the rows beside it.
  const auto hf = golden.read_f16("hf." + c.mode + (c.steps && c.mode == "int8" ? ".steps" : ".full"));
  const Outputs ours = run_model(backend, c.model, precision_of(c.mode), c.steps, edit);
  EXPECT_EQ(ours.logits.size(), hf.size());
  return compare(ours.logits, hf, golden.read<float>("ref." + c.mode), ours.vocab);
}

class EncoderGoldens : public testing::TestWithParam<Case> {};

TEST_P(EncoderGoldens, LogitsAreAsNearToTheFp32ReferenceAsHuggingFaces) {
  const Case& c = GetParam();
  const auto backend = make_test_backend(c.backend);
  const Figures f = figures_of(*backend, c);
  const Limits limits = limits_of(c.mode);
  RecordProperty("figures", fmt::format("max {:.2f}x rms {:.2f}x kl {:.1e} top1 {:.3f} of {}", f.max_ratio, f.rms_ratio,
                                        f.kl, f.top1, f.compared));
  EXPECT_LE(f.max_ratio, limits.error_ratio);
  EXPECT_LE(f.rms_ratio, limits.error_ratio);
  EXPECT_LE(f.kl, limits.kl);
  EXPECT_GE(f.top1, limits.top1);
  EXPECT_GT(f.compared, 5) << "too few positions have a clear best to say anything of top-1";
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  std::string name = testing::PrintToString(info.param);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == ' ' || c == '-'; }, '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, EncoderGoldens, testing::ValuesIn(all_cases()), name_of);

// --- the goldens can fail ------------------------------------------------------------------------------------------

class NoBiasByDistance final : public MistakenBackend {
  void attend(const Attend& op) override {
    Attend without = op;
    without.bias = nullptr;
    right().attend(without);
  }
};
// A prompt sees only what is before each of its tokens.
class CausalPrompt final : public MistakenBackend {
  void attend(const Attend& op) override {
    Attend causal = op;
    causal.lengths = nullptr;
    right().attend(causal);
  }
};
// T5's second matrix of an MLP as fp16 holds it.
class HalfWo final : public MistakenBackend {
  void add_linear(const AddLinear& op) override {
    const auto* const m = std::get_if<F32Matrix>(&op.w->weight);
    if (!m) return right().add_linear(op);
    std::vector<float> rounded(m->w, m->w + static_cast<size_t>(m->n) * static_cast<size_t>(m->k));
    for (float& w : rounded) w = to_float(to_f16(w));
    const Linear linear{F32Matrix{m->n, m->k, rounded.data()}, op.w->bias, op.w->biased};
    right().add_linear({op.x, op.a, &linear});
  }
};
class TextAsItIs final : public MistakenBackend {  // embeddings are not scaled
  void embed(const Embed& op) override {
    Embed plain = op;
    plain.scale = 1;
    right().embed(plain);
  }
};
struct Mistake {
  const char* name;
  Case on;
  std::function<std::unique_ptr<Backend>()> backend;
  ConfigEdit edit;
};
void PrintTo(const Mistake& m, std::ostream* out) { *out << m.name; }

template <typename T>
std::function<std::unique_ptr<Backend>()> a() {
  return [] { return std::make_unique<T>(); };
}
std::unique_ptr<Backend> right() { return make_backend("reference", {}); }
Case on(const char* model, const char* mode, bool steps = false) { return {"reference", model, mode, steps}; }

std::vector<Mistake> all_mistakes() {
  return {
      {"no bias by distance", on("t5", "fp16"), a<NoBiasByDistance>(), {}},
      {"no bias by distance, tied", on("t5-relu-tied", "fp16", true), a<NoBiasByDistance>(), {}},
      {"twice the largest distance", on("t5", "fp16"), right,
       [](auto& c) { c["relative_attention_max_distance"] = 256; }},
      {"half of the buckets", on("t5", "nf4"), right, [](auto& c) { c["relative_attention_max_distance"] = 64; }},
      {"another epsilon", on("t5", "fp16"), right, [](auto& c) { c["layer_norm_epsilon"] = 1e-4; }},
      {"an encoder that sees only what is before", on("t5", "fp16"), a<CausalPrompt>(), {}},
      {"wo in fp16", on("t5", "fp16"), a<HalfWo>(), {}},
      {"no rule for more than one row", on("t5", "int8"), a<NoRuleForMoreThanOneRow>(), {}},
      {"a prompt that sees only what is before", on("paligemma", "fp16"), a<CausalPrompt>(), {}},
      {"text embeddings not scaled", on("paligemma", "nf4"), a<TextAsItIs>(), {}},
      {"no rule for more than one row, pictures", on("paligemma", "int8"), a<NoRuleForMoreThanOneRow>(), {}},
  };
}

class EncoderMistakes : public testing::TestWithParam<Mistake> {};

TEST_P(EncoderMistakes, BreakALimit) {
  const Mistake& m = GetParam();
  const auto backend = m.backend();
  const Figures f = figures_of(*backend, m.on, m.edit);
  EXPECT_FALSE(meets(f, limits_of(m.on.mode)))
      << "max " << f.max_ratio << " rms " << f.rms_ratio << " kl " << f.kl << " top1 " << f.top1;
}
INSTANTIATE_TEST_SUITE_P(All, EncoderMistakes, testing::ValuesIn(all_mistakes()));

}  // namespace
}  // namespace quantbench
