#include "checkpoint/renamed_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/random_weights.h"
#include "core/error.h"

namespace quantbench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::unique_ptr<WeightSource> source_of(std::initializer_list<const char*> names) {
  std::vector<RandomTensor> tensors;
  for (const char* name : names) tensors.push_back({.name = name, .rows = 2, .cols = 3});
  return std::make_unique<RandomWeights>(1, tensors);
}

const RenamedPrefix kRules[] = {{"model.tower.", "tower.inner."}, {"tower.", "tower.inner."}, {"head.", "text.head."}};

TEST(RenamedSource, GivesTheModelsNamesToTheFilesTensors) {
  const auto plain = source_of({"model.tower.a.weight", "head.weight", "other"});
  const auto source = renamed(source_of({"model.tower.a.weight", "head.weight", "other"}), kRules);
  EXPECT_THAT(source->names(), ElementsAre("other", "text.head.weight", "tower.inner.a.weight"));
  EXPECT_FALSE(source->find("head.weight"));
  ASSERT_TRUE(source->find("tower.inner.a.weight"));
  std::vector<f16> ours(6), files(6);
  source->read_f16("tower.inner.a.weight", 0, 2, ours.data());
  plain->read_f16("model.tower.a.weight", 0, 2, files.data());
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_EQ(ours[i].bits, files[i].bits);
}

TEST(RenamedSource, NamesThatAreTheModelsStay) {
  auto source = source_of({"tower.inner.a.weight", "text.head.weight"});
  const WeightSource* const before = source.get();
  EXPECT_EQ(renamed(std::move(source), kRules).get(), before);
}

TEST(RenamedSource, AModuleIsKnownByEveryNameThatFilesHaveForIt) {
  EXPECT_THAT(names_in_files("text.head", kRules), ElementsAre("text.head", "head"));
  EXPECT_THAT(names_in_files("tower.inner.a", kRules), ElementsAre("tower.inner.a", "model.tower.a", "tower.a"));
  EXPECT_THAT(names_in_files("other", kRules), ElementsAre("other"));
}

TEST(RenamedSource, OneWeightByTwoNamesIsRefused) {
  try {
    renamed(source_of({"tower.a.weight", "model.tower.a.weight"}), kRules);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_model);
    EXPECT_THAT(error.what(), HasSubstr("the same weight by two names"));
  }
}

}  // namespace
}  // namespace quantbench
