#include "model/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "model/registry.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const std::string kModels = std::string(QB_SOURCE_DIR) + "/testdata/models/";

// fp16 tensors in memory, so that each can be broken.
class MemorySource final : public WeightSource {
 public:
  std::map<std::string, std::pair<TensorInfo, std::vector<f16>>> tensors;

  explicit MemorySource(Model& model) {
    for (const WeightSlot& slot : model.weights()) {
      if (slot.tied_to.empty()) add(slot.name, slot.rows, slot.cols);
    }
  }
  void add(const std::string& name, int rows, int cols) {
    std::vector<f16> values(static_cast<size_t>(rows) * static_cast<size_t>(cols));
    for (size_t i = 0; i < values.size(); ++i) values[i] = to_f16(static_cast<float>((i * 7 + 3) % 11) - 5);
    const std::vector<int64_t> shape = rows == 1 ? std::vector<int64_t>{cols} : std::vector<int64_t>{rows, cols};
    tensors[name] = {TensorInfo{DType::f16, shape}, std::move(values)};
  }
  int64_t bytes() const {
    int64_t sum = 0;
    for (const auto& [name, tensor] : tensors) sum += byte_count(tensor.first);
    return sum;
  }

  std::string where() const override { return "memory"; }
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [name, tensor] : tensors) out.push_back(name);
    return out;
  }
  std::optional<TensorInfo> find(const std::string& name) const override {
    const auto at = tensors.find(name);
    return at == tensors.end() ? std::nullopt : std::optional(at->second.first);
  }
  void read_f16(const std::string& name, int64_t first, int64_t count, f16* out) const override {
    const auto& [info, values] = tensors.at(name);
    const int64_t cols = info.shape.back();
    std::copy_n(values.begin() + first * cols, count * cols, out);
  }
  void read_bf16(const std::string& name, int64_t first, int64_t count, bf16* out) const override {
    const auto& [info, values] = tensors.at(name);
    const int64_t cols = info.shape.back();
    std::transform(values.begin() + first * cols, values.begin() + (first + count) * cols, out,
                   [](f16 v) { return to_bf16(to_float(v)); });
  }
  void read_f32(const std::string&, int64_t, int64_t, float*) const override { FAIL(); }
  void read_bytes(const std::string&, int64_t, std::span<std::byte>) const override { FAIL(); }
};

ModelConfig tiny_llama(bool tied) {
  return {{{"architectures", {"LlamaForCausalLM"}},
           {"hidden_size", 32},
           {"intermediate_size", 48},
           {"num_hidden_layers", 2},
           {"num_attention_heads", 4},
           {"num_key_value_heads", 2},
           {"head_dim", 8},
           {"vocab_size", 50},
           {"max_position_embeddings", 64},
           {"rms_norm_eps", 1e-5},
           {"hidden_act", "silu"},
           {"attention_bias", true},
           {"tie_word_embeddings", tied},
           {"rope_theta", 1e4}},
          nullptr,
          "m/config.json"};
}

struct Tiny {
  std::unique_ptr<Backend> backend = make_backend("reference", {});
  std::unique_ptr<Model> model;
  MemorySource source;

  explicit Tiny(bool tied, Precision precision = Precision::fp16)
      : model(make_model(tiny_llama(tied), precision)), source(*model) {}
  LoadReport load(const LoadProgress& progress = {}) {
    return quantbench::load(*model, source, *backend, backend->plan(decode_shapes(*model), 1), progress);
  }
  std::string refusal() {
    try {
      load();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_model);
      EXPECT_EQ(backend->memory().total(), 0u) << "refused only after something was packed";
      return error.what();
    }
    return "accepted";
  }
};

TEST(Loader, TakesWhatTheFormatsPredictInEveryPrecision) {
  for (const Precision precision : {Precision::fp16, Precision::bf16, Precision::int8, Precision::nf4}) {
    for (const bool tied : {false, true}) {
      Tiny tiny(tied, precision);
      const MemoryUse predicted = tiny.backend->plan(decode_shapes(*tiny.model), 1).predicted;
      const LoadReport report = tiny.load();
      EXPECT_EQ(report.resident.bytes, predicted.bytes) << name_of(precision) << " " << tied;
      EXPECT_EQ(tiny.backend->memory().bytes, predicted.bytes);
      EXPECT_EQ(report.bytes_read, tiny.source.bytes());
      EXPECT_GT(report.duration_ns, 0);
    }
  }
}

TEST(Loader, ProgressRisesToTheTotalFromOneThread) {
  Tiny tiny(false, Precision::int8);
  int64_t last = 0, total = 0;
  const auto thread = std::this_thread::get_id();
  tiny.load([&](int64_t done, int64_t of) {
    EXPECT_TRUE(std::this_thread::get_id() == thread);
    EXPECT_GE(done, last);
    last = done, total = of;
  });
  EXPECT_EQ(total, tiny.source.bytes());
  EXPECT_EQ(last, total);
}

TEST(Loader, AWrongShapeIsRefusedWithNameFoundAndExpected) {
  Tiny tiny(false);
  tiny.source.add("model.layers.1.mlp.up_proj.weight", 48, 31);
  EXPECT_THAT(tiny.refusal(),
              AllOf(HasSubstr("'model.layers.1.mlp.up_proj.weight'"), HasSubstr("[48, 31]"), HasSubstr("[48, 32]")));
}

TEST(Loader, ATypeThatIsNoWeightsIsRefusedBeforeAnythingIsRead) {
  for (const DType dtype : {DType::i16, DType::f64, DType::i8, DType::boolean}) {
    Tiny tiny(false);
    tiny.source.tensors["model.norm.weight"].first.dtype = dtype;
    EXPECT_THAT(tiny.refusal(),
                HasSubstr(fmt::format("'model.norm.weight' is {}, expected F32, F16 or BF16", name_of(dtype))));
  }
}

TEST(Loader, AnEmbeddingOfAnotherVocabularyIsRefused) {
  Tiny tiny(true);
  tiny.source.add("model.embed_tokens.weight", 51, 32);
  EXPECT_THAT(tiny.refusal(), AllOf(HasSubstr("1 tensor has another shape"), HasSubstr("'model.embed_tokens.weight'"),
                                    HasSubstr("[51, 32]"), HasSubstr("[50, 32]")));
}

TEST(Loader, MissingAndUnknownTensorsAreRefusedByName) {
  Tiny tiny(false);
  tiny.source.tensors.erase("model.layers.0.self_attn.k_proj.bias");
  EXPECT_THAT(tiny.refusal(), AllOf(HasSubstr("missing"), HasSubstr("'model.layers.0.self_attn.k_proj.bias'")));
  Tiny more(false);
  more.source.add("model.layers.0.self_attn.q_norm.weight", 1, 8);
  EXPECT_THAT(more.refusal(), HasSubstr("'model.layers.0.self_attn.q_norm.weight' is no tensor of the model"));
  more.source.add("model.layers.0.self_attn.k_norm.weight", 1, 8);
  EXPECT_THAT(more.refusal(), AllOf(HasSubstr("k_norm.weight', 'model.layers.0.self_attn.q_norm.weight' are not "
                                              "tensors of the model"),
                                    HasSubstr("leaving them out")));
  Tiny old(false);
  old.source.add("model.layers.0.self_attn.rotary_emb.inv_freq", 1, 4);
  // Which the first T5 has in its first layer, and transformers 5.17 ignores there alone.
  old.source.add("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", 32, 4);
  EXPECT_EQ(old.refusal(), "accepted");
  Tiny other(false);
  other.source.add("decoder.block.1.layer.1.EncDecAttention.relative_attention_bias.weight", 32, 4);
  EXPECT_THAT(other.refusal(), HasSubstr("'decoder.block.1.layer.1.EncDecAttention.relative_attention_bias.weight'"));
}

TEST(Loader, ATiedHeadThatIsThereMustEqualTheEmbedding) {
  Tiny tiny(true);
  tiny.source.tensors["lm_head.weight"] = tiny.source.tensors["model.embed_tokens.weight"];
  EXPECT_EQ(tiny.refusal(), "accepted");
  Tiny other(true);
  other.source.tensors["lm_head.weight"] = other.source.tensors["model.embed_tokens.weight"];
  other.source.tensors["lm_head.weight"].second[32 * 7 + 5].bits ^= 1;
  try {
    other.load();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_model);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("'lm_head.weight' differs"), HasSubstr("row 7, column 5")));
  }
}

TEST(Loader, PrequantisedWeightsRunInTheirOwnPrecisionOnly) {
  for (const auto& [folder, right] : {std::pair{"llama-gqa-int8", Precision::int8},
                                      {"llama-gqa-nf4", Precision::nf4},
                                      {"llama-gqa-nf4-plain", Precision::nf4}}) {
    const auto checkpoint = Checkpoint::open(kModels + folder);
    for (const Precision asked : {Precision::fp16, Precision::int8, Precision::nf4}) {
      if (asked == right) continue;
      try {
        make_model(config_of(*checkpoint), asked, checkpoint->prequantized());
        ADD_FAILURE() << folder << " as " << name_of(asked);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage);
        EXPECT_THAT(error.what(), HasSubstr("--precision " + std::string(name_of(right)) + " only"));
      }
    }
    const auto model = make_model(config_of(*checkpoint), right, checkpoint->prequantized());
    const auto backend = make_backend("reference", {});
    int64_t stored = 0;
    for (const std::string& name : checkpoint->names()) stored += byte_count(*checkpoint->find(name));
    const LoadReport report = load(*model, *checkpoint, *backend, backend->plan(decode_shapes(*model), 1));
    EXPECT_EQ(report.bytes_read, stored);
  }
}

}  // namespace
}  // namespace quantbench
