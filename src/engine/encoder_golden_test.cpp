// Teacher-forced logits of models with an encoder against what Hugging Face's libraries computed (testdata/README.md);
// encoder_layers_test.cpp has what stands between the layers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "backend/test_backends.h"
#include "engine/test_encoder_goldens.h"

namespace quantbench {
namespace {

struct Outputs {
  std::vector<float> logits;  // [sequences, rows that the golden has, vocab]
  std::vector<int32_t> best;  // [sequences, positions] the likeliest id of each
  int vocab = 0;
};

Outputs run_model(Backend& backend, const std::string& name, Precision precision, bool steps, const ConfigEdit& edit) {
  EncoderGolden model(backend, name, precision, edit);
  const int vocab = model.shape().vocab;
  Outputs out{.vocab = vocab};
  for (int s = 0; s < EncoderGolden::kSequences; ++s) {
    const auto all = model.logits(s, steps);
    for (const int32_t row : model.rows) {
      const auto from = all.begin() + (row - static_cast<ptrdiff_t>(model.first_position())) * vocab;
      out.logits.insert(out.logits.end(), from, from + vocab);
    }
    for (auto from = all.begin(); from != all.end(); from += vocab) {
      out.best.push_back(static_cast<int32_t>(std::max_element(from, from + vocab) - from));
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
  Figures f = compare(ours.logits, hf, golden.read<float>("ref." + c.mode), ours.vocab);
  // At every position: Hugging Face's best id, -1 where it does not lead by twice its largest error.
  const auto next = golden.read<int32_t>("next." + c.mode);
  EXPECT_EQ(ours.best.size(), next.size());
  int clear = 0, same = 0;
  for (size_t i = 0; i < next.size(); ++i) {
    clear += next[i] >= 0;
    same += next[i] >= 0 && next[i] == ours.best[i];
  }
  EXPECT_GT(clear, 10) << "too few positions have a clear best to say anything of it";
  f.next = static_cast<double>(same) / clear;
  return f;
}

class EncoderGoldens : public testing::TestWithParam<Case> {};

TEST_P(EncoderGoldens, LogitsAreAsNearToTheFp32ReferenceAsHuggingFaces) {
  const Case& c = GetParam();
  const auto backend = make_test_backend(c.backend);
  const Figures f = figures_of(*backend, c);
  const Limits limits = limits_of(c.mode);
  RecordProperty("figures", fmt::format("max {:.2f}x rms {:.2f}x kl {:.1e} top1 {:.3f} of {} next {:.3f}", f.max_ratio,
                                        f.rms_ratio, f.kl, f.top1, f.compared, f.next));
  EXPECT_LE(f.max_ratio, limits.error_ratio);
  EXPECT_LE(f.rms_ratio, limits.error_ratio);
  EXPECT_LE(f.kl, limits.kl);
  EXPECT_GE(f.top1, limits.top1);
  EXPECT_GE(f.next, limits.top1);
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
