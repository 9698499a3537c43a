// Teacher-forced logits of every backend, model and precision against what Hugging Face's libraries computed
// (testdata/README.md). Errors are compared, not outputs: both sides are measured against the same mode run in fp32.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/test_backends.h"
#include "checkpoint/checkpoint.h"
#include "engine/session.h"
#include "engine/test_goldens.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {
namespace {

constexpr int kSequences = 2, kTokens = 56, kVocab = 256;

// Changes config.json before the model is made.
using ConfigEdit = std::function<void(nlohmann::json&)>;

// rows: the positions of a sequence whose logits the golden has.
std::vector<float> run_model(Backend& backend, const std::string& folder, Precision precision,
                             const std::vector<int32_t>& ids, const std::vector<int32_t>& rows, bool step_by_step,
                             const ConfigEdit& edit) {
  const auto checkpoint = Checkpoint::open(kGoldenModels + folder);
  ModelConfig config = config_of(*checkpoint);
  if (edit) edit(config.config);
  const auto model = make_model(config, precision, checkpoint->prequantized());
  const Plan plan = backend.plan(decode_shapes(*model), kTokens);
  load(*model, *checkpoint, backend, plan);
  Session session(backend, *model, {.rows = kTokens, .logit_rows = 16, .sequences = 1, .positions = kTokens});
  std::vector<float> all;
  for (int s = 0; s < kSequences; ++s) {
    const std::span<const int32_t> one(ids.data() + static_cast<size_t>(s) * kTokens, kTokens);
    const auto logits = session.logits(one, step_by_step);
    for (const int32_t row : rows) {
      const auto at = logits.begin() + static_cast<ptrdiff_t>(row) * kVocab;
      all.insert(all.end(), at, at + kVocab);
    }
  }
  return all;
}

struct Case {
  std::string backend, folder, golden, mode;
  bool step_by_step;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.backend << " " << c.folder << " " << c.mode << (c.step_by_step ? " step by step" : " in full");
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const std::string& backend : test_backend_names()) {
    for (const bool steps : {false, true}) {
      for (const char* model : {"llama-gqa", "llama-untied", "phi", "qwen2"}) {
        for (const char* mode : {"fp16", "int8", "nf4"}) cases.push_back({backend, model, model, mode, steps});
      }
      if (backend == kEmulatedCuda) continue;  // slow, and how weights were saved is nothing that a kernel sees
      for (const char* mode : {"int8", "nf4", "nf4-plain"}) {
        cases.push_back({backend, std::string("llama-gqa-") + mode, "llama-gqa", mode, steps});
      }
    }
  }
  return cases;
}

Figures figures_of(Backend& backend, const Case& c, const ConfigEdit& edit = {}) {
  const Golden golden(c.golden);
  const auto ids = golden.read<int32_t>("ids");
  std::vector<int32_t> rows(kTokens);
  std::iota(rows.begin(), rows.end(), 0);
  if (golden.has("rows")) rows = golden.read<int32_t>("rows");
  const auto reference = golden.read<float>("ref." + c.mode);
  // Where only some rows are kept, those of single steps are kept in int8 alone: else a row's numbers do not depend on
  // the rows beside it.
  const std::string steps = "hf." + c.mode + ".steps";
  const auto hf = golden.read_f16(c.step_by_step && golden.has(steps) ? steps : "hf." + c.mode + ".full");
  const auto ours = run_model(backend, c.folder, precision_of(c.mode), ids, rows, c.step_by_step, edit);
  EXPECT_EQ(ours.size(), hf.size());
  return compare(ours, hf, reference, kVocab);
}

class Goldens : public testing::TestWithParam<Case> {};

TEST_P(Goldens, LogitsAreAsNearToTheFp32ReferenceAsHuggingFaces) {
  const Case& c = GetParam();
  const auto backend = make_test_backend(c.backend);
  const Figures f = figures_of(*backend, c);
  const Limits limits = limits_of(c.mode);
  // --gtest_output=xml:FILE shows how far within the limits.
  RecordProperty("figures", fmt::format("max {:.2f}x rms {:.2f}x kl {:.1e} top1 {:.3f} of {}", f.max_ratio, f.rms_ratio,
                                        f.kl, f.top1, f.compared));
  EXPECT_LE(f.max_ratio, limits.error_ratio);
  EXPECT_LE(f.rms_ratio, limits.error_ratio);
  EXPECT_LE(f.kl, limits.kl);
  EXPECT_GE(f.top1, limits.top1);
  EXPECT_GT(f.compared, f.positions / 4) << "too few positions have a clear best to say anything of top-1";
}

// "cpu_llama_gqa_fp16_in_full": cases can be chosen by name.
std::string name_of(const testing::TestParamInfo<Case>& info) {
  std::string name = testing::PrintToString(info.param);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == ' ' || c == '-'; }, '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, Goldens, testing::ValuesIn(all_cases()), name_of);

// On a machine without a GPU this says so once, for all cases above.
TEST(CudaBackend, RunsHere) {
  const auto names = backend_names();
  if (std::find(names.begin(), names.end(), "cuda") == names.end()) GTEST_SKIP() << "this build has no CUDA backend";
  const std::string why = why_not("cuda");
  if (!why.empty()) GTEST_SKIP() << why;
}

// --- the goldens can fail: each of these mistakes breaks at least one limit --------------------------------------

Linear without_bias(const Linear& l) { return {l.weight, nullptr, false}; }

class NoBiasInProducts final : public MistakenBackend {
  void add_linear(const AddLinear& op) override {
    const Linear w = without_bias(*op.w);
    right().add_linear({op.x, op.a, &w});
  }
};
class NoBiasInQueries final : public MistakenBackend {
  void qkv(const Qkv& op) override {
    const Linear q = without_bias(*op.wq);
    right().qkv({op.q, op.kv, op.x, op.norm, &q, op.wk, op.wv, op.rope, op.rows});
  }
};
class NoBiasInKeys final : public MistakenBackend {
  void qkv(const Qkv& op) override {
    const Linear k = without_bias(*op.wk);
    right().qkv({op.q, op.kv, op.x, op.norm, op.wq, &k, op.wv, op.rope, op.rows});
  }
};
class NoBiasInValues final : public MistakenBackend {
  void qkv(const Qkv& op) override {
    const Linear v = without_bias(*op.wv);
    right().qkv({op.q, op.kv, op.x, op.norm, op.wq, op.wk, &v, op.rope, op.rows});
  }
};
class NoBiasInNorms final : public MistakenBackend {
  void project(const Project& op) override {
    const Norm norm{op.norm->weight, nullptr, op.norm->eps, op.norm->centered};
    right().project({op.y, op.x, &norm, op.w, op.act});
  }
};
class NoNormWeight final : public MistakenBackend {
  void gated_up(const GatedUp& op) override {
    const std::vector<float> ones(static_cast<size_t>(op.x.cols), 1.0f);
    const Norm norm{ones.data(), nullptr, op.norm->eps, op.norm->centered};
    right().gated_up({op.h, op.x, &norm, op.gate, op.up, op.act});
  }
};
class WrongHeadOfTheGroup final : public MistakenBackend {  // head h reads h mod groups instead of h / group
  void attend(const Attend& op) override {
    const int d = op.kv.head_dim, heads = op.q.cols / d, group = heads / op.kv.heads;
    std::vector<float> q(op.q.f32(), op.q.f32() + static_cast<size_t>(op.q.rows) * op.q.cols), a(q.size());
    const auto move = [&](const float* from, float* to, bool back) {
      for (int r = 0; r < op.q.rows; ++r) {
        for (int h = 0; h < heads; ++h) {
          const int other = h % op.kv.heads * group + h / op.kv.heads;
          const size_t row = static_cast<size_t>(r) * op.q.cols;
          const size_t source = row + static_cast<size_t>(back ? other : h) * d,
                       target = row + static_cast<size_t>(back ? h : other) * d;
          std::copy_n(from + source, d, to + target);
        }
      }
    };
    move(op.q.f32(), q.data(), false);
    right().attend({{a.data(), DType::f32, op.a.rows, op.a.cols},
                    {q.data(), DType::f32, op.q.rows, op.q.cols},
                    op.kv,
                    op.scale,
                    op.rows});
    move(a.data(), op.a.f32(), true);
  }
};

// x / 64 is below the threshold everywhere, so its product has no outlier path; 64 is exact in fp16. For Llama (no
// biases) on the reference backend, whose cache is [sequence][position][head][head_dim].
class NoOutlierPath final : public MistakenBackend {
  static constexpr float kScale = 64;
  using Floats = std::vector<float>;
  static Tensor view(Floats& values, int rows) {
    return {values.data(), DType::f32, rows, static_cast<int>(values.size()) / rows};
  }
  static Floats scaled(const float* from, size_t count, float factor) {
    Floats out(from, from + count);
    for (float& value : out) value *= factor;
    return out;
  }
  static size_t count_of(Tensor t) { return static_cast<size_t>(t.rows) * static_cast<size_t>(t.cols); }

  void qkv(const Qkv& op) override {
    const Floats weight = scaled(op.norm->weight, static_cast<size_t>(op.x.cols), 1 / kScale);
    const Norm norm{weight.data(), nullptr, op.norm->eps, false};
    right().qkv({op.q, op.kv, op.x, &norm, op.wq, op.wk, op.wv, op.rope, op.rows});
    const Floats q = scaled(op.q.f32(), count_of(op.q), kScale);
    std::copy(q.begin(), q.end(), op.q.f32());
    const size_t width = static_cast<size_t>(op.kv.heads) * op.kv.head_dim;
    for (int r = 0; r < op.rows.count; ++r) {
      const size_t at = (static_cast<size_t>(op.rows.sequence[r]) * op.kv.positions + op.rows.position[r]) * width;
      for (f16* cache : {op.kv.k + at, op.kv.v + at}) {
        for (size_t i = 0; i < width; ++i) cache[i] = to_f16(to_float(cache[i]) * kScale);
      }
    }
  }
  void gated_up(const GatedUp& op) override {
    const Floats weight = scaled(op.norm->weight, static_cast<size_t>(op.x.cols), 1 / kScale);
    const Norm norm{weight.data(), nullptr, op.norm->eps, false};
    Floats gate(count_of(op.h)), up(count_of(op.h));
    right().project({view(gate, op.h.rows), op.x, &norm, op.gate});
    right().project({view(up, op.h.rows), op.x, &norm, op.up});
    for (size_t i = 0; i < gate.size(); ++i) {
      const float g = gate[i] * kScale;
      op.h.f32()[i] = g / (1 + std::exp(-g)) * up[i] * kScale;
    }
  }
  void add_linear(const AddLinear& op) override {
    Floats a = scaled(op.a.f32(), count_of(op.a), 1 / kScale), y(count_of(op.x));
    right().add_linear({view(y, op.x.rows), view(a, op.a.rows), op.w});
    for (size_t i = 0; i < y.size(); ++i) op.x.f32()[i] += y[i] * kScale;
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
Case on(const char* model, const char* mode, bool steps = false) { return {"reference", model, model, mode, steps}; }

std::vector<Mistake> all_mistakes() {
  return {
      {"no bias in the products that add", on("phi", "fp16"), a<NoBiasInProducts>(), {}},
      {"no bias in the products that add, int8", on("phi", "int8", true), a<NoBiasInProducts>(), {}},
      {"no bias in the products that add, nf4", on("phi", "nf4"), a<NoBiasInProducts>(), {}},
      {"no bias in the keys", on("phi", "fp16"), a<NoBiasInKeys>(), {}},
      {"no bias in the LayerNorms", on("phi", "fp16"), a<NoBiasInNorms>(), {}},
      {"norm weights of 1", on("llama-gqa", "fp16"), a<NoNormWeight>(), {}},
      {"a query head reads another group's keys", on("llama-gqa", "fp16", true), a<WrongHeadOfTheGroup>(), {}},
      {"no rule for more than one row", on("llama-gqa", "int8"), a<NoRuleForMoreThanOneRow>(), {}},
      {"no rule for more than one row, Phi", on("phi", "int8"), a<NoRuleForMoreThanOneRow>(), {}},
      {"no outlier path", on("llama-gqa", "int8"), a<NoOutlierPath>(), {}},
      {"no outlier path, one row", on("llama-gqa", "int8", true), a<NoOutlierPath>(), {}},
      {"no rope scaling", on("llama-gqa", "fp16"), right, [](auto& c) { c["rope_scaling"] = nullptr; }},
      {"rope scaling without the blend", on("llama-gqa", "fp16"), right,
       [](auto& c) { c["rope_scaling"]["high_freq_factor"] = 1.0001; }},
      {"another theta", on("llama-untied", "fp16"), right,
       [](auto& c) { c["rope_parameters"]["rope_theta"] = 10000.0; }},
      {"rotary on half of the head", on("phi", "fp16"), right, [](auto& c) { c["partial_rotary_factor"] = 0.5; }},
      {"another epsilon", on("llama-gqa", "fp16"), right, [](auto& c) { c["rms_norm_eps"] = 1e-2; }},
      {"no bias in the queries, Qwen2", on("qwen2", "fp16"), a<NoBiasInQueries>(), {}},
      {"no bias in the queries, Qwen2, int8", on("qwen2", "int8"), a<NoBiasInQueries>(), {}},
      {"no bias in the keys, Qwen2", on("qwen2", "fp16", true), a<NoBiasInKeys>(), {}},
      {"no bias in the keys, Qwen2, int8", on("qwen2", "int8", true), a<NoBiasInKeys>(), {}},
      {"no bias in the keys, Qwen2, nf4", on("qwen2", "nf4"), a<NoBiasInKeys>(), {}},
      {"no bias in the values, Qwen2", on("qwen2", "nf4"), a<NoBiasInValues>(), {}},
      {"norm weights of 1, Qwen2", on("qwen2", "fp16"), a<NoNormWeight>(), {}},
      {"a query head reads another group's keys, Qwen2", on("qwen2", "fp16"), a<WrongHeadOfTheGroup>(), {}},
      {"no rule for more than one row, Qwen2", on("qwen2", "int8"), a<NoRuleForMoreThanOneRow>(), {}},
      {"another theta, Qwen2", on("qwen2", "fp16"), right, [](auto& c) { c["rope_theta"] = 10000.0; }},
  };
}

class Mistakes : public testing::TestWithParam<Mistake> {};

TEST_P(Mistakes, BreakALimit) {
  const Mistake& m = GetParam();
  const auto backend = m.backend();
  const Figures f = figures_of(*backend, m.on, m.edit);
  EXPECT_FALSE(meets(f, limits_of(m.on.mode)))
      << "max " << f.max_ratio << " rms " << f.rms_ratio << " kl " << f.kl << " top1 " << f.top1;
}

INSTANTIATE_TEST_SUITE_P(All, Mistakes, testing::ValuesIn(all_mistakes()));

}  // namespace
}  // namespace quantbench
