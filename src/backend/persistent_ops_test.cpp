// Each op × format that the persistent engine knows against the reference, as a whole step of its own: the engine takes
// no less than a token's. An embedding and an attention come first, then the op, then a head that is the identity, so
// that the logits are the op's output, rounded to fp16.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/ops_fixture.h"
#include "backend/test_backends.h"

namespace quantbench {
namespace {

struct StepShape {
  const char* name;
  int hidden, heads, kv_heads, head_dim, rope_dims, ff;
  bool layer_norm, biased;
  Act act;
  bool like_t5 = false;  // distances in place of a rotation, a cross-attention, and fp32 weights behind the gate
  int before = 0;        // positions before the steps
};
// Those of Llama and Phi-2, the other head sizes, and T5; some with more positions than a block takes at a time.
constexpr StepShape kShapes[] = {{"llama", 512, 8, 2, 64, 64, 1024, false, false, Act::silu},
                                 {"phi", 1280, 16, 16, 80, 32, 768, true, true, Act::gelu_tanh},
                                 {"heads_of_32", 256, 8, 2, 32, 32, 512, false, true, Act::silu},
                                 {"heads_of_128", 256, 2, 1, 128, 128, 512, true, false, Act::gelu_tanh},
                                 {"heads_of_256", 256, 2, 1, 256, 256, 512, false, false, Act::gelu_tanh, false, 135},
                                 {"long_rows", 256, 2, 1, 64, 64, 9216, false, false, Act::gelu_tanh},
                                 {"t5", 512, 8, 8, 64, 0, 1024, false, false, Act::gelu_tanh, true},
                                 {"t5_relu", 256, 4, 4, 64, 0, 512, false, false, Act::relu, true, 135}};

struct StepCase {
  std::string_view backend;
  OpKind kind;
  Format format;
  StepShape shape;
};

constexpr int kLongRow = 8192;  // numbers: of longer ones the persistent engine makes LLM.int8's codes another way
constexpr int kSteps = 3, kVocab = 64;
constexpr int kSeen = 150, kStored = 160;  // positions of the cross-attention

class OneOp {
 public:
  OneOp(Backend& backend, const StepCase& c) : backend_(backend), case_(c) {
    Random random(11);
    const StepShape& s = c.shape;
    const int q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    switch (c.kind) {
      case OpKind::attention: width_ = q; break;
      case OpKind::add_linear: width_ = s.hidden; break;
      default: width_ = c.kind == OpKind::project && s.like_t5 ? q : s.ff; break;
    }
    const std::pair<int, int> sizes[] = {{q, s.hidden},    {kv, s.hidden},   {kv, s.hidden},
                                         {s.ff, s.hidden}, {s.ff, s.hidden}, {s.hidden, s.ff}};
    for (const auto& [n, k] : sizes) {
      const bool is_last = host_.size() + 1 == std::size(sizes);
      formats_.push_back(is_last && s.like_t5 ? Format::f32 : c.format);
      host_.push_back(std::make_unique<HostWeight>(formats_.back(), true, n, k, s.biased, random, backend.host_pool()));
    }
    std::vector<float> norm_weight(static_cast<size_t>(s.hidden)), norm_bias(norm_weight.size());
    for (float& w : norm_weight) w = random.uniform(0.5f, 1.5f);
    for (int i = 0; i < 3; ++i) norm_weight[static_cast<size_t>(random.below(s.hidden))] = 8;  // outliers
    for (float& b : norm_bias) b = random.uniform(-0.5f, 0.5f);
    norm_ = {upload(norm_weight), s.layer_norm ? upload(norm_bias) : nullptr, 1e-5f, s.layer_norm};
    table_values_.resize(size_t{kVocab} * static_cast<size_t>(s.hidden));
    for (f16& v : table_values_) v = to_f16(random.uniform(-2, 2));
    identity_.resize(static_cast<size_t>(width_) * static_cast<size_t>(width_));
    for (size_t i = 0; i < static_cast<size_t>(width_); ++i) identity_[i * static_cast<size_t>(width_) + i] = to_f16(1);
    std::vector<float> cos, sin;
    for (int p = 0; p < s.before + kSteps; ++p) {
      for (int i = 0; i < s.rope_dims / 2; ++i) {
        const double angle = p * std::pow(10000.0, -2.0 * i / s.rope_dims);
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    if (s.rope_dims > 0) rope_ = {s.rope_dims, upload(cos), upload(sin)};
    const auto cache = [&](int positions) {
      const size_t bytes = static_cast<size_t>(positions) * static_cast<size_t>(kv) * sizeof(f16);
      return KvLayer{
          static_cast<f16*>(allocate(bytes)), static_cast<f16*>(allocate(bytes)), 1, positions, s.kv_heads, s.head_dim};
    };
    kv_ = cache(s.before + kSteps);
    const auto out = [&](int cols) {
      return Tensor{allocate(static_cast<size_t>(cols) * sizeof(float)), DType::f32, 1, cols};
    };
    if (s.like_t5) {
      std::vector<float> values(static_cast<size_t>(kBiasBuckets * s.heads));
      for (float& v : values) v = random.uniform(-2, 2);
      std::vector<int32_t> buckets(2 * kBiasReach + 1);
      for (size_t i = 0; i < buckets.size(); ++i) buckets[i] = static_cast<int32_t>(i * 7 % kBiasBuckets);
      bias_ = {upload(values), upload(buckets), kBiasReach, kBiasBuckets};
      stored_ = cache(kStored);
      lengths_ = upload(std::vector<int32_t>{kSeen});
    }
    std::vector<float> rows(static_cast<size_t>(kStored * s.hidden));
    for (float& v : rows) v = random.uniform(-2, 2);
    many_x_ = {upload(rows), DType::f32, kStored, s.hidden};
    many_q_ = {allocate(static_cast<size_t>(kStored * q) * sizeof(float)), DType::f32, kStored, q};
    std::vector<int32_t> places(kStored);
    std::iota(places.begin(), places.end(), 0);
    many_rows_ = {upload(places), upload(places), upload(std::vector<int32_t>(kStored)), kStored};
    x_ = out(s.hidden), q_ = out(q), a_ = out(q), h_ = out(s.ff), logits_ = out(width_);
    rows_ = {upload(std::vector<int32_t>(1)), upload(std::vector<int32_t>(1)), upload(std::vector<int32_t>(1)), 1};
    token_ = buffers_[buffers_.size() - 3].get();
    position_ = buffers_[buffers_.size() - 2].get();
    load();
  }

  std::string_view engine() const { return engine_; }
  // The logits of a step a position, [kSteps, width].
  std::vector<float> run() {
    std::vector<float> all(size_t{kSteps} * static_cast<size_t>(width_));
    record_before(backend_.ops());
    for (int32_t p = 0; p < kSteps; ++p) {
      const int32_t token = p * 17 % kVocab, position = case_.shape.before + p;
      backend_.upload(*token_, 0, &token, sizeof token);
      backend_.upload(*position_, 0, &position, sizeof position);
      program_->run();
      backend_.synchronize();
      backend_.download(all.data() + static_cast<size_t>(p) * static_cast<size_t>(width_), logits_.data,
                        logits_.bytes());
    }
    return all;
  }

 private:
  const Rope* rope() const { return rope_.dims > 0 ? &rope_ : nullptr; }
  // What is in the caches before the steps.
  void record_before(Ops& ops) {
    const Linear *q = &linears_[0], *k = &linears_[1], *v = &linears_[2];
    if (stored_.k) ops.store_kv({stored_, many_x_, &norm_, k, v, many_rows_});
    const int before = case_.shape.before;
    if (before > 0)
      ops.qkv({many_q_.slice(0, before), kv_, many_x_.slice(0, before), &norm_, q, k, v, rope(),
               many_rows_.slice(0, before)});
  }
  void record_ops(Ops& ops) {
    const StepShape& s = case_.shape;
    const float scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
    ops.embed({.x = x_, .table = &table_, .scale = 1, .rows = rows_});
    ops.qkv({q_, kv_, x_, &norm_, &linears_[0], &linears_[1], &linears_[2], rope(), rows_});
    ops.attend({a_, q_, kv_, scale, rows_, nullptr, bias_.values ? &bias_ : nullptr});
    Tensor result = h_;
    switch (case_.kind) {
      case OpKind::attention: result = a_; break;
      case OpKind::gated_up: ops.gated_up({h_, x_, &norm_, &linears_[3], &linears_[4], s.act}); break;
      case OpKind::add_linear:
        if (s.like_t5 && s.act == Act::gelu_tanh)
          ops.gated_up({h_, x_, &norm_, &linears_[3], &linears_[4], s.act});
        else
          ops.project({h_, x_, &norm_, &linears_[3], s.like_t5 ? s.act : Act::none});
        ops.add_linear({x_, h_, &linears_[5]});
        result = x_;
        break;
      default:
        if (s.like_t5) {  // the query of a cross-attention
          ops.project({.y = q_, .x = x_, .norm = &norm_, .w = &linears_[0]});
          ops.attend({a_, q_, stored_, scale, rows_, lengths_});
          result = a_;
        } else {
          ops.project({h_, x_, &norm_, &linears_[3], s.act});
        }
        break;
    }
    ops.project({logits_, result, nullptr, &head_, Act::none});
    ops.next_token({.rows = rows_, .logits = logits_, .sampling = {}});
  }
  void load() {
    linears_.resize(host_.size());
    for (size_t i = 0; i < host_.size(); ++i) {
      Linear& linear = linears_[i];
      linear.biased = case_.shape.biased;
      const int n = host_[i]->n(), k = host_[i]->k();
      switch (formats_[i]) {
        case Format::f16: linear.weight = F16Matrix{n, k}; break;
        case Format::f32: linear.weight = F32Matrix{n, k}; break;
        case Format::bf16: linear.weight = Bf16Matrix{n, k}; break;
        case Format::int8: linear.weight = Int8Matrix{n, k}; break;
        case Format::nf4: linear.weight = Nf4Matrix{n, k}; break;
      }
    }
    const auto rows_of = [](const std::vector<f16>& values, int n, int k) {
      return HostF16{n, k, [&values, k](int first, int count, f16* out) {
                       std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(first) * k, count * k, out);
                     }};
    };
    table_ = F16Matrix{kVocab, case_.shape.hidden};
    head_.weight = F16Matrix{width_, width_};
    TapeOps shapes;
    record_ops(shapes);
    TapeOps before;
    record_before(before);
    const Plan plan = backend_.plan(shapes.tape(), 1, before.tape());
    for (size_t i = 0; i < host_.size(); ++i) {
      linears_[i].weight = backend_.pack(host_[i]->view(), Role::linear, plan);
      if (case_.shape.biased) linears_[i].bias = upload(host_[i]->bias());
    }
    table_ = backend_.pack(rows_of(table_values_, kVocab, case_.shape.hidden), Role::embedding, plan);
    head_.weight = backend_.pack(rows_of(identity_, width_, width_), Role::output_head, plan);
    TapeOps tape;
    record_ops(tape);
    before = {};
    record_before(before);
    const Plan step = backend_.plan(tape.tape(), 1, before.tape());
    engine_ = step.engines.front().name;
    program_ = backend_.record(step);
  }
  void* allocate(size_t bytes) {
    buffers_.push_back(backend_.allocate(Use::activations, bytes));
    return buffers_.back()->data();
  }
  template <typename T>
  T* upload(const std::vector<T>& values) {
    auto* const to = static_cast<T*>(allocate(values.size() * sizeof(T)));
    backend_.upload(*buffers_.back(), 0, values.data(), values.size() * sizeof(T));
    return to;
  }

  Backend& backend_;
  StepCase case_;
  int width_ = 0;  // of the op's output
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<Format> formats_;  // of these
  std::vector<std::unique_ptr<HostWeight>> host_;
  std::vector<f16> table_values_, identity_;
  std::vector<Linear> linears_;
  Matrix table_;
  Linear head_;
  Norm norm_;
  Rope rope_;
  Tensor x_, q_, a_, h_, logits_;
  KvLayer kv_;
  Rows rows_;
  DistanceBias bias_;
  KvLayer stored_;
  Tensor many_x_, many_q_;
  Rows many_rows_;
  int32_t* lengths_ = nullptr;
  Buffer *token_ = nullptr, *position_ = nullptr;
  std::string_view engine_;
  std::unique_ptr<Program> program_;
};

std::unique_ptr<Backend> persistent_backend(std::string_view name) {
#if defined(QB_HAS_CUDA_EMULATOR)
  if (name == kEmulatedCuda) return cuda_emulated::make_backend({.engine = "persistent"});
#endif
  return make_backend(name, {.engine = "persistent"});
}

class PersistentOpsTest : public testing::TestWithParam<StepCase> {
 protected:
  void SetUp() override {
    if (GetParam().backend != "cuda") return;
    if (!tests_cuda()) GTEST_SKIP() << why_not("cuda");
    if (make_backend("cuda", {})->device().features != "sm_90") GTEST_SKIP() << "the persistent engine is for sm_90";
  }
};

TEST_P(PersistentOpsTest, AgreesWithTheReference) {
  const auto reference = make_backend("reference", {}), backend = persistent_backend(GetParam().backend);
  const std::vector<float> expected = OneOp(*reference, GetParam()).run();
  OneOp op(*backend, GetParam());
  EXPECT_EQ(op.engine(), "persistent");
  const std::vector<float> found = op.run();
  EXPECT_EQ(op.run(), found) << "a second run differs";
  double square = 0, difference = 0, worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double apart = double{found[i]} - expected[i];
    square += double{expected[i]} * expected[i];
    difference += apart * apart;
    if (!(std::fabs(apart) <= worst)) worst = std::isnan(apart) ? INFINITY : std::fabs(apart);
  }
  const double rms = std::sqrt(square / static_cast<double>(expected.size()));
  // Outputs rounded to fp16 (2⁻¹¹ of the value); inputs and nf4's codes as well, which a sum evens out. LLM.int8's
  // outliers in another order round its sum the other way at times.
  EXPECT_LT(std::sqrt(difference / square), 1.5e-3);
  EXPECT_LT(worst, 3e-2 * rms);
}

std::vector<StepCase> cases(std::string_view backend) {
  std::vector<StepCase> all;
  for (const StepShape& shape : kShapes) {
    for (const Format format : {Format::f16, Format::int8, Format::nf4}) {
      for (const OpKind kind : {OpKind::attention, OpKind::add_linear, OpKind::gated_up, OpKind::project}) {
        // A gate without what follows it is as Llama's; the two like T5 differ in what comes before fp32 weights alone.
        if (shape.like_t5 && kind == OpKind::gated_up) continue;
        if (shape.like_t5 && shape.before == 0 && kind != OpKind::add_linear) continue;
        if (shape.ff > kLongRow && kind != OpKind::add_linear) continue;
        all.push_back({backend, kind, format, shape});
      }
    }
  }
  return all;
}
std::string name_of_step(const testing::TestParamInfo<StepCase>& test) {
  return fmt::format("{}_{}_{}", name_of(test.param.kind), name_of(test.param.format), test.param.shape.name);
}
INSTANTIATE_TEST_SUITE_P(cuda, PersistentOpsTest, testing::ValuesIn(cases("cuda")), name_of_step);
#if defined(QB_HAS_CUDA_EMULATOR)
INSTANTIATE_TEST_SUITE_P(emulated, PersistentOpsTest, testing::ValuesIn(cases(kEmulatedCuda)), name_of_step);
#endif

}  // namespace
}  // namespace quantbench
