// What models take, beside what transformers takes of a GPU.
#include <gtest/gtest.h>

#include "backend/test_backends.h"
#include "checkpoint/checkpoint.h"
#include "engine/buffers.h"
#include "engine/session.h"
#include "engine/test_goldens.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {
namespace {

MemoryUse predicted(Backend& backend, Model& model, int prompt, int new_tokens) {
  const StateShape run = session_shape(model.shape(), 1, 0, prompt, new_tokens);
  const Plan plan = backend.plan(decode_shapes(model, 1), run.rows, encode_shapes(model, run.encoder_rows));
  return predict_memory(plan, model, run);
}

// The most that transformers 5.17 with bitsandbytes 0.50 had allocated on an H100 while it generated 64 tokens behind
// 8 of text, or 256 of a picture and 4 of text (ours are 8), in GiB.
struct Most {
  const char* model;
  int prompt;
  double fp16, int8, nf4;
};
constexpr Most kTransformers[] = {{"google/flan-t5-base", 8, 0.57, 0.42, 0.35},
                                  {"google/paligemma-3b-pt-224", 264, 5.51, 3.31, 2.26}};

TEST(Memory, OfModelsWithAnEncoderIsLessThanTransformersHas) {
  constexpr double kGiB = 1 << 30;
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(make_backend("cpu", {.threads = 2}));
#if defined(QB_HAS_CUDA_EMULATOR)
  backends.push_back(cuda_emulated::make_backend({.gpu = cuda_emulated::kEmulatedHopper}));
#endif
  for (const auto& backend : backends) {
    for (const Most& most : kTransformers) {
      for (const auto& [precision, gib] :
           {std::pair{Precision::fp16, most.fp16}, {Precision::int8, most.int8}, {Precision::nf4, most.nf4}}) {
        const auto model = make_model(published_config(most.model), precision);
        const MemoryUse use = predicted(*backend, *model, most.prompt, 64);
        // What is not predicted: the code that runs, what a driver takes with the first run.
        constexpr double kMargin = 8.0 * (1 << 20);
        EXPECT_LT(static_cast<double>(use.total()) + kMargin, gib * kGiB)
            << most.model << " " << name_of(precision) << " " << backend->device().name;
      }
    }
  }
}

#if defined(QB_HAS_CUDA_EMULATOR)
// Weights are cut from one block as large as they are.
TEST(Memory, OfADeviceHasNothingLeftOverBetweenWeights) {
  for (const Precision precision : {Precision::fp16, Precision::int8, Precision::nf4}) {
    const auto backend = cuda_emulated::make_backend({});
    const auto checkpoint = Checkpoint::open(kGoldenModels + "paligemma");
    const auto model = make_model(config_of(*checkpoint), precision);
    const StateShape run = session_shape(model->shape(), 1, 0, 28, 4);
    const Plan plan = backend->plan(decode_shapes(*model), run.rows, encode_shapes(*model, run.encoder_rows));
    load(*model, *checkpoint, *backend, plan);
    const Session session(*backend, *model, run);
    const auto held = static_cast<size_t>(backend->device_use()->held_bytes), booked = backend->memory().total();
    // The backend's tables have a block of 2 MiB.
    EXPECT_LT(held - booked, (size_t{2} << 20) + (size_t{64} << 10));
    EXPECT_EQ(booked, predict_memory(plan, *model, run).total());
  }
}
#endif

}  // namespace
}  // namespace quantbench
