#include "bench/explain_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "backend/test_backends.h"
#include "bench/engine_worker.h"
#include "bench/fake_worker.h"
#include "bench/metrics.h"
#include "checkpoint/random_weights.h"

namespace quantbench {
namespace {

Cell tiny_cell(Precision precision, const std::string& model = "llama-gqa") {
  Cell cell;
  cell.model.name = "tiny";
  cell.model.folder = QB_SOURCE_DIR "/testdata/models/" + model;
  cell.precision = precision;
  cell.test = {TestKind::generation, 3, 7};
  cell.prompt = {5, 6, 7};
  return cell;
}

std::unique_ptr<EngineWorker> worker_on(const std::string& backend) {
  return std::make_unique<EngineWorker>(EngineOptions{"auto", 1}, [backend](std::string_view, const BackendOptions&) {
    return ChosenDevice{make_test_backend(backend), ""};
  });
}

// NOLINTNEXTLINE(bugprone-exception-escape): what moving it calls is its members', which throw nothing
struct Measured {
  CellData data;
  Record part;
};
Measured measured(const Cell& cell, const std::string& backend) {
  const auto worker = worker_on(backend);
  Measured m;
  m.data.plan = worker->plan(cell);
  m.data.load = worker->load({});
  if (!cell.context.empty()) worker->fill_context(cell.context);
  m.data.runs.resize(1);
  m.data.runs[0].report = worker->generate(cell.prompt, cell.test.new_tokens, {});
  m.data.memory = worker->memory();
  m.data.explain = worker->explain(cell.prompt, cell.test.new_tokens);
  // What looks into steps leaves the session as it was.
  EXPECT_EQ(worker->generate(cell.prompt, cell.test.new_tokens, {}).run.tokens, m.data.runs[0].report.run.tokens);
  m.part = explain_part(cell, m.data, 0.5);
  return m;
}

double sum_of(const Record& object, const char* member = nullptr) {
  double sum = 0;
  for (const auto& [name, value] : object.items()) sum += member ? value.at(member).get<double>() : value.get<double>();
  return sum;
}

class Explain : public testing::TestWithParam<std::string> {};

TEST_P(Explain, SharesAndBytesOfThePartsAddUpInEveryFamily) {
  for (const char* model : {"llama-gqa", "phi", "t5"}) {
    for (const Precision precision : {Precision::fp16, Precision::int8, Precision::nf4}) {
      Cell cell = tiny_cell(precision, model);
      const Measured m = measured(cell, GetParam());
      ASSERT_TRUE(m.part.is_object()) << model;
      const Record& time = m.part["time"];
      EXPECT_NEAR(sum_of(time["parts"], "share"), 1, 1e-12) << "seven rounded quotients";
      EXPECT_DOUBLE_EQ(sum_of(time["parts"], "ns"), time["parts_ns"].get<double>());
      EXPECT_GE(time["rounds"], 5);
      for (const char* part : {"embedding", "qkv", "attention", "output_linear", "mlp", "head", "choice"}) {
        EXPECT_GT(time["parts"][part]["ns"], 0) << model << " " << part;
      }
      // Sums of whole numbers and halves of them, far below 2⁵³.
      EXPECT_EQ(sum_of(m.part["bytes"]), *bytes_per_step(m.data.runs[0], m.data)) << model;
      EXPECT_EQ(m.part["outliers"].is_object(), precision == Precision::int8);
    }
  }
}

TEST_P(Explain, HoldsForTheFewestTokensABatchAndAContext) {
  Cell cell = tiny_cell(Precision::int8);
  cell.test = {TestKind::generation, 3, 2, 4, 2};
  cell.prompt = {5, 6, 7, 8, 9, 10};
  cell.context = {1, 2, 3, 4, 5, 6, 7, 8};
  const Measured m = measured(cell, GetParam());
  EXPECT_EQ(sum_of(m.part["bytes"]), *bytes_per_step(m.data.runs[0], m.data));
  EXPECT_EQ(m.part["outliers"]["steps"], 1);
  EXPECT_TRUE(m.part["predictions"].is_null()) << "of a batch";
}

TEST_P(Explain, CountsPlantedOutliers) {
  Cell cell = tiny_cell(Precision::int8);
  cell.model.random_weights = true;
  const auto planted = [&](int channels) {
    cell.model.outlier_channels = channels;
    const ExplainReport r = *measured(cell, GetParam()).data.explain;
    return std::pair{r.outliers[StepPart::qkv], r.outliers[StepPart::mlp]};
  };
  const Shape shape = worker_on(GetParam())->plan(cell).shape;
  const int64_t inputs = int64_t{6} * shape.layers;  // steps × layers: as many inputs of each of these parts
  const auto [qkv, mlp] = planted(0);
  EXPECT_EQ(qkv.columns, inputs * shape.hidden);
  EXPECT_EQ(mlp.columns, inputs * shape.hidden);
  EXPECT_EQ(qkv.outliers, 0) << "a norm weight of about 1 would need 5 or more standard deviations";
  const auto [with_qkv, with_mlp] = planted(3);
  // A value of a planted channel reaches 6 with 85 % of a normal distribution: of 3 channels in so many inputs no more
  // than all, and no fewer than half.
  for (const OutlierCount& count : {with_qkv, with_mlp}) {
    EXPECT_LE(count.outliers, 3 * inputs);
    EXPECT_GE(count.outliers, 3 * inputs / 2);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, Explain, testing::Values("reference", "cpu"),
                         [](const auto& of) { return of.param; });

#if defined(QB_HAS_CUDA_EMULATOR)
TEST(ExplainOnAGpu, LaunchesOfTheStepAreThoseOfItsParts) {
  const Measured m = measured(tiny_cell(Precision::fp16), std::string(kEmulatedCuda));
  const int launches = m.part["launches_per_step"];
  const Record& time = m.part["time"];
  EXPECT_EQ(time["engine"], "graph");
  int of_parts = 0;
  for (const auto& [name, part] : time["parts"].items()) {
    EXPECT_GE(part["launches"], 1) << name;
    of_parts += part["launches"].get<int>();
  }
  // A part apart may have to make ready what in a step the part before it leaves: a kernel for an op at the most.
  const int layers = m.data.plan->shape.layers;
  EXPECT_GE(launches, 3 + 4 * layers) << "embedding, head and choice, and of a layer four at least";
  EXPECT_GE(of_parts, launches);
  EXPECT_LE(of_parts, 2 * launches);
}
#endif

TEST(ExplainRecord, PredictsFromBytesShareAndPublishedBandwidth) {
  FakeWorker worker;
  Cell cell;
  cell.test = {TestKind::generation, 3, 6};
  cell.prompt = {1, 2, 3};
  CellData data;
  data.plan = worker.plan(cell);
  data.load = worker.load({});
  data.memory = worker.memory();
  data.memory->load_peak_bytes = int64_t{20} << 30;
  data.runs.resize(1);
  data.runs[0].report = worker.generate(cell.prompt, 6, {});
  const Record part = explain_part(cell, data, 0.8);
  const double bytes = 2'000'000 + (3 + 6 / 2.0) * 1000;
  EXPECT_DOUBLE_EQ(part["bytes_per_step"].get<double>(), bytes);
  const ExplainView view = explain_view_of(part);
  ASSERT_EQ(view.predictions.size(), 3u);
  EXPECT_EQ(view.predictions[0].card, "RTX 2080 Ti");
  EXPECT_DOUBLE_EQ(view.predictions[0].tokens_per_second, 616e9 * 0.8 / bytes);
  EXPECT_FALSE(view.predictions[0].fits) << "20 GiB into 11";
  EXPECT_TRUE(view.predictions[2].fits);
  EXPECT_TRUE(explain_part(cell, data, {})["predictions"].is_null());
  EXPECT_TRUE(part["time"].is_null()) << "not asked for";
  data.runs.clear();
  EXPECT_TRUE(explain_part(cell, data, 0.8).is_null());
}

}  // namespace
}  // namespace quantbench
