// bf16 as a precision: its logits are those of fp16 with weights that both types hold, since activations and sums are
// the same. On the host's backends to the bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "backend/test_backends.h"
#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "engine/relative_error.h"
#include "engine/test_encoder_goldens.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {
namespace {

// A checkpoint's numbers rounded to bf16, and what is below fp16's normal numbers to those: both types hold them.
class HeldByBoth : public WeightSource {
 public:
  explicit HeldByBoth(const WeightSource& source) : source_(source) {}
  std::string where() const override { return source_.where(); }
  std::vector<std::string> names() const override { return source_.names(); }
  std::optional<TensorInfo> find(const std::string& name) const override { return source_.find(name); }
  void read_f16(const std::string& name, int64_t first, int64_t count, f16* out) const override {
    const std::vector<bf16> rounded = read(name, first, count);
    std::transform(rounded.begin(), rounded.end(), out, [](bf16 b) { return to_f16(to_float(b)); });
  }
  void read_bf16(const std::string& name, int64_t first, int64_t count, bf16* out) const override {
    const std::vector<bf16> rounded = read(name, first, count);
    std::transform(rounded.begin(), rounded.end(), out, [](bf16 b) { return to_bf16(to_float(to_f16(to_float(b)))); });
  }
  void read_f32(const std::string& name, int64_t first, int64_t count, float* out) const override {
    source_.read_f32(name, first, count, out);
  }
  void read_bytes(const std::string& name, int64_t at, std::span<std::byte> out) const override {
    source_.read_bytes(name, at, out);
  }

 private:
  std::vector<bf16> read(const std::string& name, int64_t first, int64_t count) const {
    const TensorInfo info = *find(name);
    const int64_t rows = info.shape.size() < 2 ? 1 : info.shape[0];
    std::vector<bf16> values(static_cast<size_t>(element_count(info) / rows * count));
    source_.read_bf16(name, first, count, values.data());
    return values;
  }
  const WeightSource& source_;
};

struct Case {
  std::string backend, model;
  bool steps;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.backend << "_" << c.model << (c.steps ? "_step_by_step" : "_in_full");
}

bool has_encoder(const std::string& model) { return model.starts_with("t5") || model == "paligemma"; }

std::vector<float> logits_of(const Case& c, Precision precision) {
  const auto backend = make_test_backend(c.backend);
  if (has_encoder(c.model)) {
    EncoderGolden golden(*backend, c.model, precision, {},
                         [](const WeightSource& source) { return std::make_unique<HeldByBoth>(source); });
    return golden.logits(0, c.steps);
  }
  constexpr int kTokens = 24;
  const auto checkpoint = Checkpoint::open(kGoldenModels + c.model);
  const auto model = make_model(config_of(*checkpoint), precision);
  load(*model, HeldByBoth(*checkpoint), *backend, backend->plan(decode_shapes(*model), kTokens));
  Session session(*backend, *model, {.rows = kTokens, .logit_rows = 16, .sequences = 1, .positions = kTokens});
  const std::vector<int32_t> ids = Golden(c.model).read<int32_t>("ids");
  return session.logits(std::span(ids).first(kTokens), c.steps);
}

class Bf16 : public testing::TestWithParam<Case> {};

TEST_P(Bf16, LogitsAreThoseOfFp16WithTheSameWeights) {
  const Case& c = GetParam();
  const auto fp16 = logits_of(c, Precision::fp16), bf16 = logits_of(c, Precision::bf16);
  ASSERT_EQ(bf16.size(), fp16.size());
  if (c.backend == "cpu" || c.backend == "reference") {
    EXPECT_EQ(bf16, fp16);
  } else {
    // A GPU's kernels for the two add up in different orders, and an activation may be rounded to fp16 the other way.
    EXPECT_LE(relative_error(bf16, fp16), 2e-3);
  }
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const std::string& backend : test_backend_names()) {
    for (const bool steps : {false, true}) {
      for (const char* model : {"llama-gqa", "llama-untied", "phi", "qwen2", "t5", "t5-relu-tied", "paligemma"}) {
        // 136 steps take the emulator a minute.
        if (backend != kEmulatedCuda || !steps || std::string(model) != "t5") cases.push_back({backend, model, steps});
      }
    }
  }
  return cases;
}

std::string name_of_case(const testing::TestParamInfo<Case>& info) {
  std::string name = testing::PrintToString(info.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, Bf16, testing::ValuesIn(all_cases()), name_of_case);

// The second row of one matrix has a number beyond fp16.
class OneIsLarge final : public HeldByBoth {
 public:
  using HeldByBoth::HeldByBoth;
  void read_bf16(const std::string& name, int64_t first, int64_t count, bf16* out) const override {
    HeldByBoth::read_bf16(name, first, count, out);
    if (name == "model.layers.0.mlp.up_proj.weight" && first <= 1 && first + count > 1) {
      out[(1 - first) * find(name)->shape[1] + 2] = to_bf16(-65536.0f);
    }
  }
};
class MultipliesAsFp16 final : public MistakenBackend {
  float largest_bf16() const override { return kMaxF16; }
};

TEST(Bf16Range, AWeightThatADeviceCannotMultiplyIsRefusedByName) {
  const auto checkpoint = Checkpoint::open(kGoldenModels + "llama-gqa");
  const auto load_on = [&](Backend& backend) {
    const auto model = make_model(config_of(*checkpoint), Precision::bf16);
    load(*model, OneIsLarge(*checkpoint), backend, backend.plan(decode_shapes(*model), 1));
  };
  load_on(*make_backend("reference", {}));
  MultipliesAsFp16 backend;
  try {
    load_on(backend);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_model);
    EXPECT_THAT(error.what(), testing::HasSubstr("'model.layers.0.mlp.up_proj.weight' element [1, 2] is -65536;"));
  }
}

}  // namespace
}  // namespace quantbench
